"""Say how often each source is passed over, and refuse more than the configuration allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanotron_zagreus.config.data import DatasetSection
from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.data.sources import Source
from nanotron_zagreus.data.stages import Stage
from nanotron_zagreus.errors import InputError


@dataclass(frozen=True)
class Draw:
    """What one stage draws from one source."""

    stage: str
    folder: Path
    available_tokens: int
    """Tokens on disk."""
    trainable_tokens: int
    """Tokens of whole windows that are not held out; one epoch draws them once."""
    share: float
    drawn_tokens: int
    """Tokens the stage trains on: samples x sequence_length."""
    epochs: float
    """Passes over the source in this stage."""
    epochs_so_far: float
    """Passes over the source up to the end of this stage."""


def list_draws(sources: Sequence[Source], stages: Sequence[Stage]) -> list[Draw]:
    """Return what each stage draws from each of its sources, in order."""
    draws = []
    for stage in stages:
        counts = stage.interleave.counts(stage.num_samples)
        total = sum(stage.interleave.shares)
        for index, share, before, count in zip(
            stage.sources, stage.interleave.shares, stage.start_positions, counts, strict=True
        ):
            source = sources[index]
            draws.append(
                Draw(
                    stage=stage.name,
                    folder=source.folder,
                    available_tokens=source.num_tokens,
                    trainable_tokens=source.num_windows * (source.window_tokens - 1),
                    share=share / total,
                    drawn_tokens=count * (source.window_tokens - 1),
                    epochs=count / source.num_windows,
                    epochs_so_far=(before + count) / source.num_windows,
                )
            )
    return draws


def missed_targets(config: Config, stages: Sequence[Stage]) -> list[str]:
    """Return a sentence for every stage whose length is not the sum of its groups' target tokens (within 1 %)."""
    sentences = []
    for section, stage in zip(config.data_stages, stages, strict=True):
        target = sum(group.tokens for group in section.data.dataset.groups)
        drawn = stage.num_samples * config.tokens.sequence_length
        if target and abs(drawn - target) > 0.01 * target:
            sentences.append(
                f"stage {stage.name!r} draws {drawn:,} tokens, its groups' targets add up to {target:,}: each group "
                f"gets {drawn / target:.2%} of its target; adjust the steps or the targets"
            )
    return sentences


def check_repetition(config: Config, sources: Sequence[Source], stages: Sequence[Stage]) -> None:
    """Refuse a run that passes over a source more often than `zagreus.max_source_epochs` or its group allows."""
    limits = [_group_limits(section.data.dataset) for section in config.data_stages]
    elsewhere = {folder: limit for stage_limits in limits for folder, limit in stage_limits.items()}
    for own, stage in zip(limits, stages, strict=True):
        named = elsewhere | own
        for draw in list_draws(sources, [stage]):
            folder, field = draw.folder.resolve(), "zagreus.max_source_epochs"
            limit = config.zagreus.max_source_epochs
            if folder in named:
                limit, field = named[folder], "max_epochs of its group"
            if draw.epochs_so_far > limit:
                raise InputError(
                    f"data_stages: by the end of stage {draw.stage!r} {draw.folder} would be passed over "
                    f"{draw.epochs_so_far:.2f} times (its {draw.trainable_tokens:,} trainable tokens), more than the "
                    f"limit of {limit:g}; add data, lower its weight, train fewer steps, or raise {field}"
                )


def _group_limits(dataset: DatasetSection) -> dict[Path, float]:
    """Return the limit of each folder whose group names one."""
    return {
        folder.resolve(): group.max_epochs
        for group in dataset.groups
        for folder in group.folders
        if group.max_epochs is not None
    }
