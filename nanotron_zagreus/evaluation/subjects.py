"""Find what is to be evaluated: Hugging Face folders, hub ids, Nanotron checkpoints, folders full of either.

Reads names and small JSON files only; weights are read by :mod:`fingerprints` and the runner.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanotron_zagreus.checkpoints.layout import CONFIG_FILE, CONVERSION_FILE, METADATA_FILE, MODEL_CONFIG_FILE
from nanotron_zagreus.config.yaml_text import parse_yaml, section_of
from nanotron_zagreus.conversion.record import is_hub_id
from nanotron_zagreus.errors import InputError, MissingInputError

Kind = Literal["checkpoint", "folder", "hub"]

_CHECKPOINT_FILES = (METADATA_FILE, MODEL_CONFIG_FILE)
_LABEL = re.compile(r"[^\W_][\w.-]*")
# 153000, 153k, step-153000, checkpoint_153k, or the hub's branch step153000-tokens160B; a bare number elsewhere in a
# name says nothing about steps
_STEP_NAME = re.compile(
    r"(?:.*[-_@/])?(?:(?:step|checkpoint|ckpt|iter)[-_]?)(?P<named>\d+k?)(?:-tokens[\d.]+[KMBT]?)?|(?P<bare>\d+k?)"
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to evaluate, before anything of it is loaded."""

    label: str
    """Name of its row and of its folder of results."""
    source: str
    """Path or hub id, as the user gave it."""
    kind: Kind
    path: Path | None = None
    """Its folder; None for a hub id."""
    step: int | None = None
    """Optimizer steps it was trained for, where that can be known."""
    tokens: int | None = None
    """Tokens it was trained on, where that can be known."""


def find_subjects(arguments: Sequence[str]) -> list[Subject]:
    """Return the models that the command line's paths name, folders of checkpoints expanded by step.

    Args:
        arguments: paths or hub ids (``org/name`` or ``org/name@revision``), each with an optional
            ``label=`` in front.

    Raises:
        InputError: a folder that holds no model, or two models of one label.
        MissingInputError: a path that does not exist and is no hub id.
    """
    subjects = [subject for argument in arguments for subject in _subjects_of(argument)]
    seen: dict[str, Subject] = {}
    for subject in subjects:
        other = seen.setdefault(subject.label, subject)
        if other is not subject:
            raise InputError(
                f"{subject.source}: its label {subject.label!r} is taken by {other.source}; each model needs its own "
                f"folder of results, so name one of them, as in: another-name={subject.source}"
            )
    return subjects


def is_checkpoint(path: Path) -> bool:
    """Say whether ``path`` is a step folder in Nanotron's layout."""
    return all((path / name).is_file() for name in _CHECKPOINT_FILES)


def step_in_name(name: str) -> int | None:
    """Return the optimizer step that a folder's name says, as in 153000, 153k or step-70; None if it says none."""
    match = _STEP_NAME.fullmatch(name)
    if match is None:
        return None
    number = match["named"] or match["bare"]
    return int(number.rstrip("k")) * (1000 if number.endswith("k") else 1)


def training_section(checkpoint: Path, name: str) -> dict[str, Any]:
    """Return a section of the config.yaml in a checkpoint; empty without one, and where it cannot be read."""
    path = checkpoint / CONFIG_FILE
    try:
        return section_of(parse_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path)), name)
    except (FileNotFoundError, NotADirectoryError, InputError):
        return {}


def _subjects_of(argument: str) -> list[Subject]:
    label, source = _split_label(argument)
    path = Path(source).expanduser()
    if not path.exists():
        if is_hub_id(source):
            return [Subject(label=label or source.replace("/", "__"), source=source, kind="hub")]
        raise MissingInputError(f"{source}: no such folder, and no hub id (org/name); check the path")
    if _is_model(path):
        return [_describe(path, label, source)]
    children = path.iterdir() if path.is_dir() else ()
    inside = [child for child in children if not child.name.startswith(".") and child.is_dir() and _is_model(child)]
    if not inside:
        raise InputError(
            f"{source}: neither a Hugging Face folder (config.json) nor a Nanotron checkpoint "
            f"({' and '.join(_CHECKPOINT_FILES)}) nor a folder of such folders; give the path of one"
        )
    found = [_describe(child, f"{label}-{child.name}" if label else None, str(child)) for child in inside]
    return sorted(found, key=lambda subject: (subject.step is None, subject.step or 0, subject.label))


def _split_label(argument: str) -> tuple[str | None, str]:
    label, separator, rest = argument.partition("=")
    if not separator or "/" in label or Path(argument).exists():
        return None, argument
    if not _LABEL.fullmatch(label) or not rest:
        raise InputError(
            f"{argument}: a label begins with a letter or digit and holds letters, digits, dots, dashes and "
            "underscores only; then comes =PATH"
        )
    return label, rest


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() or is_checkpoint(path)


def _describe(path: Path, label: str | None, source: str) -> Subject:
    step, tokens = progress_of(path, path.resolve().name)
    # A leading dot would hide the folder of results, or lead out of the one given.
    name = label or re.sub(r"[^\w.-]", "_", path.resolve().name).lstrip("._-") or "model"
    kind: Kind = "checkpoint" if is_checkpoint(path) else "folder"
    return Subject(label=name, source=source, kind=kind, path=path, step=step, tokens=tokens)


def progress_of(path: Path, name: str) -> tuple[int | None, int | None]:
    """Return (steps, tokens) from the checkpoint or the record of its conversion in ``path``, else the step that
    ``name`` says."""
    if is_checkpoint(path):
        metas = section_of(_read_json(path / METADATA_FILE), "metas")
        return _count(metas.get("last_train_step")), _tokens(metas.get("consumed_train_samples"), path)
    if (path / CONVERSION_FILE).is_file():
        record = _read_json(path / CONVERSION_FILE)
        tokens = _count(section_of(record, "training").get("tokens_trained"))
        if tokens is None:  # a record from before it held the run's figures
            tokens = _tokens(record.get("consumed_samples"), Path(str(record.get("checkpoint"))))
        return _count(record.get("step")), tokens
    return step_in_name(name), None


def _tokens(num_samples: int | None, checkpoint: Path) -> int | None:
    """Return ``num_samples`` windows in tokens, if the checkpoint's config is there to tell their length."""
    length = training_section(checkpoint, "tokens").get("sequence_length")
    return num_samples * length if isinstance(num_samples, int) and isinstance(length, int) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); the checkpoint is damaged, use another") from error
    return data if isinstance(data, dict) else {}
