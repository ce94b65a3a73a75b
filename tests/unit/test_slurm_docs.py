"""The launch guide's commands are ones that the command line accepts."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from nanotron_zagreus.cli.app import app
from nanotron_zagreus.slurm.template import read_template

GUIDE = (Path(__file__).parents[2] / "docs" / "multi-node.md").read_text(encoding="utf-8")
_BLOCKS = "\n".join(line[4:] for line in GUIDE.splitlines() if line.startswith("    "))
COMMANDS = [
    shlex.split(line.partition(">")[0], comments=True)
    for line in _BLOCKS.replace("\\\n", " ").splitlines()
    if line.startswith("zagreus ")
]


def test_the_guide_shows_every_slurm_command_but_render() -> None:
    assert {words[2] for words in COMMANDS if words[1] == "slurm"} == {"site", "check", "submit"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_guide_is_accepted(words: list[str]) -> None:
    command = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context(words[-1], rest)


def test_options_that_the_guide_mentions_exist() -> None:
    """Inline, a command stands without all that it needs."""
    mentioned = [text.split() for text in re.findall(r"`(zagreus [^`]+)`", GUIDE)]
    assert ["--watch"] in [[word for word in words if word == "--watch"] for words in mentioned]
    for words in mentioned:
        command, rest = typer.main.get_command(app), words[1:]
        while hasattr(command, "commands") and rest:
            command = command.commands[rest.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, words


def test_the_guide_names_files_and_messages_that_exist() -> None:
    root = Path(__file__).parents[2]
    for path in re.findall(r"`((?:tests|slurm)/[\w/.]+\.\w+)`", GUIDE):
        assert (root / path).is_file(), path
    train = read_template("train")
    for words in ("no step was finished since the last start", "kill-on-bad-exit", "STOP", "outcome.json"):
        assert words in GUIDE and words in train
