"""What a checkpoints folder holds: listing, choosing what to verify, and what may be deleted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.layout import (
    MANIFEST_FILE,
    METADATA_FILE,
    MODEL_CONFIG_FILE,
    is_step_folder,
    list_steps,
    read_latest,
    step_folder,
    step_number,
    sync_folder,
)
from nanotron_zagreus.checkpoints.manifest import read_manifest, verify
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError


def describe_steps(root: Path) -> list[dict[str, Any]]:
    """Return one row per saved step, ascending; sizes are compared with the manifest, contents are not read.

    Args:
        root: a checkpoints folder, or one step's folder, which is a row.

    Raises:
        MissingInputError: the folder does not exist.
        InputError: it is one checkpoint, and no step is its name.
    """
    _require_folder(root)
    root, steps = _steps_meant(root)
    latest = read_latest(root)
    rows = []
    for step in steps:
        row: dict[str, Any] = {"step": step, "latest": step == latest, "samples": None, "bytes": 0, "topology": ""}
        try:
            manifest = read_manifest(step_folder(root, step))
            topology = manifest["topology"]
            row["samples"] = manifest.get("consumed_samples")
            row["topology"] = " ".join(f"{name}={topology[name]}" for name in ("dp", "tp", "pp"))
            row["bytes"] = sum(record.bytes for record in verify(step_folder(root, step), hashes=False))
            row["state"] = "whole"
        except MissingInputError:
            row["state"] = "no manifest"
        except (InputError, VerificationError) as error:
            row["state"] = f"damaged: {error}"
        rows.append(row)
    return rows


def folders_to_verify(path: Path) -> list[Path]:
    """Return the step folders that ``path`` means: itself, or all steps of a root."""
    if is_step_folder(path):
        return [path]
    _require_folder(path)
    steps = [step_folder(path, step) for step in list_steps(path)]
    if not steps:
        raise MissingInputError(f"{path}: holds no saved step; give a checkpoints folder or a step's folder")
    return steps


def newest_sound_step(root: Path) -> int | None:
    """Return the newest step whose files are all there with the right content, or None."""
    for step in reversed(list_steps(root)):
        try:
            verify(step_folder(root, step))
        except (InputError, VerificationError, OSError):
            continue
        return step
    return None


def steps_to_prune(root: Path, *, keep_last: int, keep_every: int | None, verified: bool = False) -> list[int]:
    """Return the steps that may go: not among the last, no multiple, not latest.txt's, not the newest sound one.

    Args:
        root: a checkpoints folder.
        keep_last: newest steps that stay, at least 1.
        keep_every: multiples of this many steps stay; None: no such rule.
        verified: latest.txt's step is known to be sound (it was just written), and newer ones are of a run given up:
            they stay and do not count. Otherwise every byte is read to find the newest sound step.

    Raises:
        MissingInputError: the folder does not exist.
        InputError: the folder is one checkpoint; or, without ``verified``, where it is left alone, a folder in it with
            a number for a name is none, as in a folder of converted ones.
    """
    _require_folder(root)
    if _is_one_checkpoint(root):
        step = step_number(root.absolute())
        parent = root.parent if root.name else root.absolute().parent
        what = "is one checkpoint" if step is None else f"is the checkpoint of step {step}"
        advice = "give a run's checkpoints_path" if step is None else f"give {parent}"
        raise InputError(f"{root}: {what}, and prune deletes the old ones in a folder of steps; {advice}")
    all_steps, latest = list_steps(root), read_latest(root)
    steps = [step for step in all_steps if is_step_folder(step_folder(root, step))]
    foreign = sorted(set(all_steps) - set(steps))
    if foreign and not verified:
        raise InputError(
            f"{step_folder(root, foreign[0])}: not a checkpoint, it holds no {MODEL_CONFIG_FILE}; prune deletes in a "
            "run's checkpoints_path alone, and where nothing else has a number for a name"
        )
    given_up = [step for step in steps if verified and latest is not None and step > latest]
    counted = [step for step in steps if step not in given_up]
    kept = {*counted[-keep_last:], *given_up, latest, *([] if verified else [newest_sound_step(root)])}
    if keep_every is not None:
        kept |= {step for step in steps if step % keep_every == 0}
    return [step for step in steps if step not in kept]


def delete_step(root: Path, step: int) -> None:
    """Delete a step's folder; it loses its name first, so that a half-deleted one is never taken for whole."""
    doomed = root / f".deleting-{step}"
    shutil.rmtree(doomed, ignore_errors=True)
    step_folder(root, step).rename(doomed)
    sync_folder(root)
    shutil.rmtree(doomed)


def _steps_meant(path: Path) -> tuple[Path, list[int]]:
    """Return the folder of steps that ``path`` is or lies in, and which of its steps are meant."""
    if not _is_one_checkpoint(path):
        return path, list_steps(path)
    step = step_number(path.absolute())
    if step is None:
        advice = f"read it with `zagreus checkpoints verify {path}`"
        if not (path / MANIFEST_FILE).is_file():
            advice = f"it has no {MANIFEST_FILE} to be verified by, and `zagreus convert` checks what it reads of it"
        raise InputError(
            f"{path}: is one checkpoint, not a folder of steps; {advice}, or give a run's checkpoints_path"
        )
    return path.absolute().parent, [step]


def _is_one_checkpoint(path: Path) -> bool:
    """Tell whether ``path`` is one step's folder, whole or not, rather than a root of many."""
    files = (MODEL_CONFIG_FILE, METADATA_FILE, MANIFEST_FILE)
    return not list_steps(path) and any((path / name).is_file() for name in files)


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        raise MissingInputError(f"checkpoints folder {str(root)!r} does not exist; give the run's checkpoints_path")
