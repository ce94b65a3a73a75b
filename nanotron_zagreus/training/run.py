"""One training run from a YAML file to its end.

The order keeps mistakes cheap: configuration, launch, data and checkpoint are checked before the engine
allocates anything.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.checkpoints.inventory import newest_sound_step
from nanotron_zagreus.checkpoints.outcome import Outcome
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.config.checks import check_world_size
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.engine.launch import start_process_group, world_size
from nanotron_zagreus.errors import InputError, VerificationError

if TYPE_CHECKING:
    from nanotron_zagreus.training.resume_point import ResumePoint


def run_training(config_file: str | Path, *, show_samples_every: int | None = None) -> Outcome:
    """Train what the file says, on this rank of the launch, and return how it ended.

    Args:
        config_file: the training YAML.
        show_samples_every: log where a step's samples come from every so many steps.

    Raises:
        InputError: anything wrong with the configuration, launch, data or checkpoint, before work starts.
        VerificationError: the checkpoint to resume from is damaged.
        WorkError: the run failed in the middle; what was saved is kept.
    """
    config = load_config(config_file)
    check_world_size(config, world_size())
    from nanotron_zagreus.training.resume_point import find_resume_point

    _check_extras(config)
    _check_writable(config.checkpoints.checkpoints_path)
    resume = find_resume_point(config)
    if resume is None and layout.list_steps(config.checkpoints.checkpoints_path):
        _refuse_overwriting(config)
    mixture = open_mixture(config, progress=resume.data_state if resume else None)
    bring_up(config.zagreus.engine).check(config)
    start_process_group()
    if resume is not None:
        found, resume = resume, _verified(config, resume)
        if resume is not found:
            mixture = open_mixture(config, progress=resume.data_state)
    from nanotron_zagreus.training.loop import TrainingLoop

    return TrainingLoop(config, mixture, resume, show_samples_every=show_samples_every).run()


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


def _check_writable(root: Path) -> None:
    """Refuse a checkpoints folder that cannot be written, before hours of work that could not be saved."""
    probe = root / f".probe-{os.uname().nodename}-{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"checkpoints.checkpoints_path: {root} cannot be written ({error.strerror}: {error.filename}); free space "
            "there, or name a folder that this user may write"
        ) from error


def _refuse_overwriting(config: Config) -> None:
    root = config.checkpoints.checkpoints_path
    raise InputError(
        f"checkpoints.checkpoints_path: {root} already holds the steps {layout.list_steps(root)}, and the run does not "
        "resume; set checkpoints.resume_checkpoint_path: auto to go on, or choose another folder"
    )


def _verified(config: Config, resume: ResumePoint) -> ResumePoint:
    """Return a resume point every byte of which is what its manifest says, the same on all ranks.

    Raises:
        VerificationError: it is damaged, and no fallback is wanted or there is none.
        InputError: nodes without a shared file system hold different checkpoints.
    """
    from nanotron_zagreus.training.resume_point import find_resume_point

    problems = _verify_together(resume)
    if not problems:
        return resume
    if not config.zagreus.checkpoints.fallback_to_newest_sound:
        raise VerificationError(
            f"{problems[0]}. Restore the file, resume from another step, or set "
            "zagreus.checkpoints.fallback_to_newest_sound: true"
        )
    root = resume.folder.parent
    step = newest_sound_step(root)
    if step is None:
        raise VerificationError(f"{problems[0]}. No other step in {root} is sound")
    fallback = find_resume_point(config, layout.step_folder(root, step))
    if fallback is None or _verify_together(fallback):
        raise VerificationError(f"{problems[0]}. The ranks do not agree on a sound step in {root}")
    return fallback


def _verify_together(resume: ResumePoint) -> list[str]:
    """Check the files, the ranks of a node sharing the reading; return every rank's problem, on every rank."""
    from torch import distributed

    part = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    problem = None
    try:
        manifest.verify(resume.folder, part=part)
    except (InputError, VerificationError, OSError) as error:
        problem = str(error)
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, (problem, resume.step, resume.consumed_samples))
    if len({places[1:] for places in found}) > 1:
        raise InputError(
            f"checkpoints.resume_checkpoint_path: the nodes found different steps ({sorted({f[1] for f in found})}); "
            "without a shared file system every node must hold the same one, name it in resume_checkpoint_path"
        )
    return [places[0] for places in found if places[0]]
