"""One training run from a YAML file to its end.

The order keeps mistakes cheap: configuration, launch, data and checkpoint are checked before the engine
allocates anything, and one rank's refusal is every rank's.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from nanotron_zagreus.checkpoints import layout
from nanotron_zagreus.checkpoints.outcome import Outcome
from nanotron_zagreus.checkpoints.recovery import restore_replaced
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.config.checks import check_world_size
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.engine.launch import group_timeout, rank, start_process_group, world_size
from nanotron_zagreus.errors import InputError, VerificationError
from nanotron_zagreus.training.agreement import agree_on_sharing, attempt, raise_together
from nanotron_zagreus.training.resume_choice import choose_resume_point
from nanotron_zagreus.training.resume_point import find_resume_point


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
    config, refusal = attempt(lambda: _checked(config_file))
    if refusal is not None and world_size() == 1:
        raise refusal
    start_process_group(None if config is None else group_timeout(config.zagreus.guards.hang_timeout_seconds))
    raise_together(refusal)
    assert config is not None, "no rank refused"
    config = agree_on_sharing(config)
    resume = choose_resume_point(config)
    mixture = open_mixture(config, progress=resume.data_state if resume else None)
    from nanotron_zagreus.training.loop import TrainingLoop

    return TrainingLoop(config, mixture, resume, show_samples_every=show_samples_every).run()


def _checked(config_file: str | Path) -> Config:
    """Return the configuration after every check that this rank can make alone, without allocating anything."""
    config = load_config(config_file)
    check_world_size(config, world_size())
    _check_extras(config)
    root = config.checkpoints.checkpoints_path
    _check_writable(root)
    if (restored := restore_replaced(root)) and rank() == 0:
        print(f"zagreus: {root}: a save was interrupted, the steps {restored} are back as they were", file=sys.stderr)
    resume = None
    try:
        resume = find_resume_point(config)
    except (InputError, VerificationError):
        if not config.zagreus.checkpoints.fallback_to_newest_sound:
            raise
    if config.checkpoints.resume_checkpoint_path is None and layout.list_steps(root):
        _refuse_overwriting(config)
    open_mixture(config, progress=resume.data_state if resume else None)
    bring_up(config.zagreus.engine).check(config)
    return config


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
