"""When and in what order the figures of steps are reported: at once, or one step late as on a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanotron_zagreus.errors import WorkError


class Device:
    """Stands for a trainer whose device works behind the host; lists launches, reads and lines in their order."""

    def __init__(self, interval: int = 1, norms: dict[int, float] | None = None) -> None:
        from nanotron_zagreus.training.guards import NonFiniteGuard
        from nanotron_zagreus.training.step_times import StepTimes

        guards = SimpleNamespace(loss_spike_factor=1.5)
        logging, tokens = SimpleNamespace(iteration_step_info_interval=interval), SimpleNamespace(train_steps=99)
        self.run = SimpleNamespace(zagreus=SimpleNamespace(guards=guards), logging=logging, tokens=tokens)
        self.device, self.holds_loss, self.guard = torch.device("cpu"), True, NonFiniteGuard(1)
        self.step_times = StepTimes(self.device)
        self.norms, self.events = norms or {}, []

    def launch(self, step: int) -> torch.Tensor:
        """Run a step whose loss is ten times its number."""
        optimizer = SimpleNamespace(get_base_optimizer=lambda: SimpleNamespace(param_groups=[{}]), step=lambda: None)
        self.step = self.iteration_step = step
        with self.step_times.step():
            self.norm = torch.tensor(self.norms.get(step, 1.0))
            self.guard.step(optimizer, self.norm)
        self.events.append(f"launch {step}")
        return torch.tensor(10.0 * step)

    def step_figures(self, loss: torch.Tensor) -> Any:
        from nanotron_zagreus.training.figures import StepFigures
        from nanotron_zagreus.training.step_times import StepTimes

        times, self.step_times = self.step_times, StepTimes(self.device)
        return StepFigures(
            step=self.step,
            consumed_samples=8 * self.step,
            learning_rate=0.1 * self.step,
            times=times,
            loss=loss,
            grad_norm=self.norm,
            skipped=self.guard.take_unread(),
        )

    def step_metrics(self, figures: Any, read: Any) -> Any:
        figures.times.settle()
        values = (figures.step, read.loss, figures.consumed_samples, figures.times._num_steps)
        return SimpleNamespace(values=values, lm_loss=read.loss)

    def log_metrics(self, line: str) -> None:
        self.events.append(line)


@pytest.fixture
def reporting(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes (a device, its reports)."""
    from nanotron_zagreus.training import reports

    writer = SimpleNamespace(write=lambda metrics: None, write_event=lambda event: None, close=lambda: None)
    monkeypatch.setattr(reports, "MetricsWriter", lambda config: writer)
    monkeypatch.setattr(reports, "log_line", lambda metrics, last: f"log {metrics.values}")
    mixture = SimpleNamespace(samples_of_step=lambda step: [])

    def make(late: bool, **options: Any) -> tuple[Device, Any]:
        monkeypatch.setattr(reports, "reads_late", lambda device: late)
        device = Device(**options)
        return device, reports.StepReports(device, mixture)  # type: ignore[arg-type]

    return make


def test_a_late_step_is_logged_after_the_next_launch_with_its_own_figures(reporting: Any) -> None:
    device, reports = reporting(late=True)
    for step in (1, 2, 3):
        reports.after_step(step, device.launch(step))
    reports.flush()
    reports.flush()
    logs = [f"log {(step, 10.0 * step, 8 * step, 1)}" for step in (1, 2, 3)]
    assert device.events == ["launch 1", "launch 2", logs[0], "launch 3", logs[1], logs[2]]


def test_on_a_cpu_a_step_is_logged_at_once(reporting: Any) -> None:
    device, reports = reporting(late=False)
    for step in (1, 2):
        reports.after_step(step, device.launch(step))
    assert [event.split()[0] for event in device.events] == ["launch", "log", "launch", "log"]


