"""What a run watches in itself: gradients that are no numbers, losses that jump, replicas that drift apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import distributed

from nanotron_zagreus.errors import WorkError, agreed

_CHECKSUM_CHUNK = 1 << 22
"""Elements summed at once: their 8-byte copies must fit beside the model."""


class NonFiniteGuard:
    """Skips the update of a step whose loss or global gradient norm is not finite; counts such steps in a row.

    The norm has been reduced over every rank, and the loss is in it (see `gradients.clip_gradients`), so all ranks
    see the same value and decide alike. With a fused optimizer the decision stays on the device: the kernel leaves
    parameters, moments and step counters alone (torch's `found_inf`, made for gradient scaling), and no step waits
    for the host, which reads what was decided when it reads a step's figures.
    """

    def __init__(self, max_in_a_row: int) -> None:
        self._max_in_a_row = max_in_a_row
        self._in_a_row = 0
        self._unread: list[torch.Tensor] = []

    def step(self, optimizer: Any, grad_norm: torch.Tensor) -> None:
        """Run ``optimizer.step()``, or nothing of it when ``grad_norm`` is not finite."""
        bad = (~torch.isfinite(grad_norm)).to(torch.float32)
        self._unread.append(bad)
        base = optimizer.get_base_optimizer()
        if all(group.get("fused") for group in base.param_groups):
            base.found_inf = bad
            optimizer.step()
        elif not bool(bad):
            optimizer.step()

    @property
    def num_unread(self) -> int:
        """Steps whose decision nobody has taken yet."""
        return len(self._unread)

    def take_unread(self) -> list[torch.Tensor]:
        """Return, for each step since the last call, a scalar on the device: 1 where the step was skipped, else 0."""
        unread, self._unread = self._unread, []
        return unread

    def check(self, step: int, skipped: Sequence[bool]) -> None:
        """End the run when too many steps in a row were skipped; the same on every rank.

        Args:
            step: the last of the steps looked at.
            skipped: whether each of them was skipped; every step is told once, in order.

        Raises:
            WorkError: more than `max_skipped_steps` in a row.
        """
        for number, is_skipped in enumerate(skipped, start=step + 1 - len(skipped)):
            self._in_a_row = self._in_a_row + 1 if is_skipped else 0
            if self._in_a_row > self._max_in_a_row:
                raise agreed(
                    WorkError(
                        f"step {number}: the loss or the gradient norm was not finite in the last {self._in_a_row} "
                        f"steps (zagreus.guards.max_skipped_steps is {self._max_in_a_row}); their samples are in "
                        "metrics.jsonl, look at them with `zagreus replay`, and resume from an earlier checkpoint "
                        "with a lower learning rate"
                    )
                )


class SpikeNotice:
    """Compares each loss with the running mean of those before it."""

    _DECAY = 0.98
    """Weight of the past: a mean over about the last 50 losses."""
    _WARMUP = 20
    """Losses before the first comparison: at the start the loss falls too fast for a mean to mean anything."""

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._mean = 0.0
        self._count = 0

    def see(self, loss: float) -> float | None:
        """Take the next loss; return the mean it exceeds by the factor, or None."""
        if self._factor is None or not math.isfinite(loss):
            return None
        spiked = self._count >= self._WARMUP and loss > self._factor * self._mean
        mean = self._mean
        if not spiked:
            self._mean = loss if self._count == 0 else self._DECAY * self._mean + (1 - self._DECAY) * loss
            self._count += 1
        return mean if spiked else None


def checksum(parameters: Iterable[torch.Tensor]) -> int:
    """Return a number that differs when any bit of the parameters differs (up to chance).

    The bits are summed as integers, each weighted by its place, modulo 2^64.
    """
    total = 0
    for index, parameter in enumerate(parameters):
        bits = parameter.detach().flatten().view(torch.int16 if parameter.element_size() == 2 else torch.int32)
        sums = []
        for start in range(0, bits.numel(), _CHECKSUM_CHUNK):
            chunk = bits[start : start + _CHECKSUM_CHUNK].to(torch.int64)
            places = torch.arange(start + 1, start + chunk.numel() + 1, device=bits.device) * (2 * index + 1)
            sums.append((chunk * places).sum())
        total = (total + sum(int(part) for part in sums)) & (2**64 - 1)
    return total


def check_replicas(parameters: Iterable[torch.Tensor], dp_group: Any, step: int, world: Any) -> None:
    """Compare the weights of the data-parallel replicas; every rank calls it, and every rank raises or none.

    Args:
        parameters: this rank's.
        dp_group: the ranks that hold the same part of the model.
        step: for the message.
        world: a group of all ranks.

    Raises:
        WorkError: a replica's weights differ from those of most others, and it is named; without a majority, all are.
    """
    mine = checksum(parameters)
    sums: list[Any] = [None] * dp_group.size()
    distributed.all_gather_object(sums, mine, group=dp_group)
    usual = max(set(sums), key=sums.count)
    if 2 * sums.count(usual) <= len(sums) and len(set(sums)) > 1:
        usual = None  # no majority: who is wrong cannot be told
    odd = [distributed.get_global_rank(dp_group, i) for i, value in enumerate(sums) if value != usual]
    found: list[Any] = [None] * distributed.get_world_size(world)
    distributed.all_gather_object(found, odd, group=world)
    if different := sorted({rank for ranks in found for rank in ranks}):
        raise agreed(
            WorkError(
                f"step {step}: the weights of ranks {different} differ from those of the other replicas, or from one "
                "another where there is no majority (hardware fault or lost synchronisation); resume from the last "
                "checkpoint without their nodes"
            )
        )


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Tell whether every element of every tensor is a finite number."""
    flags = [torch.isfinite(tensor).all() for tensor in tensors]
    return not flags or bool(torch.stack(flags).all())
