"""`zagreus train` as a user meets it: its exit codes, what it prints, and what signals do to it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import launch, launch_environment, read_losses, tiny_config, write_config

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.checkpoints.outcome import read_outcome

pytestmark = pytest.mark.integration

ZAGREUS = [sys.executable, "-c", "from nanotron_zagreus.cli.app import main; main()"]
_DEADLINE_SECONDS = 120


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process with the steps 5 and 10 saved."""
    root = tmp_path_factory.mktemp("saved")
    launch([write_config(root / "run.yaml", tiny_config(root))], num_processes=1)
    return root


def without_data(config: dict[str, Any], saved: Path) -> list[str]:
    config["data_stages"][0]["data"]["dataset"]["dataset_folder"] = [str(saved / "nowhere"), str(saved / "data" / "b")]
    return []


def with_a_rank_too_many(config: dict[str, Any], saved: Path) -> list[str]:
    return ["--nproc", "2"]


def into_another_runs_folder(config: dict[str, Any], saved: Path) -> list[str]:
    config["checkpoints"]["checkpoints_path"] = str(saved / "checkpoints")
    return []


def on_a_missing_engine(config: dict[str, Any], saved: Path) -> list[str]:
    """Refused by the ranks alone: two of them, one of which says so."""
    from nanotron_zagreus.engine.detection import find_engine

    here = find_engine("auto").name
    config["zagreus"]["engine"] = "nanotron-main" if here == "nanotron-0.4" else "nanotron-0.4"
    config["parallelism"]["dp"], config["tokens"]["batch_accumulation_per_replica"] = 2, 2
    return []


def from_a_damaged_checkpoint(config: dict[str, Any], saved: Path) -> list[str]:
    root = Path(config["checkpoints"]["checkpoints_path"])
    shutil.copytree(saved / "checkpoints", root)
    victim = next((root / "10" / "optimizer").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1])
    config["checkpoints"]["resume_checkpoint_path"] = "auto"
    return []


@pytest.mark.parametrize(
    ("break_it", "code", "word"),
    [
        (without_data, 2, "nowhere"),
        (with_a_rank_too_many, 2, "dp x tp x pp = 1 x 1 x 1 = 1"),
        (into_another_runs_folder, 2, "resume_checkpoint_path: auto"),
        (on_a_missing_engine, 2, "zagreus.engine"),
        (from_a_damaged_checkpoint, 3, "fallback_to_newest_sound"),
    ],
)
def test_a_refusal_is_one_line_and_its_own_exit_code(
    break_it: Any, code: int, word: str, saved: Path, tmp_path: Path
) -> None:
    config = tiny_config(saved, checkpoints__checkpoints_path=str(tmp_path / "out" / "checkpoints"))
    options = break_it(config, saved)
    file = write_config(tmp_path / "run.yaml", config)
    done = subprocess.run(
        [*ZAGREUS, "train", "--config-file", str(file), *options],
        env=launch_environment(), capture_output=True, text=True, check=False, timeout=_DEADLINE_SECONDS,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("zagreus: ")]
    assert len(lines) == 1 and word in lines[0], done.stderr
    assert "Traceback" not in done.stderr and "ChildFailedError" not in done.stderr
    if code == 2:
        assert not (tmp_path / "out").exists(), "a refused run leaves no folder"


