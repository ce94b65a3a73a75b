"""Exit codes and one-line errors of the command line."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from nanotron_zagreus.cli import app as cli
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError, WorkError
from nanotron_zagreus.resources import find_config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["no-such-command"], 2),
        (["train"], 2),
        (["check", "--config-file", "nowhere.yaml"], 2),
        (["checkpoints", "list", "nowhere"], 2),
        (["tokenize", "--output", "x", "--encoder", "other"], 2),
        (["tokenize", "--output", "x", "--executor", "other"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == code
    captured = capsys.readouterr()
    if code:
        assert "Traceback" not in captured.err
        assert captured.err


def test_a_shell_can_complete_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"_ZAGREUS_COMPLETE": "complete_bash", "COMP_WORDS": "zagreus tok", "COMP_CWORD": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        cli.run([])
    assert capsys.readouterr().out.split() == ["tokenize"]


@pytest.mark.parametrize("isolated", [(), ("-E", "-X", "utf8=0")])  # with -E Python reads no variable
def test_texts_and_names_are_utf8_whatever_the_locale(isolated: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "açúcar" / "run.yaml"
    config.parent.mkdir()
    text = find_config("zagreus_350M_por.yaml").read_text(encoding="utf-8")
    config.write_text(re.sub("^  run: .*$", "  run: pré-treino", text, flags=re.MULTILINE), encoding="utf-8")
    program = "import sys; sys.path[:0] = [sys.argv.pop(1)]; from nanotron_zagreus.cli.app import main; main()"
    command = [sys.executable, *isolated, "-c", program, str(ROOT), "check", "--config-file", str(config)]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}
    done = subprocess.run(command, env=environment | locale, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pré-treino" in done.stdout.decode() and "açúcar" in done.stdout.decode()


def test_version_names_what_trains_without_importing_it() -> None:
    program = (
        "import sys\nfrom nanotron_zagreus.cli.app import run\n"
        "assert run(['--version']) == 0\n"
        "assert not {'torch', 'nanotron', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours, torch, engine = done.stdout.splitlines()
    assert ours == f"nanotron-zagreus {version('nanotron-zagreus')}"
    assert torch == f"torch {version('torch')}"
    assert engine.startswith("engine: nanotron-")


def test_version_is_given_where_no_engine_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.run(["--version"]) == 0
    printed = capsys.readouterr().out
    assert "torch: not installed" in printed and "nanotron is not installed" in printed


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x: got 1, expected 2"), 2),
        (MissingInputError("x does not exist"), 2),
        (VerificationError("x is damaged"), 3),
        (WorkError("x failed"), 1),
        (OSError(28, "No space left on device"), 1),
        (KeyError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_kind_of_error_has_its_code_and_one_line(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raising(**options: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", raising)
    assert cli.run(["x"]) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EPERM, "permissions"),
        (errno.EACCES, "permissions"),
        (errno.EROFS, "may read and write"),
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "free space"),
        (errno.ENOTDIR, "where a folder is expected"),
        (errno.EEXIST, "in the way"),
        (errno.ENOENT, "correct the path"),
        (errno.EIO, "disk"),
    ],
)
def test_what_the_system_refuses_is_named_with_a_way_on(
    number: int, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raising(**options: object) -> None:
        raise OSError(number, os.strerror(number), "/tmp/out/.hf.unfinished")

    monkeypatch.setattr(cli, "app", raising)
    assert cli.run(["x"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"zagreus: /tmp/out/.hf.unfinished: {os.strerror(number)}; ")
    assert remedy in printed and "[Errno" not in printed


def test_a_refused_rename_names_both_paths(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def raising(**options: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", "/tmp/a", None, "/tmp/b")

    monkeypatch.setattr(cli, "app", raising)
    assert cli.run(["x"]) == 1
    assert "/tmp/a to /tmp/b: Directory not empty; " in capsys.readouterr().err


def test_checkpoints_of_an_empty_folder_are_listed_as_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["checkpoints", "list", str(tmp_path), "--json"]) == 0
    assert capsys.readouterr().out.strip() == "[]"
