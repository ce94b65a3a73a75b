"""Choose the checkpoint that all ranks go on from: every byte of it read, the ranks of a node sharing the reading."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.config import Config
from nanotron_zagreus.engine.launch import exchange, place_on_node, rank
from nanotron_zagreus.errors import InputError, VerificationError, agreed
from nanotron_zagreus.training.agreement import attempt, raise_together, some_ranks
from nanotron_zagreus.training.resume_point import (
    ResumePoint,
    check_fits,
    older_steps,
    read_point,
    wanted_point,
    ways_out,
)

_DAMAGE = (InputError, VerificationError, OSError)


def choose_resume_point(config: Config) -> ResumePoint | None:
    """Return a resume point every byte of which is what its manifest says, the same on all ranks; None: start anew.

    Raises:
        VerificationError: it is damaged, and no fallback is wanted or there is none.
        InputError: it does not fit the run, or the nodes hold different checkpoints.
    """
    if config.checkpoints.resume_checkpoint_path is None:
        return None
    point, problem = _looked_at(config, None)
    problems = _agree(point, problem)
    if not problems:
        return _fitting(config, point)
    if not config.zagreus.checkpoints.fallback_to_newest_sound:
        raise agreed(VerificationError(f"{problems[0]}{ways_out(config)}"))
    older, refusal = attempt(lambda: older_steps(config)[1])
    raise_together(refusal)
    for step in sorted(set.intersection(*map(set, exchange(older))), reverse=True):
        point, problem = _looked_at(config, step)
        if not _agree(point, problem) and point is not None:
            note = f"{problems[0]}; going on from step {step}, the newest sound one before it"
            return _fitting(config, dataclasses.replace(point, note=note))
    raise agreed(VerificationError(f"{problems[0]}. No older step beside it is sound"))


def _fitting(config: Config, point: ResumePoint | None) -> ResumePoint | None:
    """Return the point, which all ranks have found sound, if it fits the run; say what there is to say about it."""
    if point is not None:
        _, refusal = attempt(lambda: check_fits(config, point))
        raise_together(refusal)
        if point.note and rank() == 0:
            print(f"zagreus: {point.note}", file=sys.stderr, flush=True)
    return point


def _looked_at(config: Config, step: int | None) -> tuple[ResumePoint | None, str | None]:
    """Read this rank's part of the wanted checkpoint, or of another step; return it and what is wrong with it."""
    point = None
    try:
        folder = None if step is None else layout.step_folder(older_steps(config)[0], step)
        point = wanted_point(config) if folder is None else read_point(folder)
        if point is not None:
            manifest.verify(point.folder, part=place_on_node())
    except _DAMAGE as error:
        return point, str(error)
    return point, None


def _agree(point: ResumePoint | None, problem: str | None) -> list[str]:
    """Return every rank's problem, on every rank, once all have found the same checkpoint."""
    found: list[Any] = exchange((problem, point and point.step, point and point.consumed_samples))
    problems = [text for text, _, _ in found if text]
    holders: dict[tuple[int | None, int | None], list[str]] = {}
    for number, (text, step, samples) in enumerate(found):
        if not text:
            holders.setdefault((step, samples), []).append(str(number))
    if len(holders) > 1:
        names = [
            f"{'none' if step is None else f'step {step}'} on {some_ranks(ranks)}"
            for (step, _), ranks in holders.items()
        ]
        raise agreed(
            InputError(
                f"checkpoints.resume_checkpoint_path: the nodes found different checkpoints ({'; '.join(names)}); "
                "without a shared file system every node must hold the same one: copy it to the nodes that lack it, or "
                "name a step that all of them hold"
            )
        )
    return problems
