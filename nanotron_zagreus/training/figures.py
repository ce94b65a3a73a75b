"""The figures of a step on their way from the device to the host, so that reading them need not stop the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nanotron_zagreus.training.step_times import StepTimes


@dataclass(frozen=True)
class FiguresRead:
    """What a step gave, on the host."""

    loss: float | None
    """Mean over the global batch's labels; None where this rank does not have it."""
    grad_norm: float
    """Before clipping."""
    skipped: list[bool]
    """Whether the update was skipped, of every step since figures were last made; this step's is the last."""


class StepFigures:
    """A step's figures, copied from the moment this is made; what happens to the step's tensors later is not seen."""

    def __init__(
        self,
        *,
        step: int,
        consumed_samples: int,
        learning_rate: float,
        times: StepTimes,
        loss: torch.Tensor | None,
        grad_norm: torch.Tensor,
        skipped: list[torch.Tensor],
    ) -> None:
        """Start the copy; on a GPU nothing waits for it here.

        Args:
            step: the step just launched.
            consumed_samples: up to and with this step.
            learning_rate: the one the step used.
            times: of the steps since figures were last made, this one included.
            loss, grad_norm: scalars on the device.
            skipped: of every step since figures were last made, a scalar on the device.
        """
        self.step, self.consumed_samples = step, consumed_samples
        self.learning_rate, self.times = learning_rate, times
        self._has_loss = loss is not None
        scalars = [grad_norm, grad_norm if loss is None else loss, *skipped]
        values = torch.stack([scalar.detach().to(torch.float32) for scalar in scalars])
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._values = values

    def is_ready(self) -> bool:
        """Tell whether :meth:`read` would return at once."""
        return self._event is None or bool(self._event.query())

    def read(self) -> FiguresRead:
        """Return the figures; waits until the device has come to them."""
        if self._event is not None:
            self._event.synchronize()
        grad_norm, loss, *skipped = self._values.tolist()
        return FiguresRead(loss if self._has_loss else None, grad_norm, [bool(flag) for flag in skipped])
