"""`zagreus slurm render` and `submit --dry-run`: what they print, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanotron_zagreus.cli.app import run

LAUNCH = ["--config-file", "zagreus_350M_por.yaml", "--nodes", "8", "--gpus-per-node", "8"]


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_command_line_renders_without_writing(
    in_empty_folder: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["slurm", "render", *LAUNCH]) == 2
    assert "zagreus slurm site" in capsys.readouterr().err
    assert run(["slurm", "site"]) == 0
    filled = capsys.readouterr().out.replace("YOUR_", "my_").replace("/path/to", "/opt")
    (tmp_path / "slurm_site.yaml").write_text(filled)
    assert run(["slurm", "render", *LAUNCH]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("#!/bin/bash")
    assert "requeues" in printed.err and "notice" in printed.err
    assert run(["slurm", "render", *LAUNCH[:-1], "4"]) == 2
    assert run(["slurm", "render", *LAUNCH, "--job", "convert"]) == 2
    assert run(["slurm", "render", *LAUNCH, "--job", "convert", "--convert", "hf"]) == 0
    assert "CONVERT_OPTIONS= " in capsys.readouterr().out
    options = ["--convert-options", "--accept-tokenizer --dtype float32"]
    assert run(["slurm", "render", *LAUNCH, "--job", "convert", "--convert", "hf", *options]) == 0
    assert "CONVERT_OPTIONS='--accept-tokenizer --dtype float32'" in capsys.readouterr().out
    evaluation = ["--convert", "hf", "--evaluate", "progression-por"]
    options = ["--evaluate-options", "--batch-size 16 --limit 0.5"]
    assert run(["slurm", "render", *LAUNCH, "--job", "evaluate", *evaluation, *options]) == 0
    assert "EVALUATE_OPTIONS='--batch-size 16 --limit 0.5'" in capsys.readouterr().out
    assert run(["slurm", "submit", *LAUNCH, "--dry-run", *evaluation]) == 0
    assert capsys.readouterr().out.count("########") == 3
    assert run(["slurm", "submit", *LAUNCH]) == 2
    assert "not submitted" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["slurm_site.yaml"]


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("convert", "--acept-tokenizer", "No such option"),
        ("convert", "--vocab-size many", "valid int"),
        ("convert", "--help", "--help runs nothing; see `zagreus convert --help`"),
        ("convert", "another/folder", "unexpected extra argument"),
        ("convert", "--card my card.yaml", "values here cannot hold spaces"),
        ("evaluate", "--bach-size 16", "No such option"),
        ("evaluate", "--limit many", "valid"),
        ("evaluate", "another/folder", "--convert sets the evaluation's paths"),
        ("evaluate", "--include-path my tasks", "values here cannot hold spaces"),
        ("evaluate", "--limit 2 --help", "--help runs nothing; see `zagreus evaluate --help`"),
        ("evaluate", "--suite leaderboard-pt", "--evaluate sets the evaluation's suite"),
        ("evaluate", "--output elsewhere", "--results sets the evaluation's output"),
        ("evaluate", "--data elsewhere", "--data sets the evaluation's data"),
    ],
)
def test_options_that_a_job_s_command_lacks_or_the_job_sets_itself_are_refused_before_the_training(
    command: str, options: str, message: str, in_empty_folder: None, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = ["--convert", "hf", "--evaluate", "progression-por", "--data", "."]
    assert run(["slurm", "render", *LAUNCH, *chain, f"--{command}-options", options]) == 2
    printed = capsys.readouterr()
    assert f"--{command}-options" in printed.err and message in printed.err and printed.out == ""
    assert message != "No such option" or printed.err.rpartition(message)[2].count(options.split()[0]) == 1


def test_options_of_a_conversion_or_an_evaluation_need_one(
    in_empty_folder: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["slurm", "site"]) == 0
    (tmp_path / "slurm_site.yaml").write_text(
        capsys.readouterr().out.replace("YOUR_", "my_").replace("/path/to", "/opt")
    )
    assert run(["slurm", "render", *LAUNCH, "--convert-options", "--accept-tokenizer"]) == 2
    assert "needs --convert FOLDER" in capsys.readouterr().err
    assert run(["slurm", "render", *LAUNCH, "--convert", "hf", "--evaluate-options", "--limit 2"]) == 2
    assert "needs --evaluate SUITE" in capsys.readouterr().err
