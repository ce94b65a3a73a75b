"""Resolve the configuration's data stages: which sources, in which shares, for which samples.

A stage is divided into legs: spans of steps with one global batch. A run has one leg per stage unless it
was resumed with another global batch; then the stage goes on at the sample where it stood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from nanotron_zagreus.config.data import DatasetSection, DataStageSection
from nanotron_zagreus.data.interleave import MAX_SAMPLES, Interleave, whole_shares
from nanotron_zagreus.data.sources import Source
from nanotron_zagreus.errors import InputError


@dataclass(frozen=True)
class Leg:
    """Steps of one global batch: step t starts at sample first_sample + (t - first_step) x samples_per_step."""

    first_step: int
    first_sample: int
    samples_per_step: int

    def first_sample_of(self, step: int) -> int:
        """Return the stage's sample number at which ``step`` starts."""
        return self.first_sample + (step - self.first_step) * self.samples_per_step


@dataclass(frozen=True)
class Stage:
    """A span of steps with one mixture."""

    index: int
    name: str
    first_step: int
    last_step: int
    """Inclusive."""
    sources: tuple[int, ...]
    """Indices into the mixture's sources, in the order of the folders."""
    interleave: Interleave
    configured_shares: tuple[int, ...]
    """What the configured weights or the sizes give: a stage that was begun keeps its shares when sizes change."""
    start_positions: tuple[int, ...]
    """Samples that earlier stages drew from each of the sources."""
    legs: tuple[Leg, ...]

    @property
    def num_samples(self) -> int:
        """Samples the whole stage draws."""
        return self.samples_before(self.last_step + 1)

    def samples_before(self, step: int) -> int:
        """Return the samples of this stage drawn in steps before ``step``; its own boundaries included."""
        step = min(max(step, self.first_step), self.last_step + 1)
        return self.leg_of(step).first_sample_of(step)

    def leg_of(self, step: int) -> Leg:
        """Return the leg that ``step`` belongs to."""
        return next(leg for leg in reversed(self.legs) if leg.first_step <= step)


def shares_of(dataset: DatasetSection, sources: Sequence[Source]) -> tuple[int, ...]:
    """Return the whole-numbered shares of ``sources``, which are the folders of ``dataset`` in order.

    Declared weights are taken as the decimals that were written, so that 0.4 is exactly 2/5. Without
    weights the shares are the numbers of windows; in a group they divide the group's tokens.
    """
    sizes = [source.num_windows for source in sources]
    if dataset.dataset_groups is not None:
        weights, first = [], 0
        for group in dataset.groups:
            members = sizes[first : first + len(group.folders)]
            weights += [Fraction(group.tokens * size, sum(members)) for size in members]
            first += len(members)
        return whole_shares(weights)
    if dataset.weights is None:
        return whole_shares([Fraction(size) for size in sizes])
    return whole_shares([Fraction(repr(weight)) for weight in dataset.weights])


def build_stages(
    sections: Sequence[DataStageSection],
    stage_sources: Sequence[tuple[int, ...]],
    shares: Sequence[tuple[int, ...]],
    configured_shares: Sequence[tuple[int, ...]],
    *,
    num_sources: int,
    train_steps: int,
    samples_per_step: int,
    progress: dict[str, Any] | None = None,
) -> tuple[Stage, ...]:
    """Return the stages in order, each continuing its sources where earlier ones left them.

    Args:
        stage_sources: per stage, the indices of its sources.
        shares: per stage, the shares with which it draws from these sources.
        configured_shares: per stage, the shares by its weights or by sizes.
        num_sources: sources of all stages together.
        progress: state of the checkpoint being resumed; its legs are the history of the stages it began.
    """
    positions = [0] * num_sources
    stages = []
    for index, section in enumerate(sections):
        following = sections[index + 1].start_training_step if index + 1 < len(sections) else train_steps + 1
        first_step = section.start_training_step
        stage = Stage(
            index=index,
            name=section.name,
            first_step=first_step,
            last_step=following - 1,
            sources=stage_sources[index],
            interleave=Interleave(shares[index]),
            configured_shares=configured_shares[index],
            start_positions=tuple(positions[source] for source in stage_sources[index]),
            legs=_legs(index, first_step, samples_per_step, progress),
        )
        if stage.num_samples > MAX_SAMPLES:
            raise InputError(f"data_stages[{index}]: {stage.num_samples} samples, more than {MAX_SAMPLES}; shorten it")
        for source, count in zip(stage.sources, stage.interleave.counts(stage.num_samples), strict=True):
            positions[source] += count
        stages.append(stage)
    return tuple(stages)


def _legs(index: int, first_step: int, samples_per_step: int, progress: dict[str, Any] | None) -> tuple[Leg, ...]:
    """Return the legs of stage ``index``: those the checkpoint tells of, and one more if the batch changed."""
    if progress is None or index >= len(progress["stages"]):
        return (Leg(first_step, 0, samples_per_step),)
    legs = [Leg(*leg) for leg in progress["stages"][index]["legs"]]
    is_current = index == len(progress["stages"]) - 1
    if is_current and legs[-1].samples_per_step != samples_per_step:
        next_step = progress["step"] + 1
        legs.append(Leg(next_step, legs[-1].first_sample_of(next_step), samples_per_step))
    return tuple(legs)
