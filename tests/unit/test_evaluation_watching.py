"""How long a watch waits for a training that is silent, by what its folder and Slurm say of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nanotron_zagreus.checkpoints.outcome import Outcome, write_outcome
from nanotron_zagreus.errors import InputError, WorkError
from nanotron_zagreus.evaluation import watching
from nanotron_zagreus.evaluation.requests import EvaluationRequest
from nanotron_zagreus.evaluation.runner import TaskOutcome

HOUR = 3600


class Watch:
    """A watch over ``checkpoints``, 24 hours patient, whose naps of an hour cost nothing; it is cut off after 60."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checkpoints = folder / "checkpoints"
        self.checkpoints.mkdir()
        self.naps = 0
        self.evaluated: list[str] = []
        self.told: list[str] = []
        self.jobs: list[str] = []
        self.queue_trouble = ""
        monkeypatch.setattr(watching, "prepare", lambda request: None)
        monkeypatch.setattr(watching, "is_checkpoint", lambda path: path.is_dir())
        monkeypatch.setattr(watching, "_evaluate", self._evaluate)
        monkeypatch.setattr(watching, "unfinished_jobs", self._unfinished)
        monkeypatch.setattr(watching.time, "sleep", self._nap)

    def age(self, hours: float, *names: str) -> None:
        """Make the files and the folder itself as old as that."""
        for name in names:
            (self.checkpoints / name).touch()
        then = time.time() - hours * HOUR
        for path in (*self.checkpoints.iterdir(), self.checkpoints):
            os.utime(path, (then, then))

    def run(self, interval: float = HOUR, patience: float = 24.0, show: Callable[[], None] = lambda: None) -> None:
        request = EvaluationRequest(paths=(), suite=None, output=self.checkpoints.parent / "out")
        watching.follow_training(
            self.checkpoints, request, show, tell=self.told.append, interval_seconds=interval,
            give_up_after_hours=patience,
        )  # fmt: skip

    def _evaluate(self, path: Path, *_: object) -> list[TaskOutcome]:
        self.evaluated.append(path.name)
        return [TaskOutcome(label=path.name, task="arc_pt", status="done")]

    def _nap(self, seconds: float) -> None:
        self.naps += 1
        assert self.naps < 60, "the watch goes on for ever"

    def _unfinished(self, ids: list[str]) -> list[str]:
        if self.queue_trouble:
            raise WorkError(self.queue_trouble)
        return [job for job in ids if job in self.jobs]


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(tmp_path, monkeypatch)


@pytest.mark.parametrize(("hours", "naps"), [(7 * 24, 0), (20, 4), (0, 24), (-5, 24)])
def test_patience_starts_with_the_last_sign_of_life_and_one_look_is_always_taken(
    watch: Watch, hours: float, naps: int
) -> None:
    (watch.checkpoints / "1000").mkdir()
    watch.age(hours + 0.001 * (hours > 0), "metrics.jsonl", "latest.txt")
    with pytest.raises(WorkError, match="no new step, checkpoint or outcome for 24 hours"):
        watch.run()
    assert watch.evaluated == ["1000"] and watch.naps == naps


def test_the_newest_sign_counts(watch: Watch) -> None:
    watch.age(7 * 24, "metrics.jsonl", "latest.txt")
    watch.age(7 * 24, "outcome.json")
    os.utime(watch.checkpoints / "metrics.jsonl", (time.time() - 22.999 * HOUR,) * 2)
    with pytest.raises(WorkError):
        watch.run()
    assert watch.naps == 2


def test_a_folder_in_which_no_training_has_begun_is_given_the_whole_time(watch: Watch) -> None:
    watch.age(7 * 24)
    with pytest.raises(WorkError):
        watch.run()
    assert watch.naps == 24


def test_a_job_that_slurm_has_queued_again_is_a_sign_of_life(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    (watch.checkpoints / "slurm_job").write_text("4711\n")
    watch.age(7 * 24, "metrics.jsonl")
    watch.jobs = ["4711"]
    nap = watch._nap

    def end_in_a_day(seconds: float) -> None:
        nap(seconds)
        if watch.naps == 30:
            watch.jobs = []

    monkeypatch.setattr(watching.time, "sleep", end_in_a_day)
    with pytest.raises(WorkError):
        watch.run()
    assert watch.naps == 48


@pytest.mark.parametrize("text", ["", "no job\n", "4712\n"])
def test_another_job_or_none_is_no_sign_of_life(watch: Watch, text: str) -> None:
    (watch.checkpoints / "slurm_job").write_text(text)
    watch.age(7 * 24, "metrics.jsonl")
    watch.jobs = ["4711", "no job", ""]
    with pytest.raises(WorkError):
        watch.run()
    assert watch.naps == 0


def test_a_slurm_that_does_not_say_is_named_where_the_watch_ends(watch: Watch) -> None:
    (watch.checkpoints / "slurm_job").write_text("4711\n")
    watch.age(7 * 24, "metrics.jsonl")
    watch.queue_trouble = "squeue: no answer about job 4711"
    with pytest.raises(WorkError, match=r"no new step.*squeue: no answer about job 4711"):
        watch.run()


@pytest.mark.parametrize("lasting", [False, True])
def test_a_table_that_cannot_be_shown_ends_no_watch(
    watch: Watch, lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that others put into the folder may not stand beside these until somebody moves them away."""
    (watch.checkpoints / "1000").mkdir()
    tables = list[int]()

    def show() -> None:
        tables.append(len(watch.evaluated))
        if lasting or len(tables) == 1:
            raise InputError("measured differently; move trial.json away")

    def train_meanwhile(_: float) -> None:
        (watch.checkpoints / "2000").mkdir()
        write_outcome(watch.checkpoints, Outcome(why="finished", step=2000, checkpoint=None))

    monkeypatch.setattr(watching.time, "sleep", train_meanwhile)
    if lasting:
        with pytest.raises(InputError, match=r"move trial\.json away"):
            watch.run(show=show)
    else:
        watch.run(show=show)
    assert watch.evaluated == ["1000", "2000"] and tables == [1, 2]
    assert len(watch.told) == 1 + lasting and "move trial.json away" in watch.told[0]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e12])
def test_an_interval_that_cannot_be_slept_is_refused(watch: Watch, seconds: float) -> None:
    with pytest.raises(InputError, match=r"--interval .*above 0"):
        watch.run(interval=seconds)
    with pytest.raises(InputError, match="--give-up-after nan"):
        watch.run(patience=float("nan"))
