"""One training run from a YAML file to its end.

The order keeps mistakes cheap: configuration, launch, data and checkpoint are checked before the engine
allocates anything.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.checkpoints.inventory import newest_sound_step
from nanotron_zagreus.checkpoints.outcome import Outcome
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.engine.launch import rank, start_process_group, world_size
from nanotron_zagreus.errors import InputError, VerificationError
from nanotron_zagreus.resources import find_config
from nanotron_zagreus.training.preflight import check_before_start
from nanotron_zagreus.training.resume_point import ResumePoint, find_resume_point


def run_training(config_file: str | Path, *, show_samples_every: int | None = None) -> Outcome:
    """Train what the file says, on this rank of the launch, and return how it ended.

    Args:
        config_file: the training YAML.
        show_samples_every: log where a step's samples come from every so many steps.

    Raises:
        InputError: anything wrong with the configuration, launch, data or checkpoint, before work starts.
        VerificationError: the checkpoint to resume or to start from is damaged.
        WorkError: the run failed in the middle; what was saved is kept.
    """
    file = find_config(config_file).resolve()
    config = load_config(file)
    start = check_before_start(config, world_size())
    if rank() == 0:
        print(f"zagreus: training {file}", flush=True)
    bring_up(config.zagreus.engine).check(config)
    start_process_group()
    resume, mixture = start.resume, start.mixture
    if resume is not None:
        resume = _verified(config, resume)
        if resume is not start.resume:
            mixture = open_mixture(config, progress=resume.data_state)
    if start.weights is not None:
        _verify_weights(start.weights)
    config.checkpoints.checkpoints_path.mkdir(parents=True, exist_ok=True)
    from nanotron_zagreus.training.loop import TrainingLoop

    return TrainingLoop(config, mixture, resume, show_samples_every=show_samples_every).run()


def _verified(config: Config, resume: ResumePoint) -> ResumePoint:
    """Return a resume point every byte of which is what its manifest says, the same on all ranks.

    Raises:
        VerificationError: it is damaged, and no fallback is wanted or there is none.
        InputError: nodes without a shared file system hold different checkpoints.
    """
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
    """Check the files of a resume point; return every rank's problem, on every rank."""
    found = _gather_problems(resume.folder, facts=(resume.step, resume.consumed_samples))
    if len({facts for _, facts in found}) > 1:
        steps = sorted({facts[0] for _, facts in found})
        raise InputError(
            f"checkpoints.resume_checkpoint_path: the nodes found different steps ({steps}); "
            "without a shared file system every node must hold the same one, name it in resume_checkpoint_path"
        )
    return [problem for problem, _ in found if problem]


def _verify_weights(folder: Path) -> None:
    """Refuse starting weights that are not what their manifest says; imported and foreign ones have none."""
    problems = [problem for problem, _ in _gather_problems(folder, only=manifest.WEIGHT_FILES) if problem]
    if problems:
        raise VerificationError(f"model.init_method.path: {problems[0]}. Restore the file, or start from another step")


def _gather_problems(
    folder: Path, *, facts: tuple[int, ...] = (), only: tuple[str, ...] | None = None
) -> list[tuple[str | None, tuple[int, ...]]]:
    """Check the files, the ranks of a node sharing the reading; return every rank's problem and facts.

    Args:
        facts: what all ranks should agree on.
        only: see `manifest.verify`; a folder without a manifest is then taken as it is.
    """
    from torch import distributed

    part = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    problem = None
    try:
        if only is None or (folder / layout.MANIFEST_FILE).exists():
            manifest.verify(folder, part=part, only=only)
    except (InputError, VerificationError, OSError) as error:
        problem = str(error)
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, (problem, facts))
    return found
