"""The log of steps: what the main log's level lets pass, once, whatever the level of a replica."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from nanotron_zagreus.config.sections import LogLevel
from nanotron_zagreus.training.step_log import open_step_log


@pytest.fixture
def replica() -> Iterator[logging.Logger]:
    """The root logger as a test sets it, and as it was afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers, root.level = handlers, level


@pytest.mark.parametrize(("level", "num_lines"), [("debug", 1), ("info", 1), ("warning", 0)])
@pytest.mark.parametrize("replica_level", ["info", "error"])
def test_a_line_is_printed_once_where_the_main_log_has_it(
    level: LogLevel, num_lines: int, replica_level: str, replica: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    replica.handlers = [logging.StreamHandler()]
    replica.setLevel(replica_level.upper())
    open_step_log("info")
    open_step_log(level).info("iteration: 1 / 2")
    out, err = capfd.readouterr()
    assert (out.count("iteration: 1 / 2"), err) == (num_lines, "")


def test_a_line_has_the_format_of_the_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[%(levelname)s|PP=1]: %(message)s"))
    monkeypatch.setattr(logging.getLogger("nanotron"), "handlers", [handler])
    open_step_log("info").info("iteration: 1 / 2")
    assert capsys.readouterr().out == "[INFO|PP=1]: iteration: 1 / 2\n"