class Run:
    """A long run of two ranks under `zagreus train`, in a session of its own as a terminal would give it."""

    def __init__(self, root: Path) -> None:
        overrides = {"tokens__train_steps": 100_000, "checkpoints__checkpoint_interval": 100_000}
        config = tiny_config(root, parallelism__dp=2, tokens__batch_accumulation_per_replica=2, **overrides)
        del config["data_stages"][1]
        config["checkpoints"]["resume_checkpoint_path"] = "auto"
        self.root, self.file = root / "checkpoints", write_config(root / "run.yaml", config)
        self.log = (root / "log").open("w+")
        self.process = subprocess.Popen(
            [*ZAGREUS, "train", "--config-file", str(self.file)],
            env=launch_environment(), stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def wait_for(self, what: str, happens: Any) -> None:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not happens():
            assert time.monotonic() < deadline, f"{what}\n{self.output()}"
            time.sleep(0.05)

    def wait_for_steps(self) -> None:
        self.wait_for("no step", lambda: (self.root / "metrics.jsonl").exists() and read_losses(self.root))

    def output(self) -> str:
        return Path(self.log.name).read_text()

    def members(self) -> list[int]:
        """Return the process ids of all that were started for this run: they name its file."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and str(self.file).encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return found

    def ranks(self) -> list[int]:
        """Return the ranks among them: they have a RANK."""
        found = []
        for pid in self.members():
            with contextlib.suppress(OSError):
                if b"\0RANK=" in Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(pid)
        return found

    def stopped_step(self) -> int:
        """Return the step that a stopped run has saved, whole."""
        outcome = read_outcome(self.root)
        assert outcome is not None and outcome.why == "stopped", self.output()
        assert layout.list_steps(self.root) == [outcome.step]
        assert manifest.verify(self.root / str(outcome.step))
        return outcome.step


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    started = Run(tmp_path)
    yield started
    for pid in started.members():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    started.process.wait()
    started.log.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_stops_and_says_75(number: signal.Signals, run: Run) -> None:
    run.wait_for_steps()
    if number is signal.SIGINT:
        os.killpg(run.process.pid, number)  # Ctrl-C reaches the terminal's whole foreground group
    else:
        run.process.send_signal(number)
    assert run.process.wait(_DEADLINE_SECONDS) == 75, run.output()
    assert run.stopped_step() >= 1
    assert json.loads((run.root / "outcome.json").read_text())["reason"] == f"{number.name} to zagreus train"
    assert not run.members()
    assert not (run.root / "STOP").exists()
    assert "Traceback" not in run.output()


def test_a_stopped_run_says_75_though_the_next_one_has_taken_its_outcome_away(run: Run) -> None:
    """A launch that waits for the folder begins the moment it is free."""

    def has_stopped() -> bool:
        outcome = read_outcome(run.root)
        return outcome is not None and outcome.why == "stopped"

    run.wait_for_steps()
    (run.root / "STOP").touch()
    run.wait_for("no stop", has_stopped)
    (run.root / "outcome.json").unlink()
    assert run.process.wait(_DEADLINE_SECONDS) == 75, run.output()
    assert "Traceback" not in run.output() and "ChildFailedError" not in run.output()


def test_a_signal_before_the_first_step_is_not_lost(run: Run) -> None:
    run.wait_for("no rank", run.ranks)
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(_DEADLINE_SECONDS) == 75, run.output()
    assert run.stopped_step() < 100_000
    assert not run.members()


def test_a_second_signal_ends_everything_at_once(run: Run) -> None:
    run.wait_for_steps()
    os.kill(run.ranks()[0], signal.SIGSTOP)  # a rank that will never save
    run.process.send_signal(signal.SIGTERM)
    run.wait_for("no word of the first signal", lambda: "SIGTERM" in run.output())
    time.sleep(3.5)  # sooner, it would count as the same request
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(_DEADLINE_SECONDS) == 130, run.output()
    run.wait_for("ranks live on", lambda: not run.members())
    assert layout.list_steps(run.root) == []


def test_a_killed_launcher_takes_its_ranks_along_and_they_save(run: Run) -> None:
    run.wait_for_steps()
    run.process.kill()
    run.wait_for("ranks live on", lambda: not run.members())
    assert run.stopped_step() >= 1


def test_killed_ranks_are_reported_with_the_signal(run: Run) -> None:
    run.wait_for_steps()
    os.kill(run.ranks()[0], signal.SIGKILL)
    assert run.process.wait(_DEADLINE_SECONDS) == 1, run.output()
    assert "SIGKILL" in run.output()
    assert not run.members()
