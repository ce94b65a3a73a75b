"""`zagreus tokenize`: what it refuses and reports, and Slurm jobs that have not ended (Slurm is two scripts here)."""

import json
import sys
from pathlib import Path

import pytest

from nanotron_zagreus.cli import tokenize
from nanotron_zagreus.cli.app import run
from tests.unit.tokenizer_fixtures import train_tokenizer


@pytest.fixture
def source(tmp_path):
    """A corpus of two files and the command line that tokenizes it."""
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.jsonl").write_text('{"text": "um texto"}\n{"text": ""}\n')
    tokenizer = train_tokenizer(tmp_path / "tokenizer", named=True)
    return [
        "tokenize",
        "--input",
        str(tmp_path / "in"),
        "--output",
        str(tmp_path / "out"),
        "--tokenizer",
        str(tokenizer),
    ]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Two commands that stand for Slurm; returns the folder where `queue` lists the ids that squeue knows."""
    scripts = {
        "sbatch": 'echo x >> "$0.calls"; echo "Submitted batch job $(( 4710 + $(wc -l < "$0.calls") ))"',
        "squeue": 'cat "$0.error" >&2 2>/dev/null && exit 1; cat "$0.list" 2>/dev/null || true',
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def submit(source, *options):
    return run([*source, "--executor", "slurm", "--slurm-partition", "cpu", "--tasks", "2", *options])


def test_nothing_is_submitted_while_a_job_of_the_folder_is_in_the_queue(source, slurm, tmp_path, capsys):
    assert submit(source) == 0
    printed = capsys.readouterr().out
    assert "job 4711" in printed and "--status" in printed
    assert (tmp_path / "out" / "logs" / "slurm_jobs.txt").read_text().split() == ["4711"], "not the statistics' job"
    (slurm / "squeue.list").write_text("4711\n4711\n")
    assert submit(source) == 2
    error = capsys.readouterr().err
    assert "job 4711" in error and "--status" in error
    assert len((slurm / "sbatch.calls").read_text().split()) == 2
    (slurm / "squeue.list").write_text("")
    assert submit(source) == 0


@pytest.mark.parametrize("name", ["my shards", "100%", "a$b", "l'eau", "a&b"])
def test_a_folder_that_a_job_script_would_misread_is_refused(name, source, slurm, tmp_path, capsys):
    output = source.index("--output") + 1
    assert submit([*source[:output], str(tmp_path / name), *source[output + 1 :]]) == 2
    assert name in capsys.readouterr().err
    assert not (slurm / "sbatch.calls").exists()
    assert submit([*source[:output], str(tmp_path / "açúcar"), *source[output + 1 :]]) == 0


def test_a_job_that_slurm_has_forgotten_has_ended_and_other_errors_are_no_answer(source, slurm, capsys):
    assert submit(source) == 0
    (slurm / "squeue.error").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    assert submit(source) == 1
    assert "Unable to contact" in capsys.readouterr().err
    (slurm / "squeue.error").write_text("slurm_load_jobs error: Invalid job id specified\n")
    assert submit(source) == 0


def test_status_says_how_far_a_folder_is_and_starts_nothing(source, slurm, tmp_path, capsys):
    status = ["tokenize", "--output", str(tmp_path / "out"), "--status"]
    assert run(status) == 2
    assert "holds no tokenization" in capsys.readouterr().err
    submit(source)
    (slurm / "squeue.list").write_text("4711\n")
    result = {"documents": 7, "tokens": 70, "failures": 1, "bytes_read": 20}
    (tmp_path / "out" / "logs" / "results").mkdir()
    (tmp_path / "out" / "logs" / "results" / "00001.json").write_text(json.dumps(result))
    calls = (slurm / "sbatch.calls").read_text()
    capsys.readouterr()
    assert run(status) == 0
    line = capsys.readouterr().out
    assert "0 of 2 tasks, 7 documents, 70 tokens" in line and "job 4711 queued or running" in line
    assert run([*status, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["active_jobs"] == ["4711"]
    assert (slurm / "sbatch.calls").read_text() == calls


def test_the_status_of_a_recipe_covers_its_sources(source, slurm, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"tokenizer: {source[-1]}\nsources: {{a: {{inputs: [{source[2]}]}}}}\n")
    command = ["tokenize", "--recipe", str(recipe), "--output", str(tmp_path / "all")]
    assert run([*command, "--executor", "slurm", "--slurm-partition", "cpu"]) == 0
    capsys.readouterr()
    assert run([*command, "--status"]) == 0
    assert "all/a/tokenized: 0 of" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--text-column", "--bos-token", "--eos-token"])
def test_what_a_recipe_says_itself_is_refused_beside_it(option, source, tmp_path, capsys):
    command = ["tokenize", "--recipe", "smollm2/data_por.yaml", "--output", str(tmp_path / "all"), option, "x"]
    assert run(command) == 2
    assert option in capsys.readouterr().err


def fake_tokenization(monkeypatch, fail):
    """Replace the work by one that fails for the folders whose path holds ``fail``; return what was begun."""
    from nanotron_zagreus.data import tokenization
    from nanotron_zagreus.data.tokenization import TokenizationOutcome
    from nanotron_zagreus.errors import WorkError

    begun = []

    def work(prepared, **options):
        begun.append(prepared.job.output.parent.name)
        if fail in str(prepared.job.output):
            raise WorkError("1 of 2 tasks did not finish")
        return TokenizationOutcome(2, 2, 5, 50, 0, 3, ("tokenizers",), (), ("gigatoken is not installed",))

    monkeypatch.setattr(tokenization, "tokenize_locally", work)
    return begun


@pytest.mark.parametrize(
    ("options", "num_cut", "code"),
    [([], 0, 1), (["--max-failures", "1"], 0, 1), (["--max-failures", "2"], 0, 0), (["--max-failures", "2"], 1, 1)],
)
def test_as_many_documents_may_be_unreadable_as_the_user_says(
    options, num_cut, code, source, tmp_path, monkeypatch, capsys
):
    """And no part of a file, which may hold any number of them."""
    from nanotron_zagreus.data import tokenization

    lines = [json.dumps({"file": "a.jsonl", "row": row, "error": "not JSON"}) for row in (3, 8)]

    def work(prepared, **_):
        (prepared.logs / "failures").mkdir()
        (prepared.logs / "failures" / "00000.jsonl").write_text("\n".join(lines))
        return tokenization.TokenizationOutcome(2, 2, 5, 50, 2, 0, ("tokenizers",), (), (), num_cut)

    monkeypatch.setattr(tokenization, "tokenize_locally", work)
    assert run([*source, *options]) == code
    printed = capsys.readouterr()
    assert "2 left out because they cannot be read" in printed.out
    assert ("first a.jsonl at row 3" in printed.err) == (code == 1)
    assert ("--max-failures 2 does without them" in printed.err) == (code == 1 and not num_cut)


def test_a_source_that_fails_does_not_end_the_recipe(source, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "recipe.yaml"
    sources = {name: {"inputs": [source[2]]} for name in ("one", "two", "three")}
    recipe.write_text(json.dumps({"tokenizer": source[-1], "sources": sources}))
    begun = fake_tokenization(monkeypatch, fail="/one/")
    assert run(["tokenize", "--recipe", str(recipe), "--output", str(tmp_path / "all")]) == 1
    assert sorted(begun) == ["one", "three", "two"]
    captured = capsys.readouterr()
    assert "one/tokenized: 1 of 2 tasks did not finish" in captured.err
    assert captured.out.count("2 of 2 tasks") == 2


def test_a_refused_recipe_binds_no_folder_to_what_was_wrong_in_it(source, tmp_path, monkeypatch, capsys):
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "all"
    good, wrong = {"inputs": [source[2]]}, {"inputs": [source[2]], "text_column": "body"}
    recipe.write_text(json.dumps({"tokenizer": source[-1], "sources": {"good": good, "wrong": wrong}}))
    assert run(["tokenize", "--recipe", str(recipe), "--output", str(output)]) == 2
    assert "body" in capsys.readouterr().err
    assert not output.exists()
    recipe.write_text(json.dumps({"tokenizer": source[-1], "sources": {"good": good, "good/": good}}))
    assert run(["tokenize", "--recipe", str(recipe), "--output", str(output)]) == 2
    assert "good/tokenized; give each a name" in capsys.readouterr().err


def test_empty_documents_and_the_reason_for_tokenizers_are_printed(source, monkeypatch, capsys):
    fake_tokenization(monkeypatch, fail="nothing")
    assert run(source) == 0
    line = capsys.readouterr().out
    assert "5 documents (3 empty ones left out)" in line
    assert "with tokenizers; tokenizers because gigatoken is not installed" in line


def test_the_text_column_has_a_default():
    job = tokenize._single_job(
        Path("x"), {"inputs": ("a",), "tokenizer": "t", "bos": None, "eos": None, "text_column": None}
    )
    assert job.text_column == "text"


@pytest.mark.parametrize("executor", [[], ["--executor", "slurm", "--slurm-partition", "cpu"]])
def test_an_encoder_that_is_not_installed_is_refused_before_any_task(source, tmp_path, monkeypatch, capsys, executor):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    assert run([*source, "--encoder", "gigatoken", *executor]) == 2
    assert "--encoder: gigatoken is not installed; `pip install" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_failures_are_not_allowed_for_where_nobody_would_count_them(source, slurm, capsys):
    """A job array's tasks end as they end; what a source lacks is asked of the folder."""
    assert submit(source, "--max-failures", "3") == 2
    assert "--max-failures: got 3" in capsys.readouterr().err and not (slurm / "sbatch.calls").exists()
