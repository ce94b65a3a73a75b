"""What the user of a resumed run should know, though none of it is wrong: changed settings, and steps in the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nanotron_zagreus.checkpoints import layout
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.config.parsing import to_plain
from nanotron_zagreus.training.resume_point import ResumePoint

_EXPECTED = ("checkpoints.resume_checkpoint_path", "general.step", "general.consumed_train_samples")
"""Where a run begins, and what a checkpoint's copy says of how far it was: these differ at every resume."""
_MOST_SHOWN = 12
_MISSING = "unset"


def resume_notices(config: Config, point: ResumePoint) -> list[str]:
    """Return a sentence for the settings that are not the checkpoint's, and one for newer steps beside it."""
    notices = []
    changes = _changes(load_config(point.folder / layout.CONFIG_FILE), config)
    if changes:
        more = f" and {len(changes) - _MOST_SHOWN} more" if len(changes) > _MOST_SHOWN else ""
        notices.append(f"settings that {point.folder} was not trained with: {'; '.join(changes[:_MOST_SHOWN])}{more}")
    root = config.checkpoints.checkpoints_path
    newer = [step for step in layout.list_steps(root) if step > point.step]
    if newer:
        notices.append(
            f"{root} holds steps after {point.step}: {', '.join(map(str, newer))}; each stays until this run saves the "
            "same step"
        )
    return notices


def _changes(saved: Config, config: Config) -> list[str]:
    old, new = dict(_leaves(to_plain(saved))), dict(_leaves(to_plain(config)))
    names = [name for name in {**old, **new} if name not in _EXPECTED]
    pairs = [(name, old.get(name, _MISSING), new.get(name, _MISSING)) for name in names]
    return [f"{name} {before} -> {now}" for name, before, now in pairs if before != now]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of everything that is no section."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        for index, entry in enumerate(value):
            yield from _leaves(entry, f"{name}[{index}]")
    else:
        yield name, value
