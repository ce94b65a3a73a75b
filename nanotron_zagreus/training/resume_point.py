"""Find the checkpoint that a run goes on from, and refuse one that does not fit the configuration. Engine-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.errors import InputError, MissingInputError

_MODEL_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "kv_heads",
    "vocab_size",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
)


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """A checkpoint to go on from."""

    folder: Path
    step: int
    consumed_samples: int
    samples_per_step: int
    data_state: dict[str, Any]
    topology: dict[str, int]


def find_resume_point(config: Config, wanted: Path | None = None) -> ResumePoint | None:
    """Return the checkpoint that the configuration resumes from, or None for a fresh run.

    Reads the manifest only; whether the files are what it says is checked by `manifest.verify`.

    Args:
        config: the run.
        wanted: a step's folder to take instead of the configuration's path.

    Raises:
        InputError: the path does not exist, is no whole checkpoint of this project, or does not fit the run.
    """
    wanted = wanted or config.checkpoints.resume_checkpoint_path
    if wanted is None:
        return None
    if str(wanted) == "auto":
        wanted = config.checkpoints.checkpoints_path
        if layout.read_latest(wanted) is None and not layout.list_steps(wanted):
            return None
    folder = layout.resolve_checkpoint(wanted)
    try:
        facts = manifest.read_manifest(folder)
    except MissingInputError as error:
        raise MissingInputError(
            f"{error}. A checkpoint of another program cannot be resumed; train from its weights with "
            f"model.init_method.path: {folder}"
        ) from error
    point = ResumePoint(
        folder=folder,
        step=int(facts["step"]),
        consumed_samples=int(facts["consumed_samples"]),
        samples_per_step=int(facts["samples_per_step"]),
        data_state=facts["data"],
        topology={name: int(size) for name, size in facts["topology"].items()},
    )
    _check_fits(config, point)
    return point


def _check_fits(config: Config, point: ResumePoint) -> None:
    """Refuse a resume whose model or length contradicts the checkpoint."""
    if config.tokens.train_steps < point.step:
        raise InputError(
            f"tokens.train_steps: got {config.tokens.train_steps}, but {point.folder} has already trained "
            f"{point.step} steps; raise train_steps"
        )
    saved = load_config(point.folder / layout.CONFIG_FILE)
    for key in _MODEL_KEYS:
        old, new = getattr(saved.model.model_config, key), getattr(config.model.model_config, key)
        if old != new:
            raise InputError(f"model.model_config.{key}: got {new}, but {point.folder} was trained with {old}")
    if saved.model.dtype != config.model.dtype:
        raise InputError(
            f"model.dtype: got {config.model.dtype}, but {point.folder} was trained in {saved.model.dtype}"
        )
    if saved.tokens.sequence_length != config.tokens.sequence_length:
        raise InputError(
            f"tokens.sequence_length: got {config.tokens.sequence_length}, but {point.folder} was trained with "
            f"{saved.tokens.sequence_length}; start a new run from its weights with model.init_method.path"
        )
