"""One training run from a YAML file to its end.

The order keeps mistakes cheap: configuration, launch, data and checkpoint are checked before the engine
allocates anything, and one rank's refusal is every rank's.
"""

from __future__ import annotations

from pathlib import Path

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.checkpoints.outcome import Outcome
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.engine.launch import group_timeout, place_on_node, rank, start_process_group, world_size
from nanotron_zagreus.errors import InputError, VerificationError
from nanotron_zagreus.resources import find_config
from nanotron_zagreus.training.agreement import agree_on_sharing, attempt, raise_together
from nanotron_zagreus.training.preflight import Start, check_before_start
from nanotron_zagreus.training.resume_choice import choose_resume_point


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
    checked, refusal = attempt(lambda: _checked(config_file))
    if refusal is not None and world_size() == 1:
        raise refusal
    start_process_group(None if checked is None else group_timeout(checked[0].zagreus.guards.hang_timeout_seconds))
    raise_together(refusal)
    assert checked is not None, "no rank refused"
    config, start = checked
    config.checkpoints.checkpoints_path.mkdir(parents=True, exist_ok=True)
    config = agree_on_sharing(config)
    resume, mixture = choose_resume_point(config), start.mixture
    if resume != start.resume:
        mixture = open_mixture(config, progress=resume.data_state if resume else None)
    if resume is None and start.weights is not None:
        _, refusal = attempt(lambda: _verify_weights(start.weights))
        raise_together(refusal)
    from nanotron_zagreus.training.loop import TrainingLoop

    return TrainingLoop(config, mixture, resume, show_samples_every=show_samples_every).run()


def _checked(config_file: str | Path) -> tuple[Config, Start]:
    """Return the configuration and where it begins after every check that this rank can make alone."""
    file = find_config(config_file).resolve()
    config = load_config(file)
    start = check_before_start(config, world_size())
    if rank() == 0:
        print(f"zagreus: training {file}", flush=True)
    bring_up(config.zagreus.engine).check(config)
    return config, start


def _verify_weights(folder: Path | None) -> None:
    """Refuse starting weights that are not what their manifest says; imported and foreign ones have none.

    The ranks of a node share the reading.
    """
    if folder is None or not (folder / layout.MANIFEST_FILE).exists():
        return
    try:
        manifest.verify(folder, part=place_on_node(), only=manifest.WEIGHT_FILES)
    except (InputError, VerificationError, OSError) as error:
        raise VerificationError(
            f"model.init_method.path: {error}. Restore the file, or start from another step"
        ) from error
