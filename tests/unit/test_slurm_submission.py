"""What a submission refuses, writes and remembers, with stand-ins for Slurm's clients."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from nanotron_zagreus.cli.app import run
from nanotron_zagreus.config import dump_config, load_config, load_config_text
from tests.unit.checkpoint_fixtures import write_descriptions
from tests.unit.data_fixtures import write_shard
from tests.unit.slurm_stand_ins import SlurmClients

FOLDERS = ["tokenized/por", "tokenized/eng", "tokenized/code"]
LAUNCH = ("--config-file", "run.yaml", "--nodes", "8", "--gpus-per-node", "8")
CHAIN = ("--convert", "hf", "--evaluate", "progression-por")


class Desk:
    """A folder to submit from: site file, environment, configuration and data are there."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.slurm = SlurmClients(folder / "clients")
        self.jobs = folder / "slurm_jobs" / "pretraining"
        (folder / "venv" / "bin").mkdir(parents=True)
        (folder / "venv" / "bin" / "activate").touch()
        self.site()
        data = yaml.safe_load(dump_config(load_config("zagreus_350M_por.yaml")))
        data["general"]["run"] = "pretraining"
        data["checkpoints"] |= {"checkpoints_path": "checkpoints", "checkpoints_path_is_shared_file_system": True}
        data["data_stages"][0]["data"]["dataset"]["dataset_folder"] = FOLDERS
        data["zagreus"]["max_source_epochs"] = 1e9
        self.data = data
        self.config(data)
        for name in FOLDERS:
            self.shard(name)

    def site(self, **changes: object) -> None:
        site = {"account": "mii", "partition": "boost", "time_limit": "4-00:00:00", "venv": str(self.folder / "venv")}
        text = yaml.safe_dump({**site, "hf_home": None, "offline": False, **changes})
        (self.folder / "slurm_site.yaml").write_text(text)

    def config(self, data: dict[str, object]) -> None:
        (self.folder / "run.yaml").write_text(yaml.safe_dump(data))

    def shard(self, name: str) -> None:
        tokenizer = self.data["tokenizer"]["tokenizer_name_or_path"]
        write_shard(self.folder / name, 0, 5000, tokenizer=tokenizer, token_size=4)

    def slurm_command(self, command: str, *options: str, code: int = 0) -> tuple[str, str]:
        """Run a command, expect an exit code, return what it printed."""
        self.capsys.readouterr()
        ended = run(["slurm", command, *LAUNCH, *options])
        printed = self.capsys.readouterr()
        assert ended == code, printed
        return printed.out, printed.err

    def submit(self, *options: str, code: int = 0) -> tuple[str, str]:
        return self.slurm_command("submit", *options, code=code)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    desk = Desk(tmp_path, capsys)
    monkeypatch.setenv("PATH", f"{desk.slurm.folder}:{os.environ['PATH']}")
    return desk


