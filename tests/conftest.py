"""Shared fixtures, and the choice of the engine.

    NANOTRON_SRC=<a checkout of huggingface/nanotron> pytest …

runs every test that trains on that checkout instead of on the installed nanotron; `make test-main` does.

CUDA is hidden from the tests and from what they start: they are written for CPUs and start more ranks than a machine
may have GPUs. Only a session of the GPU tests alone, `pytest tests/gpu`, sees devices; `make test` runs both sessions.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu_session import only_gpu_tests

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts `make test &` so, and it would be inherited by the programs that tests press Ctrl-C on.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Hide CUDA, and put the checkout first where this process and those it starts look for packages."""
    if not only_gpu_tests(config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    _prefer_checkout()


def _prefer_checkout() -> None:
    checkout = os.environ.get("NANOTRON_SRC")
    if not checkout:
        return
    source = Path(checkout).resolve() / "src"
    if not (source / "nanotron").is_dir():
        raise pytest.UsageError(
            f"NANOTRON_SRC: {checkout} is no checkout of huggingface/nanotron: no src/nanotron in it"
        )
    sys.path.insert(0, str(source))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH"))))


@pytest.fixture(scope="session")
def _started_engine() -> tuple[Any, dict[str, str]]:
    """The engine and a process group of one, and the variables that starting it set, taken out again."""
    from nanotron_zagreus.engine.bringup import bring_up
    from nanotron_zagreus.engine.launch import start_process_group

    before = dict(os.environ)
    found = bring_up()
    start_process_group()
    added = {name: value for name, value in os.environ.items() if before.get(name) != value}
    for name in added:
        del os.environ[name]
    return found, added


@pytest.fixture
def engine(_started_engine: tuple[Any, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine brought up and a process group of one, for tests that build models in this process.

    RANK, MASTER_PORT and the like are set for the test alone: a program that another test starts would take itself
    for a rank of this group.
    """
    found, added = _started_engine
    for name, value in added.items():
        monkeypatch.setenv(name, value)
    return found
