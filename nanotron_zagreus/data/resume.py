"""Record what a run has drawn, and compare that record with the data a resumed run finds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.data.sources import Source
from nanotron_zagreus.data.stages import Stage
from nanotron_zagreus.errors import InputError

STATE_FORMAT = 1
_MAX_LISTED = 12

_log = logging.getLogger(__name__)


def record_state(step: int, stages: Sequence[Stage], sources: Sequence[Source], sequence_length: int) -> dict[str, Any]:
    """Return, as JSON data, what was drawn up to and including ``step`` and from which data."""
    begun = [stage for stage in stages if stage.first_step <= step]
    used = sorted({source for stage in begun for source in stage.sources})
    return {
        "format": STATE_FORMAT,
        "step": step,
        "sequence_length": sequence_length,
        "samples": sum(stage.samples_before(step + 1) for stage in begun),
        "stages": [_record_stage(stage, step) for stage in begun],
        "sources": {str(index): _record_source(sources[index]) for index in used},
    }


def check_progress(
    progress: dict[str, Any],
    config: Config,
    stage_sources: Sequence[tuple[int, ...]],
    shares: Sequence[tuple[int, ...]],
    sources: Sequence[Source],
) -> None:
    """Refuse to resume from ``progress`` when the data, the stages or the global batch are not the same.

    Raises:
        InputError: naming everything that changed, and how to accept or undo it.
    """
    if progress.get("format") != STATE_FORMAT:
        raise InputError(
            f"checkpoint: its data record has format {progress.get('format')!r}, this version reads {STATE_FORMAT}; "
            "resume with the version that wrote it"
        )
    _check_history(progress, config)
    changes = _changed_data(progress, config, stage_sources, sources)
    if changes and not config.zagreus.accept_changed_data:
        more = f"; and {len(changes) - _MAX_LISTED} more" if len(changes) > _MAX_LISTED else ""
        raise InputError(
            f"data_stages: the data is not what the checkpoint of step {progress['step']} was trained on: "
            f"{'; '.join(changes[:_MAX_LISTED])}{more}. Restore it, or set zagreus.accept_changed_data: true (windows "
            "of the current epoch may then repeat or be left out)"
        )
    _check_shares(progress, config, shares, may_follow_sizes=bool(changes))
    for change in changes:
        _log.warning("resuming with changed data, as zagreus.accept_changed_data allows: %s", change)
    _check_batch(progress, config)


def stored_shares(progress: dict[str, Any], shares: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the shares with which each stage goes on: those of the checkpoint for the stages it began."""
    begun = [tuple(stage["shares"]) for stage in progress["stages"]]
    return [*begun, *shares[len(begun) :]]


def _record_stage(stage: Stage, step: int) -> dict[str, Any]:
    samples = stage.samples_before(step + 1)
    counts = stage.interleave.counts(samples)
    return {
        "name": stage.name,
        "start_training_step": stage.first_step,
        "samples": samples,
        "sources": list(stage.sources),
        "samples_per_source": counts,
        "shares": list(stage.interleave.shares),
        "configured_shares": list(stage.configured_shares),
        "legs": [
            [leg.first_step, leg.first_sample, leg.samples_per_step] for leg in stage.legs if leg.first_step <= step
        ],
    }


def _record_source(source: Source) -> dict[str, Any]:
    return {
        "folder": str(source.folder),
        "fingerprint": source.fingerprint,
        "seed": source.seed,
        "windows": source.num_windows,
        "validation_windows": source.num_validation_windows,
        "shards": source.digests,
        "tokenizer_sha256": source.tokenizer_sha256,
    }


def _check_history(progress: dict[str, Any], config: Config) -> None:
    """Refuse stages that contradict what was trained: the past cannot be edited, only new stages added."""
    step, begun = progress["step"], progress["stages"]
    if len(config.data_stages) < len(begun):
        raise InputError(
            f"data_stages: got {len(config.data_stages)}, the checkpoint of step {step} was trained on {len(begun)} "
            "stages; keep the stages that were trained, and change the data by adding one"
        )
    for index, (stage, section) in enumerate(zip(begun, config.data_stages, strict=False)):
        if stage["start_training_step"] != section.start_training_step:
            raise InputError(
                f"data_stages[{index}].start_training_step: got {section.start_training_step}, the checkpoint of step "
                f"{step} trained stage {stage['name']!r} from step {stage['start_training_step']}; restore it"
            )
        count, expected = len(section.data.dataset.folders), len(stage["shares"])
        if count != expected:
            raise InputError(
                f"data_stages[{index}].data.dataset: got {count} folders, the checkpoint of step {step} was trained on "
                f"{expected}; to change the mixture add a stage that starts at step {step + 1}"
            )
    for index, section in enumerate(config.data_stages[len(begun) :], start=len(begun)):
        if section.start_training_step <= step:
            raise InputError(
                f"data_stages[{index}].start_training_step: got {section.start_training_step}, but the checkpoint of "
                f"step {step} was still in stage {begun[-1]['name']!r}; a new stage starts at step {step + 1} or later"
            )


