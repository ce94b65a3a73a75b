"""`zagreus check` says where the run would begin, and refuses what the launch would refuse there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nanotron_zagreus.checkpoints.claim import claimed
from nanotron_zagreus.checkpoints.manifest import FileRecord, read_manifest, write_manifest
from nanotron_zagreus.cli.app import run
from nanotron_zagreus.config import Config, dump_config
from nanotron_zagreus.training.resume_point import older_steps
from tests.unit.checkpoint_fixtures import write_descriptions
from tests.unit.data_fixtures import make_config, write_source

AUTO = {"resume_checkpoint_path": "auto"}


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Return a maker of configurations of 20 steps of 4 samples, over one source."""
    monkeypatch.chdir(tmp_path)
    write_source(tmp_path / "a", [10, 10])

    def make(**changes: dict) -> Config:
        return make_config([{"dataset": {"dataset_folder": "a"}}], **changes)

    return make


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a runner of `zagreus check` that expects an exit code and returns what was printed."""

    def checked(config: Config, code: int = 0) -> str:
        Path("run.yaml").write_text(dump_config(config))
        capsys.readouterr()
        ended = run(["check", "--config-file", "run.yaml"])
        printed = capsys.readouterr()
        assert ended == code, printed
        return printed.err if code else next(line for line in printed.out.splitlines() if line.startswith("  start "))

    return checked


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")}


def test_a_fresh_run_begins_at_step_one(configure: Callable[..., Config], check: Callable[..., str]) -> None:
    assert check(configure()).split(maxsplit=1)[1] == "step 1, random weights"
    assert "step 1, random weights; no checkpoint in checkpoints here" in check(configure(checkpoints=AUTO))
    elsewhere = configure(model={"init_method": {"path": "elsewhere"}})
    assert "step 1, weights of elsewhere, which is not here" in check(elsewhere)
    assert not Path("checkpoints").exists()


def test_a_resumed_run_says_after_which_step(configure: Callable[..., Config], check: Callable[..., str]) -> None:
    write_descriptions(configure(), 5)
    write_descriptions(configure(), 10)
    assert "resumes after step 10 of checkpoints/10" in check(configure(checkpoints=AUTO))
    named = configure(checkpoints={"resume_checkpoint_path": "checkpoints/5"})
    assert "resumes after step 5 of checkpoints/5" in check(named)
    assert "nothing is left to train" in check(configure(checkpoints=AUTO, tokens={"train_steps": 10}))


def test_json_says_the_same(configure: Callable[..., Config], capsys: pytest.CaptureFixture[str]) -> None:
    write_descriptions(configure(), 10)
    Path("run.yaml").write_text(dump_config(configure(checkpoints=AUTO, tokens={"train_steps": 30})))
    assert run(["check", "--config-file", "run.yaml", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["start"] == {
        "first_step": 11,
        "resumes_from": "checkpoints/10",
        "weights_from": None,
        "text": "resumes after step 10 of checkpoints/10",
    }
    assert any("tokens.train_steps 20 -> 30" in text for text in data["machine_notices"])


def test_a_run_that_would_overwrite_is_refused(configure: Callable[..., Config], check: Callable[..., str]) -> None:
    write_descriptions(configure(), 10)
    error = check(configure(), code=2)
    assert "already holds the steps [10]" in error and "resume_checkpoint_path: auto" in error


def test_the_plan_is_printed_whatever_is_refused_of_the_start(
    configure: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    write_descriptions(configure(), 10)
    Path("run.yaml").write_text(dump_config(configure()))
    assert run(["check", "--config-file", "run.yaml"]) == 2
    printed = capsys.readouterr()
    assert "parameters" in printed.out and "  start " in printed.out and "refused" in printed.out
    assert "already holds" in printed.err
    assert run(["check", "--config-file", "run.yaml", "--json"]) == 2
    start = json.loads(capsys.readouterr().out)["start"]
    assert start["first_step"] is None and "refused" in start["text"]


def test_what_a_resume_refuses_is_refused(configure: Callable[..., Config], check: Callable[..., str]) -> None:
    write_descriptions(configure(), 10)
    assert "train_steps" in check(configure(checkpoints=AUTO, tokens={"train_steps": 9}), code=2)
    assert "micro_batch_size" in check(configure(checkpoints=AUTO, tokens={"micro_batch_size": 2}), code=2)
    (shard, other) = sorted(Path("a").glob("*.ds"))
    for path in Path("a").glob(f"{other.name}*"):
        path.unlink()
    error = check(configure(checkpoints=AUTO), code=2)
    assert "data_stages" in error and f"{other.name} is gone" in error
    accepting = configure(checkpoints=AUTO, zagreus={"accept_changed_data": True})
    assert "resumes after step 10" in check(accepting)
    assert shard.exists()


def test_master_weights_that_a_checkpoint_lacks_are_missed_before_the_launch(
    configure: Callable[..., Config], check: Callable[..., str]
) -> None:
    bf16 = {"dtype": "bfloat16"}
    write_descriptions(configure(model=bf16), 10)
    error = check(configure(checkpoints=AUTO, model=bf16, optimizer={"accumulate_grad_in_fp32": True}), code=2)
    assert "optimizer.accumulate_grad_in_fp32" in error and "model.init_method.path" in error


def test_other_weights_for_a_stage_that_was_begun_are_refused(
    configure: Callable[..., Config], check: Callable[..., str], tmp_path: Path
) -> None:
    write_source(tmp_path / "b", [10])

    def weighted(weights: list[float]) -> Config:
        dataset = {"dataset_folder": ["a", "b"], "dataset_weights": weights}
        return make_config([{"dataset": dataset}], checkpoints=AUTO)

    write_descriptions(weighted([0.5, 0.5]), 10)
    assert "resumes after step 10" in check(weighted([0.5, 0.5]))
    assert "a stage keeps its weights" in check(weighted([0.4, 0.6]), code=2)


def test_damaged_descriptions_fail_the_check_as_they_fail_the_run(
    configure: Callable[..., Config], check: Callable[..., str]
) -> None:
    folder = write_descriptions(configure(), 10)
    (folder / "config.yaml").write_text("model: {}")
    assert "damaged" in check(configure(checkpoints=AUTO), code=3)
    falling_back = configure(checkpoints=AUTO, zagreus={"checkpoints": {"fallback_to_newest_sound": True}})
    assert "damaged" in check(falling_back, code=3), "there is nothing to fall back to"
    Path("checkpoints/5").mkdir()
    assert "newest sound step before the wanted one" in check(falling_back)


def test_a_pointer_that_says_nothing_is_refused_or_passed_over_as_configured(
    configure: Callable[..., Config], check: Callable[..., str]
) -> None:
    write_descriptions(configure(), 10)
    Path("checkpoints/latest.txt").write_text("")
    assert "correct or remove it" in check(configure(checkpoints=AUTO), code=2)
    falling_back = configure(checkpoints=AUTO, zagreus={"checkpoints": {"fallback_to_newest_sound": True}})
    assert "newest sound step" in check(falling_back)
    assert older_steps(falling_back)[1] == [10]


def test_a_file_that_was_cut_short_fails_the_check_as_it_fails_the_run(
    configure: Callable[..., Config], check: Callable[..., str]
) -> None:
    folder = write_descriptions(configure(), 10)
    content = read_manifest(folder)
    files = [FileRecord(**record) for record in content["files"]]
    (folder / "model").mkdir()
    (folder / "model" / "weights.safetensors").write_bytes(b"short")
    files.append(FileRecord(path="model/weights.safetensors", bytes=500, sha256="0" * 64))
    facts = {name: content[name] for name in ("step", "consumed_samples", "topology", "data")}
    write_manifest(folder, files, facts)
    assert "weights.safetensors" in check(configure(checkpoints=AUTO), code=3)
    falling_back = configure(checkpoints=AUTO, zagreus={"checkpoints": {"fallback_to_newest_sound": True}})
    Path("checkpoints/5").mkdir()
    assert "newest sound step before the wanted one" in check(falling_back)


def test_a_named_checkpoint_that_is_not_here_is_not_judged(
    configure: Callable[..., Config], check: Callable[..., str]
) -> None:
    config = configure(checkpoints={"resume_checkpoint_path": "elsewhere/10"}, zagreus={"max_source_epochs": 1})
    assert "goes on from elsewhere/10, which is not here" in check(config)


def test_data_that_is_not_here_leaves_the_rest_judged(
    configure: Callable[..., Config], check: Callable[..., str]
) -> None:
    write_descriptions(configure(), 10)
    shutil.rmtree("a")
    assert "resumes after step 10" in check(configure(checkpoints=AUTO))
    assert "train_steps" in check(configure(checkpoints=AUTO, tokens={"train_steps": 9}), code=2)


def test_a_configuration_whose_run_is_going_is_checked(
    configure: Callable[..., Config], check: Callable[..., str]
) -> None:
    write_descriptions(configure(), 10)
    with claimed(Path("checkpoints")):
        row = check(configure())
        assert "a run is writing there now (process" in row and "random weights" not in row
        row = check(configure(checkpoints=AUTO))
        assert "resumes after step 10" in row and "a run is writing there now" in row
    assert "writing" not in check(configure(checkpoints=AUTO))


def test_a_check_changes_nothing(configure: Callable[..., Config], check: Callable[..., str]) -> None:
    """Not even a step whose replacement was interrupted, which the run brings back before it looks."""
    folder = write_descriptions(configure(), 10)
    folder.rename("checkpoints/.replaced-10")
    Path("checkpoints/.saving-10").mkdir()
    before = contents(Path("checkpoints"))
    row = check(configure(checkpoints=AUTO))
    assert "brings back" in row and "10" in row
    check(configure(), code=2)
    assert contents(Path("checkpoints")) == before
    assert not [path for path in Path().iterdir() if path.name not in ("a", "checkpoints", "run.yaml")]
