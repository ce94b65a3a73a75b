"""Find the checkpoint that a run goes on from, and refuse one that does not fit the configuration. Engine-free."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError

_FIELD = "checkpoints.resume_checkpoint_path"
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
    data_state: dict[str, Any]
    topology: dict[str, int]
    note: str = ""
    """What a user should know about the choice."""


def find_resume_point(config: Config) -> ResumePoint | None:
    """Return the checkpoint that the configuration resumes from, or None for a fresh run.

    Reads its descriptions only; whether all files are what the manifest says is checked by `manifest.verify`.

    Raises:
        InputError: the path does not exist, is no whole checkpoint of this project, or does not fit the run.
        VerificationError: its descriptions are damaged.
    """
    try:
        point = wanted_point(config)
    except (InputError, VerificationError) as error:
        raise type(error)(f"{error}{ways_out(config)}") from error
    if point is not None:
        check_fits(config, point)
    return point


def ways_out(config: Config) -> str:
    """Return what to do about a wanted checkpoint that is damaged or not whole, as more sentences of its error.

    Empty where the error has said it: nothing is at the path, or latest.txt is wrong.
    """
    root, older = older_steps(config)
    try:
        is_empty = layout.read_latest(root) is None and not older and not layout.list_steps(root)
    except InputError:
        return ""
    if is_empty:
        return ""
    fallback = "set zagreus.checkpoints.fallback_to_newest_sound: true to go on from the newest sound step before it"
    anew = f"start anew with {_FIELD}: null in another checkpoints_path"
    return f". Restore its files, resume from another step's folder, or {fallback if older else anew}"


def wanted_point(config: Config) -> ResumePoint | None:
    """Return what `find_resume_point` does, whether it fits the run or not."""
    wanted = config.checkpoints.resume_checkpoint_path
    if wanted is None:
        return None
    try:
        return _newest_point(config.checkpoints.checkpoints_path) if str(wanted) == "auto" else _named_point(wanted)
    except (InputError, VerificationError) as error:
        raise type(error)(f"{_FIELD}: {error}") from error


def _named_point(wanted: Path) -> ResumePoint:
    if not wanted.exists():
        raise MissingInputError(
            f"got {wanted}, which does not exist; expected auto (in lower case), null, a step's folder, "
            "or a folder of steps"
        )
    return read_point(layout.resolve_checkpoint(wanted))


def _newest_point(root: Path) -> ResumePoint | None:
    if layout.read_latest(root) is None:
        return _newest_whole(root) if layout.list_steps(root) else None
    return read_point(layout.resolve_checkpoint(root))


def older_steps(config: Config) -> tuple[Path, list[int]]:
    """Return the folder of the wanted checkpoint, and the steps in it that are older than that one, ascending.

    Where latest.txt is wrong, no step is the wanted one, and all are returned.
    """
    wanted = config.checkpoints.resume_checkpoint_path
    assert wanted is not None, "there is nothing older than no checkpoint"
    if str(wanted) == "auto":
        wanted = config.checkpoints.checkpoints_path
    step = layout.step_number(wanted)
    if step is not None and not layout.list_steps(wanted):  # a root may have digits for a name, too
        root = wanted.parent
    else:
        root, step = wanted, None
        with contextlib.suppress(InputError):
            step = layout.read_latest(wanted)
    return root, [number for number in layout.list_steps(root) if step is None or number < step]


def read_point(folder: Path) -> ResumePoint:
    """Return what a step's folder says about itself.

    Raises:
        InputError: it is no whole checkpoint of this project.
        VerificationError: one of its descriptions is damaged.
    """
    try:
        facts = manifest.read_manifest(folder)
    except MissingInputError as error:
        raise MissingInputError(
            f"{error}. A checkpoint without one cannot be resumed; train from its weights with "
            f"model.init_method.path: {folder}"
        ) from error
    if "step" not in facts:
        raise InputError(
            f"{folder}: imported weights, without a step or an optimizer to go on with; train from them with "
            f"model.init_method.path: {folder}"
        )
    manifest.verify(folder, only=(layout.CONFIG_FILE, layout.MODEL_CONFIG_FILE, layout.METADATA_FILE))
    _compare_counters(folder, facts)
    return ResumePoint(
        folder=folder,
        step=int(facts["step"]),
        consumed_samples=int(facts["consumed_samples"]),
        data_state=facts["data"],
        topology={name: int(size) for name, size in facts["topology"].items()},
    )


def _compare_counters(folder: Path, facts: dict[str, Any]) -> None:
    """Refuse a manifest that counts otherwise than the engine's own metadata."""
    metas = json.loads((folder / layout.METADATA_FILE).read_text(encoding="utf-8"))["metas"]
    for ours, theirs in (("step", "last_train_step"), ("consumed_samples", "consumed_train_samples")):
        if facts[ours] != metas[theirs]:
            raise VerificationError(
                f"checkpoint {folder} is damaged: {layout.MANIFEST_FILE} says {ours} {facts[ours]}, "
                f"{layout.METADATA_FILE} says {theirs} {metas[theirs]}"
            )


def _newest_whole(root: Path) -> ResumePoint:
    """Return the newest step with a readable manifest: a run that died before its first latest.txt leaves one."""
    for step in reversed(layout.list_steps(root)):
        with contextlib.suppress(InputError, VerificationError):
            point = read_point(layout.step_folder(root, step))
            return dataclasses.replace(
                point, note=f"{root}: no {layout.LATEST_FILE} there, going on from the newest whole step, {step}"
            )
    return read_point(layout.resolve_checkpoint(root))  # refuses, and says what is there


def check_fits(config: Config, point: ResumePoint) -> None:
    """Refuse a resume whose model or length contradicts the checkpoint.

    Raises:
        InputError: naming the field and both values.
    """
    if config.tokens.train_steps < point.step:
        raise InputError(
            f"tokens.train_steps: got {config.tokens.train_steps}, but {point.folder} has already trained "
            f"{point.step} steps; raise train_steps"
        )
    saved = load_config(point.folder / layout.CONFIG_FILE)
    for key in _MODEL_KEYS:
        old, new = getattr(saved.model.model_config, key), getattr(config.model.model_config, key)
        if old != new:
            field = "num_key_value_heads" if key == "kv_heads" else key
            raise InputError(f"model.model_config.{field}: got {new}, but {point.folder} was trained with {old}")
    if saved.model.dtype != config.model.dtype:
        raise InputError(
            f"model.dtype: got {config.model.dtype}, but {point.folder} was trained in {saved.model.dtype}"
        )
    if config.optimizer.accumulate_grad_in_fp32 and not saved.optimizer.accumulate_grad_in_fp32:
        raise InputError(
            f"optimizer.accumulate_grad_in_fp32: got true, but {point.folder} was trained with false and holds no fp32 "
            "master weights; restore it, or start a new run from its weights with model.init_method.path"
        )
    if saved.tokens.sequence_length != config.tokens.sequence_length:
        raise InputError(
            f"tokens.sequence_length: got {config.tokens.sequence_length}, but {point.folder} was trained with "
            f"{saved.tokens.sequence_length}; start a new run from its weights with model.init_method.path"
        )
