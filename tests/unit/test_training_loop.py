"""What a run does around its steps, and how one that fails leaves its reason."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanotron_zagreus.checkpoints.outcome import read_outcome
from nanotron_zagreus.config import Config
from nanotron_zagreus.errors import WorkError, agreed
from tests.unit.data_fixtures import make_config


class Saver:
    """Stands for the checkpoint saver; a save is pending until it is finished."""

    is_writing = is_pending = False

    def __init__(self, note: Any) -> None:
        self.note, self.newest = note, None

    def clear_leftovers(self, root: Path) -> None:
        self.note("clear leftovers")

    def begin(self) -> None:
        self.note("save")
        self.is_pending = True

    def finish(self) -> None:
        if self.is_pending:
            self.note("complete")
        self.is_pending = False

    def wait_for_deletions(self) -> None:
        self.note("wait for deletions")


class Watchdog(contextlib.nullcontext[None]):
    def at(self, place: str) -> None:
        pass


def make_loop(
    config: Config, root: Path, *, first: int = 1, requests: dict[int, str] | None = None, writes_until: int = 0
) -> tuple[Any, list[str]]:
    """Return a loop that only notes what it would do, and its notes.

    Args:
        config: the run.
        root: where the outcome goes.
        first: the first step.
        requests: step -> what is asked after it, SAVE or STOP.
        writes_until: a rank is writing up to and including this step.
    """
    from nanotron_zagreus.training.control import Request
    from nanotron_zagreus.training.loop import TrainingLoop

    notes: list[str] = []
    loop: Any = object.__new__(TrainingLoop)
    loop.config, loop.root, loop.mixture, loop.show_samples_every = config, root, None, None
    loop.ranks = SimpleNamespace(is_leader=True, rank=0)
    loop.signals, loop.watchdog, loop.saver = contextlib.nullcontext(), Watchdog(), Saver(notes.append)

    def run_step(step: int, batches: Any) -> None:
        loop.trainer.iteration_step = step
        notes.append(f"step {step}")

    def agree(*, is_writing: bool) -> tuple[Request, bool]:
        step = loop.trainer.iteration_step
        return Request[(requests or {}).get(step, "NONE")], step <= writes_until

    loop.trainer = SimpleNamespace(
        start_iteration_step=first - 1,
        iteration_step=first - 1,
        batches_on_device=lambda batches: batches,
        run_step=run_step,
        say=lambda text: None,
    )
    loop.loader = SimpleNamespace(micro_batches=lambda first: iter(()), close=lambda: notes.append("close loader"))
    loop.control = SimpleNamespace(
        clear_stale_files=lambda: notes.append("clear requests"),
        clear_files=lambda *names: notes.append(f"carried out {', '.join(names) or 'all'}"),
        agree=agree,
        shared_reason=lambda: "asked",
    )
    loop.reports = SimpleNamespace(
        after_step=lambda step, loss: None,
        flush=lambda: notes.append("flush"),
        close=lambda wait: notes.append(f"close reports, wait {wait}"),
    )
    loop._validate = lambda step: notes.append("validate")
    return loop, notes


def make_run(train_steps: int, interval: int, tokens: dict[str, Any] | None = None, **checkpoints: Any) -> Config:
    return make_config(
        [{"dataset": {"dataset_folder": "data"}}],
        tokens={"train_steps": train_steps, **(tokens or {})},
        checkpoints={"checkpoint_interval": interval, **checkpoints},
        zagreus={"validation_windows_per_source": 8},
    )


def test_what_an_earlier_run_left_goes_before_the_first_step(engine: Any, tmp_path: Path) -> None:
    loop, notes = make_loop(make_run(1, 10), tmp_path)
    outcome = loop.run()
    assert (outcome.why, outcome.step) == ("finished", 1)
    assert notes == [
        *("clear requests", "clear leftovers", "step 1", "flush"),
        *("wait for deletions", "close loader", "close reports, wait False"),
    ]


def test_a_save_is_completed_after_the_first_step_at_which_no_rank_writes(engine: Any, tmp_path: Path) -> None:
    loop, notes = make_loop(make_run(8, 3), tmp_path, writes_until=4)
    loop.run()
    assert [note for note in notes if note.split()[0] in ("step", "save", "complete")] == [
        *("step 1", "step 2", "step 3", "save", "step 4", "step 5", "complete"),
        *("step 6", "save", "step 7", "complete", "step 8"),
    ]
    assert all(notes[place - 1] == "flush" for place, note in enumerate(notes) if note == "save")


def test_a_save_that_was_asked_for_is_there_before_the_request_is_gone(engine: Any, tmp_path: Path) -> None:
    loop, notes = make_loop(make_run(3, 10), tmp_path, requests={2: "SAVE"}, writes_until=2)
    assert loop.run().why == "finished"
    start = notes.index("step 2")
    assert notes[start : start + 5] == ["step 2", "flush", "save", "complete", "carried out SAVE"]


def test_a_stop_saves_and_a_run_stopped_at_its_last_step_has_finished(engine: Any, tmp_path: Path) -> None:
    loop, notes = make_loop(make_run(3, 10), tmp_path, requests={2: "STOP"})
    outcome = loop.run()
    assert (outcome.why, outcome.step, outcome.reason) == ("stopped", 2, "asked")
    assert notes.index("save") < notes.index("complete") < notes.index("carried out all")
    loop, notes = make_loop(make_run(3, 10), tmp_path, requests={3: "STOP"})
    assert loop.run().why == "finished"
    assert "complete" in notes


def test_only_a_fresh_run_saves_its_initial_state(engine: Any, tmp_path: Path) -> None:
    config = make_run(4, 10, save_initial_state=True)
    for first, saves in ((1, 1), (3, 0)):
        loop, notes = make_loop(config, tmp_path, first=first)
        loop.run()
        assert notes.count("save") == saves
        assert f"step {first}" in notes and f"step {first - 1}" not in notes


@pytest.mark.parametrize(("interval", "batches", "times"), [(2, 1, 2), (-1, 1, 0), (0, 1, 0), (2, 0, 0)])
def test_validation_runs_at_its_interval_alone(
    interval: int, batches: int, times: int, engine: Any, tmp_path: Path
) -> None:
    tokens = {"val_check_interval": interval, "limit_val_batches": batches}
    loop, notes = make_loop(make_run(5, 10, tokens), tmp_path)
    loop.run()
    assert notes.count("validate") == times


def test_replicas_are_compared_at_their_interval_once_all_figures_are_told(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.training import loop as module

    config = make_run(5, 10)
    guards = dataclasses.replace(config.zagreus.guards, replica_check_interval=2)
    loop, notes = make_loop(
        dataclasses.replace(config, zagreus=dataclasses.replace(config.zagreus, guards=guards)), tmp_path
    )
    loop.trainer.parallel_context = SimpleNamespace(dp_pg=None)
    loop.trainer.unwrapped_model, loop.control.group = torch.nn.Linear(1, 1), None
    monkeypatch.setattr(module, "check_replicas", lambda parameters, dp, step, group: notes.append(f"compare {step}"))
    loop.run()
    assert [notes[place - 2 : place + 1] for place, note in enumerate(notes) if note.startswith("compare")] == [
        ["step 2", "flush", "compare 2"],
        ["step 4", "flush", "compare 4"],
    ]


@pytest.mark.parametrize("error", [agreed(WorkError("20 steps were skipped")), WorkError("a token is too large")])
def test_a_failed_run_waits_for_its_last_figures_where_all_ranks_agree_that_it_failed(
    error: WorkError, engine: Any, tmp_path: Path
) -> None:
    loop, notes = make_loop(make_run(5, 10), tmp_path)

    def fail(step: int, batches: Any) -> None:
        raise error

    loop.trainer.run_step = fail
    with pytest.raises(WorkError, match=str(error)):
        loop.run()
    assert notes[-2:] == ["close loader", f"close reports, wait {error.agreed}"]
    outcome = read_outcome(tmp_path)
    assert outcome is not None and (outcome.why, str(error) in outcome.reason) == ("failed", True)


@pytest.mark.parametrize("trouble", [WorkError("No space left"), RuntimeError("Connection closed by peer")])
def test_what_happens_to_the_last_save_does_not_take_the_place_of_the_failure(trouble: Exception, engine: Any) -> None:
    from nanotron_zagreus.training.loop import TrainingLoop

    def fail() -> None:
        raise trouble

    said, reported = [], []
    loop: Any = object.__new__(TrainingLoop)
    loop.trainer = SimpleNamespace(iteration_step=7, say=said.append)
    loop.saver = SimpleNamespace(newest=None, finish=fail)
    loop.watchdog = SimpleNamespace(at=lambda place: None)
    loop._report = lambda *arguments: reported.append(arguments)
    loop._report_failure(agreed(WorkError("20 steps in a row were skipped")))
    assert said == [f"the last save was not completed: {trouble}"]
    assert reported == [("failed", 7, "20 steps in a row were skipped")]