def test_every_script_is_tried_before_anything_is_written(desk: Desk) -> None:
    (desk.slurm.folder / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: no such partition' >&2\nexit 1\n")
    _, error = desk.submit(*CHAIN, code=2)
    assert "Slurm refuses it" in error and "no such partition" in error
    assert not desk.jobs.exists()


def test_a_variable_of_the_shell_overrules_no_script(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch prefers SBATCH_ACCOUNT to a script's account; where the site names none, it is how a user says his."""
    monkeypatch.setenv("SBATCH_ACCOUNT", "another")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "5")
    desk.slurm.answer_trials('[ -z "${SBATCH_ACCOUNT:-}${SBATCH_TIMELIMIT:-}" ] || exit 1')
    desk.submit(*CHAIN)
    desk.site(account=None)
    desk.slurm.answer_trials('[ "${SBATCH_ACCOUNT:-}${SBATCH_TIMELIMIT:-}" = another ] || exit 1')
    desk.slurm_command("check", *CHAIN)


def test_a_chain_waits_for_each_other_and_is_remembered(desk: Desk) -> None:
    out, _ = desk.submit(*CHAIN, "--json")
    assert json.loads(out)["jobs"] == {"train": "11", "convert": "12", "evaluate": "13"}
    assert json.loads((desk.jobs / "jobs.json").read_text()) == json.loads(out)["jobs"]
    tried = [call for call in desk.slurm.calls("sbatch") if "--test-only" in call]
    train, convert, evaluate = [call for call in desk.slurm.calls("sbatch") if "--test-only" not in call]
    assert len(tried) == 3
    assert "dependency" not in train
    assert "--dependency=afterok:11 --kill-on-invalid-dep=yes" in convert
    assert "--dependency=afterok:12 --kill-on-invalid-dep=yes" in evaluate


def test_a_run_whose_jobs_have_not_ended_is_not_submitted_again(desk: Desk) -> None:
    """Its queued job would read the new configuration, and two jobs would train into one folder."""
    desk.submit(*CHAIN)
    before = (desk.jobs / "config.yaml").read_text()
    desk.data["tokens"]["train_steps"] = 7_000
    desk.config(desk.data)
    desk.slurm.queue.write_text("11\n13\n")
    for command, options in (("submit", ()), ("render", ("--write",))):
        _, error = desk.slurm_command(command, *options, code=2)
        assert "train 11, evaluate 13" in error and "scancel 11 13" in error
    assert (desk.jobs / "config.yaml").read_text() == before
    desk.slurm.queue.write_text("")
    desk.submit()
    assert (desk.jobs / "config.yaml").read_text() != before


def test_a_variable_of_the_shell_hides_no_job(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    monkeypatch.setenv("SCANCEL_USER", "another")
    desk.submit()
    assert "train 11" in desk.submit(code=2)[1]
    desk.slurm.queue.write_text("")
    desk.slurm.refuse("convert.sbatch")
    desk.submit(*CHAIN, code=1)
    assert desk.slurm.queue.read_text() == "", "what was submitted before was cancelled"


def test_a_damaged_list_of_what_was_submitted_is_no_leave_to_submit(desk: Desk) -> None:
    desk.submit()
    for text in ("", "[]", '{"train": null}'):
        (desk.jobs / "jobs.json").write_text(text)
        error = desk.submit(code=2)[1]
        assert f"{desk.jobs}/jobs.json: not readable" in error and "squeue --me" in error
    (desk.jobs / "jobs.json").unlink()
    desk.submit()


def test_jobs_that_squeue_cannot_tell_about_are_taken_to_be_there(desk: Desk) -> None:
    desk.submit()
    squeue = desk.slurm.folder / "squeue"
    squeue.write_text("#!/bin/bash\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    assert "cannot say whether job 11 has ended" in desk.submit(code=1)[1]
    squeue.write_text("#!/bin/bash\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n")
    desk.submit()


def test_a_chain_that_slurm_takes_in_part_is_taken_back(desk: Desk) -> None:
    desk.slurm.refuse("evaluate.sbatch")
    _, error = desk.submit(*CHAIN, code=1)
    assert "evaluate.sbatch: sbatch failed: sbatch: error: limit" in error
    assert "train 11, convert 12" in error and "were cancelled" in error
    assert desk.slurm.calls("scancel") == ["12 11"]


def test_a_chain_that_cannot_be_taken_back_says_which_jobs_are_queued(desk: Desk) -> None:
    desk.slurm.refuse("evaluate.sbatch")
    (desk.slurm.folder / "scancel").write_text("#!/bin/bash\nexit 1\n")
    _, error = desk.submit(*CHAIN, code=1)
    assert "train 11, convert 12" in error and "still queued" in error
    assert "train 11, convert 12" in desk.submit(code=2)[1]


def test_all_arrays_of_a_tokenization_are_waited_for(desk: Desk) -> None:
    (desk.folder / FOLDERS[0] / "00000_unshuffled.ds").unlink()
    _, error = desk.submit("--after", "4711:4712", "--after", "8")
    assert "notice data_stages" in error
    assert "--dependency=afterok:4711:4712:8 --kill-on-invalid-dep=yes" in desk.slurm.calls("sbatch")[-1]
    assert "--after" in desk.submit("--after", "soon", code=2)[1]


def test_data_that_training_would_refuse_is_not_queued_for(desk: Desk) -> None:
    desk.data["zagreus"]["max_source_epochs"] = 4
    desk.config(desk.data)
    _, error = desk.submit(code=2)
    assert "not submitted: data_stages" in error and "limit of 4" in error
    assert desk.slurm.calls("sbatch") == []


def test_only_the_folders_that_the_chain_tokenizes_may_be_missing(desk: Desk) -> None:
    for name in FOLDERS[:2]:
        (desk.folder / name / "00000_unshuffled.ds").unlink()
    (desk.folder / "text").mkdir()
    (desk.folder / "text" / "0.jsonl").write_text('{"text": "a"}\n')
    _, error = desk.submit("--tokenize", f"text={FOLDERS[0]}", code=2)
    assert "1 hold no .ds file" in error and FOLDERS[1] in error
    desk.shard(FOLDERS[1])
    desk.submit("--tokenize", f"text={FOLDERS[0]}")


@pytest.mark.parametrize(
    ("options", "key_words"),
    [
        (("--tokenize", "/nonexistent/typo={folder}"), ["--tokenize", "/nonexistent/typo"]),
        (("--tokenize", "corpus/typo={folder}"), ["--tokenize: corpus/typo is not on this machine", "offline"]),
        (("--tokenize", "text.jsonl={folder}:content"), ["--tokenize: ", "text.jsonl", "no 'content'", "it has text"]),
        (("--tokenize", "hf://datasets/owner/name={folder}"), ["--tokenize", "hf://datasets", "offline"]),
        (("--convert", "hf", "--evaluate", "progresion-por"), ["--evaluate", "progresion-por", "progression-por"]),
        ((*CHAIN, "--data", "nowhere"), ["--data", "nowhere"]),
        ((*CHAIN, "--data", "clients"), ["--data clients lacks", "m_mmlu", "eval-data --suite progression-por"]),
        (
            CHAIN,
            [
                "--evaluate without --data",
                "offline",
                "cache {hf} lacks alexandrainst/m_arc, alexandrainst/m_mmlu;",
                "which --data names",
            ],
        ),
    ],
)
def test_a_chain_that_would_fail_later_is_not_submitted(
    options: tuple[str, ...], key_words: list[str], desk: Desk
) -> None:
    (desk.folder / "hf" / "datasets" / "alexandrainst___m_hellaswag").mkdir(parents=True)
    desk.site(offline=True, hf_home=str(desk.folder / "hf"))
    (desk.folder / "tokenizer.json").touch()
    (desk.folder / "text.jsonl").write_text('{"text": "a"}\n')
    desk.data["tokenizer"]["tokenizer_name_or_path"] = "tokenizer.json"
    desk.config(desk.data)
    _, error = desk.submit(*(text.format(folder=FOLDERS[0]) for text in options), code=2)
    assert all(word.format(hf=desk.folder / "hf") in error for word in key_words), error
    assert desk.slurm.calls("sbatch") == []


def test_checkpoints_that_one_node_cannot_see_are_not_converted(desk: Desk) -> None:
    desk.data["checkpoints"]["checkpoints_path_is_shared_file_system"] = False
    desk.config(desk.data)
    assert "--convert: checkpoints.checkpoints_path_is_shared_file_system is false" in desk.submit(*CHAIN, code=2)[1]
    desk.submit()


def test_an_input_may_hold_an_equals_sign(desk: Desk) -> None:
    (desk.folder / "corpus" / "lang=pt").mkdir(parents=True)
    (desk.folder / "corpus" / "lang=pt" / "0.jsonl").write_text('{"content": "a"}\n')
    desk.submit("--tokenize", f"corpus/lang=pt={FOLDERS[0]}:content")
    assert (desk.jobs / "sources.tsv").read_text() == f"corpus/lang=pt\t{FOLDERS[0]}\tcontent\n"


def test_more_requeues_than_the_site_allows_are_refused_with_both_numbers(desk: Desk) -> None:
    slow = ("--tokens-per-second-per-gpu", "1000")
    error = desk.slurm_command("check", *slow, code=2)[1]
    assert "(max_requeues: 20)" in error
    assert "max_requeues: 20, but the run is expected to requeue 94 times" in error
    assert "not submitted: max_requeues: 20" in desk.submit(*slow, code=2)[1]
    desk.site(max_requeues=94)
    desk.submit(*slow)


def test_a_check_fails_on_what_a_job_would_fail_on(desk: Desk) -> None:
    """`zagreus slurm check … && zagreus slurm submit …` must not go on; what Slurm says is printed all the same."""
    out, _ = desk.slurm_command("check", *CHAIN)
    assert "Slurm accepts it" in out
    desk.site(venv="/nonexistent/venv")
    (desk.folder / FOLDERS[0] / "00000_unshuffled.ds").unlink()
    out, error = desk.slurm_command("check", *CHAIN, code=2)
    assert "Slurm accepts it" in out and "evaluate: " in out
    assert "/nonexistent/venv" in error and "1 hold no .ds file" in error
    assert "2 obstacles" in error.splitlines()[-1]
    desk.slurm_command("render")


def test_a_check_judges_what_the_job_would_begin_with(desk: Desk) -> None:
    config = load_config_text((desk.folder / "run.yaml").read_text(), origin="test")
    folder = write_descriptions(config, config.tokens.train_steps + 1)
    error = desk.slurm_command("check", code=2)[1]
    assert "train_steps" in error and "1 obstacle" in error.splitlines()[-1]
    assert "train_steps" in desk.submit(code=2)[1]
    shutil.rmtree(folder.parent)
    desk.slurm_command("check")


def test_a_check_says_of_every_job_whether_slurm_refuses_it(desk: Desk) -> None:
    desk.slurm.answer_trials("case $script in *CONVERT_OPTIONS=*) echo no such account >&2; exit 1;; esac")
    out, error = desk.slurm_command("check", *CHAIN, code=2)
    assert "Slurm accepts it" in out and "evaluate: " in out and "convert: " not in out
    assert "convert job: Slurm refuses it: no such account" in error
    assert "1 job that Slurm refuses" in error.splitlines()[-1]


@pytest.mark.parametrize(
    "answer",
    [
        "allocation failure: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: fatal: Could not establish a configuration source",
        "sbatch: error: Batch job submission failed: Protocol authentication error",
    ],
)
def test_a_controller_that_does_not_answer_refuses_nothing(answer: str, desk: Desk) -> None:
    desk.slurm.answer_trials(f"echo '{answer}' >&2; exit 1")
    for command in ("check", "submit"):
        _, error = desk.slurm_command(command, code=1)
        assert "could not be asked" in error and answer.rpartition(": ")[2] in error
        assert "refuses" not in error
    desk.site(venv="/nonexistent/venv")
    _, error = desk.slurm_command("check", code=2)
    assert "/nonexistent/venv" in error and "could not be asked" in error


def test_a_rendered_script_says_what_it_needs_and_can_be_written_with_it(desk: Desk) -> None:
    out, error = desk.slurm_command("render")
    assert out.startswith("#!/bin/bash") and "--write" in error
    assert not desk.jobs.exists()
    out, _ = desk.slurm_command("render", *CHAIN, "--write")
    assert out.split() == [str(desk.jobs / f"{name}.sbatch") for name in ("train", "convert", "evaluate")]
    assert (desk.jobs / "logs").is_dir() and (desk.jobs / "config.yaml").is_file()
    assert desk.slurm.calls("sbatch") == []
