"""The stage's commands as a user types them: evaluate, progress, eval-data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from evaluation_fixtures import progression_rows, write_data, write_tiny_model

pytest.importorskip("lm_eval")

from nanotron_zagreus.cli.app import run

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local copies of the progression suite's data sets."""
    return write_data(tmp_path_factory.mktemp("data"), progression_rows(4))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny models, called by their steps."""
    folder = tmp_path_factory.mktemp("models")
    for seed, step in enumerate((1000, 2000, 3000)):
        write_tiny_model(folder / str(step), seed=seed, context=512)
    return folder


@pytest.fixture(scope="module")
def results(data: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results of all three."""
    output = tmp_path_factory.mktemp("results")
    arguments = ["--suite", "progression-por", "--data", str(data), "--output", str(output), "--device", "cpu"]
    assert run(["evaluate", str(models), *arguments]) == 0
    return output


def test_evaluate_prints_nothing_but_json_to_stdout(
    data: Path, models: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(models / "2000"), "--suite", "progression-por", "--data", str(data)]
    assert run([*command, "--output", str(results), "--json"]) == 0
    captured = capsys.readouterr()
    (table,) = json.loads(captured.out)
    assert [row["label"] for row in table["rows"]] == ["2000"]
    assert captured.err.count("already there") == 3


def test_progress_makes_the_cards_table_and_a_plot_in_one_command(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "progress.png"
    arguments = ["--suite", "progression-por", "--format", "markdown", "--plot", str(plot), "--published"]
    assert run(["progress", str(results), *arguments]) == 0
    printed = capsys.readouterr()
    assert f"drawn: {plot}" in printed.err
    lines = printed.out.splitlines()
    assert lines[0] == "| Model | ARC PT ↑ | HellaSwag PT ↑ | MMLU PT ↑ | Average |"
    assert [line.split(" | ")[0].strip("|* ") for line in lines[2:5]] == ["1k", "2k", "3k"]
    assert lines[5].startswith("| 153k (published) | 0.2667 |")
    assert all(line.count("±") == 4 for line in lines[2:5])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_progress_reads_the_same_numbers_in_every_format(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {}
    for name in ("table", "csv", "json"):
        assert run(["progress", str(results), "--format", name]) == 0
        texts[name] = capsys.readouterr().out
    (table,) = json.loads(texts["json"])
    assert len(texts["csv"].splitlines()) == 4
    for row in table["rows"]:
        assert f"{row['average']['value']:.4f}" in texts["table"]
        assert repr(row["average"]["value"]) in texts["csv"]


def test_progress_refuses_what_it_cannot_show(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["progress", str(tmp_path / "none")]) == 2
    assert run(["progress", str(results), "--format", "latex"]) == 2
    assert run(["progress", str(results), "--plot", "progress.gif"]) == 2
    assert run(["progress", str(results), "--suite", "leaderboard-pt"]) == 2
    errors = capsys.readouterr().err
    assert all(word in errors for word in ("no such folder", "latex", ".svg", "no results of the suite"))


def test_results_measured_differently_are_refused(
    data: Path, models: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(results, mixed)
    shutil.rmtree(mixed / "3000")
    command = ["evaluate", str(models / "3000"), "--suite", "progression-por", "--data", str(data), "--limit", "2"]
    assert run([*command, "--output", str(mixed)]) == 0
    assert run(["progress", str(mixed)]) == 2
    assert "limit None against 2" in capsys.readouterr().err


def test_a_trial_after_the_full_run_is_shown_only_when_asked_for(
    data: Path, models: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(results, output)
    assert run(["progress", str(output), "--format", "markdown"]) == 0
    before = capsys.readouterr().out
    command = ["evaluate", str(models / "1000"), "--suite", "progression-por", "--data", str(data), "--limit", "1"]
    assert run([*command, "--output", str(output)]) == 0
    assert "a trial: the first 1 document of every task" in capsys.readouterr().out
    assert run(["progress", str(output), "--format", "markdown"]) == 0
    assert capsys.readouterr().out == before
    assert run(["progress", str(output), "--format", "json", "--limit", "1"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in table["rows"]] == ["1000"] and "a trial" in table["notes"][0]


def test_a_failed_evaluation_says_so_by_its_exit_code(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "config.json").write_text("{}", encoding="utf-8")
    (bad / "model.safetensors").write_bytes(b"")
    command = ["evaluate", str(bad), "--suite", "progression-por", "--data", str(data), "--output", str(tmp_path / "o")]
    assert run(command) == 1
    assert "3 of 3 evaluations failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--device", "gpu"], "cuda:0"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--batch-size", "0"], "positive whole number"),
        (["--dtype", "float8"], "bfloat16"),
        (["--limit", "1.5"], "fraction between 0 and 1"),
    ],
)
def test_options_that_cannot_work_are_refused_before_any_work(
    data: Path, models: Path, results: Path, option: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(models / "1000"), "--suite", "progression-por", "--data", str(data)]
    assert run([*command, "--output", str(results), *option]) == 2
    error = capsys.readouterr().err
    assert option[0] in error and words in error and "already there" not in error


def test_one_evaluation_is_one_process(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["evaluate", str(models), "--suite", "progression-por", "--output", str(tmp_path)]) == 2
    assert "one per GPU" in capsys.readouterr().err


def test_eval_data_says_what_is_needed_and_what_is_missing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval-data", "--suite", "progression-por", "--data", str(data)]) == 0
    out = capsys.readouterr().out
    assert "hf download --repo-type dataset alexandrainst/m_mmlu" in out
    assert "plain files" in next(line for line in out.splitlines() if line.startswith("m_mmlu_pt"))
    assert run(["eval-data", "--suite", "progression-por", "--data", str(tmp_path)]) == 3
    assert "lacks alexandrainst/m_arc" in capsys.readouterr().err
    assert run(["eval-data", "--suite", "leaderboard-pt", "--data", str(data), "--json"]) == 3
    described = json.loads(capsys.readouterr().out)
    assert len(described["data"]) == 9 and not any(need["present"] for need in described["data"])
    assert (Path(described["tasks_folder"]) / "leaderboard_pt" / "bluex.yaml").is_file()
    assert run(["eval-data", "--suite", "progression-por", "--data", str(tmp_path / "nowhere"), "--json"]) == 3
    capsys.readouterr()
    assert run(["eval-data", "--suite", "progression-por", "--data", str(data), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert {need["form"] for need in described["data"]} == {"plain files"}
    assert run(["eval-data", "--suite", "progression-por", "--json"]) == 0
    assert "present" not in capsys.readouterr().out


def test_tasks_are_named_with_or_without_spaces(
    data: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(models / "1000"), "--data", str(data), "--output", str(tmp_path), "--limit", "1"]
    assert run([*command, "--tasks", "arc_pt, hellaswag_pt,"]) == 0
    assert "2/2 1000 · hellaswag_pt" in capsys.readouterr().err
    assert run([*command, "--tasks", " , "]) == 2