@pytest.mark.parametrize("late", [False, True])
def test_only_the_steps_asked_for_are_logged_and_timed_over_those_between(late: bool, reporting: Any) -> None:
    device, reports = reporting(late=late, interval=3)
    for step in range(1, 7):
        reports.after_step(step, device.launch(step))
    reports.flush()
    assert [event for event in device.events if event.startswith("log")] == [
        f"log {(1, 10.0, 8, 1)}",
        f"log {(4, 40.0, 32, 3)}",
    ]


def test_a_late_guard_ends_the_run_one_step_later_and_leaves_no_step_out(reporting: Any) -> None:
    device, reports = reporting(late=True, norms={2: float("nan"), 3: float("inf"), 4: float("nan")})
    for step in (1, 2, 3):
        reports.after_step(step, device.launch(step))
    with pytest.raises(WorkError, match=r"step 3: .* in the last 2 steps"):
        reports.after_step(4, device.launch(4))
    reports.close(wait=True)
    notices = [event.split(":")[0] for event in device.events if event.startswith("NOTICE")]
    assert notices == ["NOTICE step 2", "NOTICE step 3", "NOTICE step 4"]
    assert len([event for event in device.events if event.startswith("log")]) == 4


@pytest.mark.parametrize("late", [False, True])
def test_skipped_steps_between_logged_ones_are_noticed_and_counted(late: bool, reporting: Any) -> None:
    nan = float("nan")
    device, reports = reporting(late=late, interval=5, norms={3: nan, 8: nan, 9: nan})
    with pytest.raises(WorkError, match=r"step 9: .* in the last 2 steps"):
        for step in range(1, 13):
            reports.after_step(step, device.launch(step))
    reports.close(wait=True)
    notices = [event.split(":")[0] for event in device.events if event.startswith("NOTICE")]
    assert notices == ["NOTICE step 3", "NOTICE step 8", "NOTICE step 9"]


def test_skipped_steps_end_the_run_however_seldom_steps_are_logged(reporting: Any) -> None:
    device, reports = reporting(late=True, interval=10_000, norms={step: float("inf") for step in range(2, 300)})
    with pytest.raises(WorkError, match="step 3"):
        for step in range(1, 300):
            reports.after_step(step, device.launch(step))


def test_a_run_that_ends_between_logged_steps_notices_the_last_ones(reporting: Any) -> None:
    device, reports = reporting(late=True, interval=100, norms={4: float("nan")})
    for step in range(1, 6):
        reports.after_step(step, device.launch(step))
    reports.flush()
    assert [event.split(":")[0] for event in device.events if event.startswith("NOTICE")] == ["NOTICE step 4"]


def test_a_flush_before_a_save_ends_the_run_before_it(reporting: Any) -> None:
    device, reports = reporting(late=True, norms={1: float("nan"), 2: float("nan")})
    for step in (1, 2):
        reports.after_step(step, device.launch(step))
    with pytest.raises(WorkError, match="step 2"):
        reports.flush()


@pytest.mark.parametrize(("wait", "ready", "written"), [(True, False, 1), (False, True, 1), (False, False, 0)])
def test_a_failed_run_waits_for_its_last_figures_only_where_all_ranks_live(
    wait: bool, ready: bool, written: int, reporting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.training.figures import StepFigures

    monkeypatch.setattr(StepFigures, "is_ready", lambda self: ready)
    device, reports = reporting(late=True)
    reports.after_step(1, device.launch(1))
    reports.close(wait=wait)
    assert len([event for event in device.events if event.startswith("log")]) == written


def test_figures_do_not_see_what_happens_to_their_tensors_later(engine: Any) -> None:
    from nanotron_zagreus.training.figures import StepFigures

    norm, skipped = torch.tensor(2.5), torch.tensor(1.0)
    options: dict[str, Any] = {"step": 1, "consumed_samples": 0, "learning_rate": 0.0, "times": None}
    figures = StepFigures(**options, loss=None, grad_norm=norm, skipped=[torch.tensor(0.0), skipped])
    norm.zero_(), skipped.zero_()
    read = figures.read()
    assert (read.loss, read.grad_norm, read.skipped) == (None, 2.5, [False, True])
    assert figures.is_ready()
