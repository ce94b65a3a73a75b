"""What a run says of its steps: the log line, metrics.jsonl, notices, and the end of a run that only skips steps.

On a GPU the figures of a step are read once the next step is launched: reading them at once would let the device run
dry at every step, while the host talks to the other ranks and fetches the next batch. Whatever must not run ahead of
the figures (a save, a validation, the end) calls `flush` first. On a CPU a step is over when it is launched, and its
figures are read at once.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from nanotron_zagreus.data.mixture import Mixture
from nanotron_zagreus.training.figures import StepFigures
from nanotron_zagreus.training.guards import SpikeNotice
from nanotron_zagreus.training.metrics import MetricsWriter, log_line
from nanotron_zagreus.training.trainer import ZagreusTrainer

_MOST_UNREAD = 256
"""Steps after which the host looks whether some were skipped, however seldom steps are logged."""


def reads_late(device: torch.device) -> bool:
    """Tell whether a step's figures are read only when the next step is launched."""
    return device.type == "cuda"


class StepReports:
    """Looks at the steps of one run; every rank makes the same calls, one rank writes."""

    def __init__(self, trainer: ZagreusTrainer, mixture: Mixture) -> None:
        """Open metrics.jsonl and the trackers on the rank that holds the loss."""
        self._trainer, self._mixture = trainer, mixture
        self._metrics = MetricsWriter(trainer.run) if trainer.holds_loss else None
        self._spikes = SpikeNotice(trainer.run.zagreus.guards.loss_spike_factor)
        self._reads_late = reads_late(trainer.device)
        self._pending: StepFigures | None = None

    def after_step(self, step: int, loss: torch.Tensor | None) -> None:
        """Take note of the step just launched, if the configuration wants it logged, and report the one before.

        Raises:
            WorkError: too many steps in a row were skipped, on every rank.
        """
        before, self._pending = self._pending, None
        if (step - 1) % self._trainer.run.logging.iteration_step_info_interval == 0:
            self._pending = self._trainer.step_figures(loss)
        if before is not None:
            self._report(before)
        if not self._reads_late or self._trainer.guard.num_unread >= _MOST_UNREAD:
            self.flush()

    def flush(self) -> None:
        """Report the step that has not been, if there is one, and skipped steps since; waits for the device.

        Raises:
            WorkError: as of :meth:`after_step`.
        """
        figures, self._pending = self._pending, None
        if figures is not None:
            self._report(figures)
        if unread := self._trainer.guard.take_unread():
            skipped = [bool(flag) for flag in torch.stack(unread).tolist()]
            self._trainer.step_times.settle()
            self._notice_skipped(self._trainer.iteration_step, skipped)
            self._trainer.guard.check(self._trainer.iteration_step, skipped)

    def write_event(self, event: dict[str, Any], line: str) -> None:
        """Record an event in metrics.jsonl and in the log."""
        if self._metrics is not None:
            self._metrics.write_event(event)
            self._trainer.log_metrics(line)

    def close(self, *, wait: bool) -> None:
        """Write what is left and close everything.

        Args:
            wait: for the device. It may stand still when another rank has failed: then only what is there is written.
        """
        figures, self._pending = self._pending, None
        if figures is not None:
            with contextlib.suppress(Exception):  # an error of the device has been raised already
                if wait or figures.is_ready():
                    self._write(figures)
        if self._metrics is not None:
            self._metrics.close()

    def _report(self, figures: StepFigures) -> None:
        """Write a step's figures, then look whether the run may go on."""
        self._trainer.guard.check(figures.step, self._write(figures))

    def _write(self, figures: StepFigures) -> list[bool]:
        """Write a step's figures and notices; return which steps since the last figures were skipped."""
        read = figures.read()
        if self._metrics is not None and read.loss is not None:
            metrics = self._trainer.step_metrics(figures, read)
            self._metrics.write(metrics)
            self._trainer.log_metrics(log_line(metrics, self._trainer.run.tokens.train_steps))
            if (mean := self._spikes.see(metrics.lm_loss)) is not None:
                self._notice(figures.step, "loss_spike", f"loss {metrics.lm_loss:.3f}, running mean {mean:.3f}")
        self._notice_skipped(figures.step, read.skipped)
        return read.skipped

    def _notice_skipped(self, last: int, skipped: list[bool]) -> None:
        """Record every skipped step; ``skipped`` tells of the steps up to ``last``, logged or not."""
        for step, is_skipped in enumerate(skipped, start=last + 1 - len(skipped)):
            if is_skipped:
                text = "the loss or the gradient norm is not finite; the update was skipped"
                self._notice(step, "skipped_step", text)

    def _notice(self, step: int, kind: str, text: str) -> None:
        """Record an event with the step's samples, so that `zagreus replay` can show them."""
        if self._metrics is not None:
            samples = [list(sample) for sample in self._mixture.samples_of_step(step)]
            event = {"event": kind, "iteration": step, "text": text, "samples": samples}
            self.write_event(event, f"NOTICE step {step}: {text} (`zagreus replay --step {step}` shows its samples)")
