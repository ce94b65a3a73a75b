"""One training run from a YAML file to its end.

The order keeps mistakes cheap: configuration, launch, data and checkpoint are checked before the engine
allocates anything, and one rank's refusal is every rank's.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.checkpoints.claim import claimed
from nanotron_zagreus.checkpoints.outcome import Outcome
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.data.mixture import Mixture, open_mixture
from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.engine.launch import (
    check_restart,
    group_timeout,
    place_on_node,
    rank,
    start_process_group,
    world_size,
)
from nanotron_zagreus.errors import InputError, VerificationError
from nanotron_zagreus.resources import find_config
from nanotron_zagreus.training.agreement import agree_on_sharing, agree_on_weights, attempt, raise_together
from nanotron_zagreus.training.outcomes import recorded_start
from nanotron_zagreus.training.preflight import Start, check_before_start
from nanotron_zagreus.training.resume_choice import choose_resume_point
from nanotron_zagreus.training.resume_notices import resume_notices
from nanotron_zagreus.training.resume_point import ResumePoint


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
    if notice := check_restart():
        _say(f"notice: {notice}")
    checked, refusal = attempt(lambda: _checked(config_file))
    if refusal is not None and world_size() == 1:
        raise refusal
    start_process_group(None if checked is None else group_timeout(checked[0].zagreus.guards.hang_timeout_seconds))
    raise_together(refusal)
    assert checked is not None, "no rank refused"
    config, start = checked
    config.checkpoints.checkpoints_path.mkdir(parents=True, exist_ok=True)
    config = agree_on_sharing(config)
    root, shared = config.checkpoints.checkpoints_path, config.checkpoints.checkpoints_path_is_shared_file_system
    is_leader = rank() == 0 or (not shared and place_on_node()[0] == 0)
    with contextlib.ExitStack() as claim:
        _, refusal = attempt(lambda: claim.enter_context(claimed(root)) if is_leader else None)
        raise_together(refusal)
        return _train(config, start, is_leader=is_leader, show_samples_every=show_samples_every)


def _train(config: Config, start: Start, *, is_leader: bool, show_samples_every: int | None) -> Outcome:
    """Train in a folder that is this run's alone."""
    resume = choose_resume_point(config)
    begun, refusal = attempt(lambda: _begin(config, start, resume))
    raise_together(refusal)
    assert begun is not None, "no rank refused"
    mixture, weights = begun
    agree_on_weights(weights)
    notices = [*start.notices, *(resume_notices(config, resume) if resume is not None and is_leader else [])]
    with recorded_start(
        config.checkpoints.checkpoints_path,
        step=resume.step if resume else 0,
        checkpoint=resume.folder if resume else None,
        rank=rank(),
        is_leader=is_leader,
    ):
        from nanotron_zagreus.training.loop import TrainingLoop

        loop = TrainingLoop(config, mixture, resume, weights, show_samples_every=show_samples_every)
    for notice in notices:
        _say(f"notice: {notice}")
    outcome = loop.run()
    because = f" ({outcome.reason})" if outcome.reason else ""
    _say(f"{outcome.why} at step {outcome.step}{because}; newest checkpoint: {outcome.checkpoint or 'none'}")
    return outcome


def _say(text: str) -> None:
    """Tell the person who started the run, whatever is logged."""
    if rank() == 0:
        print(f"zagreus: {text}", flush=True)


def _checked(config_file: str | Path) -> tuple[Config, Start]:
    """Return the configuration and where it begins after every check that this rank can make alone."""
    file = find_config(config_file).resolve()
    config = load_config(file)
    start = check_before_start(config, world_size())
    _say(f"training {file}")
    bring_up(config.zagreus.engine).check(config)
    return config, start


def _begin(config: Config, start: Start, resume: ResumePoint | None) -> tuple[Mixture, Path | None]:
    """Return the data from the checkpoint on that the ranks have chosen, and the weights of a fresh run, verified."""
    mixture, weights = start.mixture, start.weights
    if resume != start.resume:
        mixture = open_mixture(config, progress=resume.data_state if resume else None)
    if resume is not None:
        return mixture, None
    if weights is not None:
        _verify_weights(weights)
    return mixture, weights


def _verify_weights(folder: Path) -> None:
    """Refuse starting weights that are not what their manifest says; another Nanotron's have none.

    The ranks of a node share the reading.
    """
    if not (folder / layout.MANIFEST_FILE).exists():
        return
    try:
        manifest.verify(folder, part=place_on_node(), only=manifest.WEIGHT_FILES)
    except (InputError, VerificationError, OSError) as error:
        raise VerificationError(
            f"model.init_method.path: {error}. Restore the file, or start from another step"
        ) from error
