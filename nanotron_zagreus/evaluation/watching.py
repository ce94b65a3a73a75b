"""Follow a running training: evaluate each checkpoint as it appears, until the training says that it is done.

One that died cannot say so: nothing new for long enough ends the watch, too, unless its job waits in Slurm's queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from nanotron_zagreus.checkpoints.layout import JOB_FILE, LATEST_FILE, METRICS_FILE, OUTCOME_FILE
from nanotron_zagreus.checkpoints.outcome import read_outcome
from nanotron_zagreus.errors import InputError, VerificationError, WorkError
from nanotron_zagreus.evaluation.requests import EvaluationRequest, prepare
from nanotron_zagreus.evaluation.runner import TaskOutcome, evaluate_subjects
from nanotron_zagreus.evaluation.subjects import find_subjects, is_checkpoint
from nanotron_zagreus.evaluation.task_set import TaskSet
from nanotron_zagreus.job_queue import unfinished_jobs

_MAX_INTERVAL_SECONDS = 86_400.0


def follow_training(
    checkpoints: Path,
    request: EvaluationRequest,
    show: Callable[[], None],
    *,
    report: Callable[[TaskOutcome], None] = lambda outcome: None,
    tell: Callable[[str], None] = lambda line: None,
    interval_seconds: float = 30.0,
    give_up_after_hours: float = 24.0,
) -> list[TaskOutcome]:
    """Evaluate every checkpoint under ``checkpoints``, waiting for more until the training has finished.

    Args:
        checkpoints: the training's folder of checkpoints; it may still be empty.
        request: what to evaluate; its paths are ignored.
        show: called after each round that evaluated something; where it fails, by results that others put beside these
            or by a plot's disk, the watch goes on.
        report: called with each outcome as it is known.
        tell: called with a line about what the watch goes on after: a checkpoint deleted before it was evaluated, a
            table that could not be shown.
        interval_seconds: time between two looks.
        give_up_after_hours: time since the last new step, checkpoint or outcome after which the training counts as
            dead, also when it passed before the watch began; while the job that `slurm_job` names is queued or runs,
            it does not; infinite: never.

    Returns:
        All outcomes; one that failed is not tried again.

    Raises:
        InputError: anything in the request that cannot work, found before the first checkpoint; or why the last table
            could not be shown, raised when the training has ended.
        WorkError: the training shows no sign of life any more; what was evaluated is kept.
    """
    _check_times(interval_seconds, give_up_after_hours)
    if not checkpoints.is_dir():
        raise InputError(f"--watch {checkpoints}: no such folder; give the training's checkpoints_path")
    tasks = prepare(request)
    outcomes: list[TaskOutcome] = []
    seen: set[str] = set()
    unshown: Exception | None = None
    patience = _Patience(checkpoints, give_up_after_hours)
    while True:
        # Asked before looking: what was saved before the end was announced is then surely seen.
        ended = read_outcome(checkpoints)
        new = [path for path in _complete(checkpoints) if path.name not in seen]
        if new:
            seen.update(path.name for path in new)
            found = [outcome for path in new for outcome in _evaluate(path, tasks, request.output, report, tell)]
            outcomes += found
            if any(outcome.status != "failed" for outcome in found):
                unshown = _show(show, tell)
        elif ended is not None and ended.why in ("finished", "failed"):
            if unshown is not None:
                raise unshown
            return outcomes
        else:
            patience.wait(interval_seconds)


def _show(show: Callable[[], None], tell: Callable[[str], None]) -> Exception | None:
    """Show the tables, or tell why they cannot be shown and return that."""
    try:
        show()
    except (InputError, OSError) as error:
        tell(f"no table this time: {error}; the watch goes on")
        return error
    return None


def _check_times(interval_seconds: float, give_up_after_hours: float) -> None:
    if not 0 < interval_seconds <= _MAX_INTERVAL_SECONDS:
        raise InputError(
            f"--interval {interval_seconds:g}: seconds, above 0 and at most {_MAX_INTERVAL_SECONDS:,.0f} (a day)"
        )
    if not give_up_after_hours > 0:
        raise InputError(f"--give-up-after {give_up_after_hours:g}: hours, above 0 (inf: never)")


class _Patience:
    """Waits for a training, and not for ever for one that shows no sign of life.

    What counts is the age of its last sign when the watch begins, and then the time spent waiting, by no clock:
    evaluating a checkpoint may take as long as it likes.
    """

    def __init__(self, checkpoints: Path, limit_hours: float) -> None:
        self._checkpoints, self._limit_hours = checkpoints, limit_hours
        self._signs = _signs_of_life(checkpoints)
        self._seconds = _seconds_of_silence(checkpoints)

    def wait(self, seconds: float) -> None:
        """Wait, unless the last signs of life are too long ago."""
        signs = _signs_of_life(self._checkpoints)
        if signs != self._signs:
            self._signs, self._seconds = signs, 0.0
        if self._seconds >= 3600 * self._limit_hours:
            if not self._job_goes_on():
                raise WorkError(self._farewell())
            self._seconds = 0.0
        time.sleep(seconds)
        self._seconds += seconds

    def _job_goes_on(self) -> bool:
        """Tell whether Slurm holds the job that trains here; one may be queued for longer than we have patience.

        Raises:
            WorkError: Slurm does not say.
        """
        path = self._checkpoints / JOB_FILE
        job = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
        try:
            return job.isdecimal() and bool(unfinished_jobs([job]))
        except WorkError as error:
            raise WorkError(f"{self._farewell()}; {error}") from error

    def _farewell(self) -> str:
        outcome = read_outcome(self._checkpoints)
        said = f"{outcome.why} at step {outcome.step}" if outcome else f"there is no {OUTCOME_FILE}"
        return (
            f"{self._checkpoints}: no new step, checkpoint or outcome for {self._limit_hours:g} hours (the last word: "
            f"{said}); what was evaluated is kept, and the same command goes on once the training does "
            "(--give-up-after: how long to wait)"
        )


def _signs_of_life(checkpoints: Path) -> object:
    """Return what changes while a training works: its folders, and when its records were written."""
    written = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in _records(checkpoints)]
    return sorted(path.name for path in checkpoints.iterdir()), written


def _seconds_of_silence(checkpoints: Path) -> float:
    """Return the age of the newest sign of life; none of a folder in which no training has left anything yet."""
    records = _records(checkpoints)
    if not records and not _complete(checkpoints):
        return 0.0
    return max(0.0, time.time() - max(path.stat().st_mtime for path in (*records, checkpoints)))


def _records(checkpoints: Path) -> list[Path]:
    """Return the files that a training writes again and again, and the one that its job writes when it starts."""
    files = (checkpoints / name for name in (METRICS_FILE, OUTCOME_FILE, LATEST_FILE, JOB_FILE))
    return [path for path in files if path.is_file()]


def _evaluate(
    path: Path, tasks: TaskSet, output: Path, report: Callable[[TaskOutcome], None], tell: Callable[[str], None]
) -> list[TaskOutcome]:
    """Evaluate one checkpoint; nothing comes of one that the training deletes meanwhile to keep only the newest.

    One that cannot be evaluated, damaged or at odds with results under its name, fails by itself: others follow it.
    """
    failures: list[TaskOutcome] = []

    def report_or_wait(outcome: TaskOutcome) -> None:
        if outcome.status == "failed":
            failures.append(outcome)
        else:
            report(outcome)

    try:
        # Absolute, since `run/2000` without its folder would be taken for a hub id.
        outcomes = evaluate_subjects(find_subjects([str(path.absolute())]), tasks, output, report_or_wait)
    except (InputError, VerificationError, OSError) as error:
        if is_checkpoint(path):
            failed = [
                TaskOutcome(
                    label=path.name, task=name, status="failed", error=str(error), number=number, total=len(tasks.names)
                )
                for number, name in enumerate(tasks.names, start=1)
            ]
            for outcome in failed:
                report(outcome)
            return failed
        tell(f"{path}: deleted before it was evaluated; going on with the others")
        return []
    if failures and not is_checkpoint(path):
        tell(f"{path}: deleted before it was evaluated; going on with the others")
        return [outcome for outcome in outcomes if outcome.status != "failed"]
    for outcome in failures:
        report(outcome)
    return outcomes


def _complete(checkpoints: Path) -> list[Path]:
    """Return the whole checkpoints by step; those being written have hidden names or no metadata yet."""
    paths = [path for path in checkpoints.iterdir() if path.name.isdigit() and is_checkpoint(path)]
    return sorted(paths, key=lambda path: int(path.name))
