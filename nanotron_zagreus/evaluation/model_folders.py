"""Make every model a local Hugging Face folder: checkpoints are converted once and kept, hub ids are fetched."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from nanotron_zagreus.checkpoints.layout import replace_durably
from nanotron_zagreus.errors import InputError, MissingInputError
from nanotron_zagreus.evaluation.fingerprints import model_fingerprint
from nanotron_zagreus.evaluation.subjects import Subject, progress_of, training_section
from nanotron_zagreus.hub_errors import first_line, hub_errors

CONVERTED = ".converted"
"""Folder inside the folder of results that keeps converted checkpoints."""

_RECORD = "zagreus_source.json"


def fetch_hub_models(subjects: list[Subject]) -> list[Subject]:
    """Return ``subjects`` with every hub id replaced by its local snapshot, which may tell its steps.

    Raises:
        MissingInputError: a model is neither cached nor reachable.
    """
    return [_fetched(subject) if subject.kind == "hub" else subject for subject in subjects]


def checkpoint_tokenizer(checkpoint: Path, tokenizer: str | None) -> str:
    """Return the tokenizer to convert ``checkpoint`` with: the one given, else the one its config names.

    Raises:
        InputError: neither is there.
    """
    if tokenizer:
        return tokenizer
    name = training_section(checkpoint, "tokenizer").get("tokenizer_name_or_path")
    if not name:
        raise InputError(f"{checkpoint}: no config.yaml that names its tokenizer; give it with --tokenizer")
    return str(name)


def subject_fingerprint(subject: Subject, tokenizer: str | None) -> str:
    """Return the fingerprint of the model's files; a checkpoint's includes its tokenizer's name."""
    assert subject.path is not None  # hub ids have been fetched
    extra = checkpoint_tokenizer(subject.path, tokenizer) if subject.kind == "checkpoint" else ""
    return model_fingerprint(subject.path, extra)


def hf_folder(subject: Subject, cache: Path, tokenizer: str | None) -> Path:
    """Return the model's Hugging Face folder, converting a checkpoint unless ``cache`` holds it already.

    Args:
        subject: what to evaluate.
        cache: folder that keeps converted checkpoints, one folder per label.
        tokenizer: for checkpoints, instead of the one their config names.
    """
    assert subject.path is not None  # hub ids have been fetched
    if subject.kind != "checkpoint":
        return subject.path
    from nanotron_zagreus.conversion.to_hf import convert_checkpoint

    out = _converted(subject, cache)
    fingerprint = subject_fingerprint(subject, tokenizer)
    if _made_from(out) == fingerprint:
        return out
    if out.exists():
        shutil.rmtree(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        convert_checkpoint(subject.path, out, checkpoint_tokenizer(subject.path, tokenizer))
    except InputError as error:
        raise type(error)(
            f"{error} (`zagreus convert` has the options named here; evaluate the folder that it makes)"
        ) from error
    replace_durably(out / _RECORD, json.dumps({"fingerprint": fingerprint}).encode())
    return out


def forget_converted(subject: Subject, cache: Path) -> None:
    """Delete the Hugging Face folder that :func:`hf_folder` made of a checkpoint, if it made one."""
    out = _converted(subject, cache)
    if subject.kind == "checkpoint" and (out / _RECORD).is_file():
        shutil.rmtree(out)


def _made_from(folder: Path) -> str | None:
    """Return the fingerprint of the checkpoint that a copy was made from; None where there is no copy or no record."""
    try:
        fingerprint = json.loads((folder / _RECORD).read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):  # a full disk or a power cut leaves an empty one
        return None
    return fingerprint if isinstance(fingerprint, str) else None


def _converted(subject: Subject, cache: Path) -> Path:
    out = Path(os.path.normpath(cache / subject.label))
    # What is deleted must lie in the folder of copies: a label names a folder in it, never a way out.
    assert out.parent == Path(os.path.normpath(cache)) and cache.name == CONVERTED, out
    return out


def _fetched(subject: Subject) -> Subject:
    path = _fetch(subject.source)
    step, tokens = progress_of(path, subject.source.partition("/")[2])
    return replace(subject, path=path, step=step, tokens=tokens)


def _fetch(source: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except hub_errors() as error:
        raise MissingInputError(
            f"{source}: no such folder here, and as a hub id not to be had: {first_line(error)}; check the name, or on "
            f"a machine with network run: hf download {name}"
        ) from error
