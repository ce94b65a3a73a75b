"""Our sections about surviving: how checkpoints are kept, and when a run stops itself."""

from __future__ import annotations

from dataclasses import dataclass

from nanotron_zagreus.config.rules import at_least
from nanotron_zagreus.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CheckpointKeepingSection:
    """How checkpoints are written and which stay; upstream's own keys are in `checkpoints:`."""

    background: bool = True
    """Write in a thread while training goes on; the bytes are those of a synchronous save. Holds a second copy of
    the rank's state in host memory."""
    keep_last: int | None = None
    """Newest checkpoints that stay; None: all."""
    keep_every: int | None = None
    """With keep_last: multiples of this many steps stay for ever."""
    fallback_to_newest_sound: bool = False
    """When the checkpoint to resume from is damaged, take the newest sound one of its folder instead of stopping."""

    def __post_init__(self) -> None:
        if self.keep_last is not None:
            at_least("keep_last", self.keep_last, 1)
        if self.keep_every is not None:
            at_least("keep_every", self.keep_every, 1)
            if self.keep_last is None:
                raise InputError(
                    f"keep_every: got {self.keep_every} without keep_last; set keep_last, or everything stays"
                )


@dataclass(frozen=True, kw_only=True)
class GuardsSection:
    """When a step is skipped, a notice given, or the run ended."""

    max_skipped_steps: int = 10
    """Steps with a non-finite gradient that may follow one another; one more ends the run."""
    loss_spike_factor: float | None = 1.5
    """Give notice when the loss exceeds its running mean by this factor; None: never."""
    replica_check_interval: int = 1000
    """Steps between two comparisons of the weights across dp; 0: never."""
    hang_timeout_seconds: float = 600.0
    """End the job, naming the rank, when nothing moves for so long: no part of a step, no piece of a file that is
    written, no batch of a validation. 0: wait for ever."""

    def __post_init__(self) -> None:
        at_least("max_skipped_steps", self.max_skipped_steps, 0)
        at_least("replica_check_interval", self.replica_check_interval, 0)
        if self.loss_spike_factor is not None and self.loss_spike_factor <= 1:
            raise InputError(f"loss_spike_factor: got {self.loss_spike_factor}, expected a number above 1, or null")
        if self.hang_timeout_seconds < 0:
            raise InputError(f"hang_timeout_seconds: got {self.hang_timeout_seconds}, expected a number >= 0")