def _changed_data(
    progress: dict[str, Any],
    config: Config,
    stage_sources: Sequence[tuple[int, ...]],
    sources: Sequence[Source],
) -> list[str]:
    """Return one sentence for everything in the begun stages that is not as it was."""
    changes = []
    if progress["sequence_length"] != config.tokens.sequence_length:
        changes.append(f"tokens.sequence_length is {config.tokens.sequence_length}, was {progress['sequence_length']}")
    pairs = dict.fromkeys(
        (old, new)
        for stage, members in zip(progress["stages"], stage_sources, strict=False)
        for old, new in zip(stage["sources"], members, strict=True)
    )
    recorded = progress["sources"]
    now: dict[int, int] = {}
    before: dict[int, int] = {}
    for old, new in pairs:
        record, folder = recorded[str(old)], sources[new].folder
        changes += _changed_source(record, sources[new])
        # A stage goes on where earlier ones left a source. Copies of a folder have the same shards, but are others.
        if now.setdefault(old, new) != new:
            changes.append(f"{sources[now[old]].folder} and {folder} were one source, {record['folder']}")
        if before.setdefault(new, old) != old:
            changes.append(f"{folder} was two sources, {recorded[str(before[new])]['folder']} and {record['folder']}")
    return changes


def _check_shares(
    progress: dict[str, Any], config: Config, shares: Sequence[tuple[int, ...]], *, may_follow_sizes: bool
) -> None:
    """Refuse other weights for a stage that was begun: it goes on with the shares it has.

    Args:
        may_follow_sizes: the data changed and that is accepted; shares that follow from sizes are then others.
    """
    for index, stage in enumerate(progress["stages"]):
        by_sizes = config.data_stages[index].data.dataset.weights is None
        if list(shares[index]) in (stage["shares"], stage.get("configured_shares") if by_sizes else None):
            continue
        kept = ":".join(str(share) for share in stage["shares"])
        if may_follow_sizes and by_sizes:
            _log.warning("stage %r keeps the shares %s that it began with; its sizes changed", stage["name"], kept)
            continue
        raise InputError(
            f"data_stages[{index}]: the weights of stage {stage['name']!r} are not those the checkpoint of step "
            f"{progress['step']} was trained with, {kept}, and a stage keeps its weights; restore them, or add a stage "
            f"that starts at step {progress['step'] + 1}"
        )


def _changed_source(old: dict[str, Any], source: Source) -> list[str]:
    changes = []
    if old["seed"] != source.seed:
        changes.append(f"{source.folder}: the seed of its order is {source.seed}, was {old['seed']}")
    if old["fingerprint"] == source.fingerprint:
        return changes
    before, now = old["shards"], source.digests
    changes += [f"{source.folder}: {name} is gone" for name in sorted(set(before) - set(now))]
    changes += [f"{source.folder}: {name} is new" for name in sorted(set(now) - set(before))]
    changes += [
        f"{source.folder}: {name} has other content" for name in sorted(now) if before.get(name, now[name]) != now[name]
    ]
    if old["validation_windows"] != source.num_validation_windows:
        changes.append(
            f"{source.folder}: {source.num_validation_windows} windows are held out for validation, "
            f"were {old['validation_windows']}"
        )
    return changes


def _check_batch(progress: dict[str, Any], config: Config) -> None:
    if not progress["stages"]:
        return
    before, now = progress["stages"][-1]["legs"][-1][2], config.samples_per_step
    if before == now:
        return
    tokens, parallelism = config.tokens, config.parallelism
    if not config.zagreus.accept_changed_batch:
        raise InputError(
            f"tokens: dp x micro_batch_size x batch_accumulation_per_replica = {parallelism.dp} x "
            f"{tokens.micro_batch_size} x {tokens.batch_accumulation_per_replica} = {now} samples a step, the "
            f"checkpoint of step {progress['step']} was trained with {before}; adjust the accumulation to keep "
            f"{before}, or set zagreus.accept_changed_batch: true (the stage then goes on at the sample where it stood)"
        )
    _log.warning("resuming with %d samples a step, was %d, as zagreus.accept_changed_batch allows", now, before)
