"""Everything about a run that can be refused before any engine, process group or GPU is there.

`zagreus train` asks before it starts the ranks, and every rank asks again, since torchrun and Slurm start ranks
without it. Nothing here makes a folder; a step whose replacement was interrupted gets its name back.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from nanotron_zagreus.checkpoints import layout
from nanotron_zagreus.checkpoints.claim import check_unclaimed
from nanotron_zagreus.checkpoints.recovery import restore_replaced, steps_set_aside
from nanotron_zagreus.checkpoints.starting_weights import find_starting_weights
from nanotron_zagreus.config import Config
from nanotron_zagreus.config.checks import check_world_size
from nanotron_zagreus.data.mixture import Mixture, open_mixture
from nanotron_zagreus.engine.launch import rank
from nanotron_zagreus.errors import InputError, VerificationError
from nanotron_zagreus.training.resume_point import ResumePoint, find_resume_point
from nanotron_zagreus.training.start_notices import start_notices


@dataclass(frozen=True)
class Start:
    """Where a run begins; with neither, at step 1 from random weights."""

    resume: ResumePoint | None
    """The checkpoint to go on from."""
    weights: Path | None
    """The step's folder whose weights a fresh run takes."""
    mixture: Mixture
    """The run's data, from the resume point on."""
    notices: tuple[str, ...] = ()
    """What the user should know; one rank's, for all have the same."""


def check_before_start(config: Config, num_ranks: int) -> Start:
    """Refuse what could not train on this machine; return where the run begins.

    Args:
        config: the checked configuration.
        num_ranks: ranks of the launch, on all nodes.

    Raises:
        InputError: wrong launch, missing package, unfit checkpoint, weights or data, a vocabulary that could not be
            converted, a folder that cannot be written.
        VerificationError: the checkpoint's descriptions are damaged, and no older one is wanted instead.
    """
    check_world_size(config, num_ranks)
    _check_extras(config)
    root = config.checkpoints.checkpoints_path
    check_unclaimed(root)
    if (restored := restore_replaced(root)) and rank() == 0:
        print(f"zagreus: {root}: a save was interrupted, the steps {restored} are back as they were", file=sys.stderr)
    resume, is_damaged = find_checkpoint(config)
    refuse_overwriting(config)
    weights = None if resume is not None or is_damaged else find_starting_weights(config)
    notices = start_notices(config, goes_on=resume is not None or is_damaged) if rank() == 0 else ()
    mixture = open_mixture(config, progress=resume.data_state if resume else None)
    _check_writable(root)
    return Start(resume, weights, mixture, notices)


def find_checkpoint(config: Config) -> tuple[ResumePoint | None, bool]:
    """Return the checkpoint to go on from, or None, and whether it is damaged and an older one will do.

    Raises:
        InputError: as `find_resume_point` does, unless an older one will do.
        VerificationError: likewise.
    """
    try:
        return find_resume_point(config), False
    except (InputError, VerificationError, OSError) as error:
        if config.zagreus.checkpoints.fallback_to_newest_sound:
            return None, True
        if isinstance(error, OSError) and not isinstance(error, InputError):
            raise VerificationError(f"checkpoints.resume_checkpoint_path: cannot be read: {error}") from error
        raise


def _check_extras(config: Config) -> None:
    """Refuse a configuration that asks for a package which is not installed."""
    tracking = config.zagreus.tracking
    wanted = {
        "zagreus.tracking.tensorboard": ("tensorboard", tracking.tensorboard, "tensorboard"),
        "zagreus.tracking.wandb": ("wandb", tracking.wandb, "wandb"),
        "zagreus.attention": ("flash_attn", config.zagreus.attention == "flash_attn", "flash"),
    }
    for field, (module, is_wanted, extra) in wanted.items():
        if is_wanted and importlib.util.find_spec(module) is None:
            raise InputError(
                f"{field}: {module} is not installed; `pip install nanotron-zagreus[{extra}]`, or change the field"
            )


def refuse_overwriting(config: Config) -> None:
    """Refuse a run that does not resume and whose folder holds steps, those included that are to get their names back.

    Raises:
        InputError: naming them.
    """
    root = config.checkpoints.checkpoints_path
    if config.checkpoints.resume_checkpoint_path is not None:
        return
    if steps := sorted({*layout.list_steps(root), *steps_set_aside(root)}):
        raise InputError(
            f"checkpoints.checkpoints_path: {root} already holds the steps {steps}, and the run does not resume; set "
            "checkpoints.resume_checkpoint_path: auto to go on (jobs of `zagreus slurm` do so by themselves), or "
            "choose another folder"
        )


def _check_writable(root: Path) -> None:
    """Refuse a checkpoints folder that cannot be written, before hours of work that could not be saved.

    A folder that does not exist yet is tried in the first parent that does: a refused run leaves nothing behind.
    """
    for folder in (root, *root.absolute().parents):
        if folder.is_symlink() and not folder.exists():
            raise InputError(
                f"checkpoints.checkpoints_path: {folder} is a link to {folder.readlink()}, which does not exist; make "
                "that folder, or name another"
            )
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    probe = existing / f".probe-{os.uname().nodename}-{os.getpid()}"
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"checkpoints.checkpoints_path: {root} cannot be written ({error.strerror}: {error.filename}); free space "
            "there, or name a folder that this user may write"
        ) from error
