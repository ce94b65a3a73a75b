"""What a conversion leaves behind about itself: `conversion.json`.

The file is published with the folder. It identifies checkpoint and tokenizer by names and hashes, and says nothing of
where they lay: paths tell of users and clusters, and nobody else could follow them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanotron_zagreus.checkpoints.architecture import read_json
from nanotron_zagreus.checkpoints.layout import CONVERSION_FILE, MANIFEST_FILE
from nanotron_zagreus.checkpoints.weights_digest import weights_digest
from nanotron_zagreus.conversion.dtypes import TORCH_NAMES
from nanotron_zagreus.errors import InputError, VerificationError

if TYPE_CHECKING:
    from nanotron_zagreus.conversion.verify import Verification

RECORD_FILE = CONVERSION_FILE

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
_REQUIRED = ("checkpoint", "weights", "architecture", "dtype", "tokenizer")
_KINDS: dict[str, type] = {
    "checkpoint": str, "checkpoint_sha256": str, "dtype": str, "tokenizer": str, "started_from": str,
    "architecture": dict, "weights": list, "training": dict, "training.run": str, "training.tokenizer": str,
    "card": dict, "card.model_name": str,
}  # fmt: skip
"""What the model card and a push read, sections before what stands in them."""
_KIND_NAMES: dict[type, str] = {str: "text", dict: "a mapping", list: "a list"}
_AGAIN = "convert the checkpoint again"


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A weights file and what it must be."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class GGUFRecord:
    """A GGUF file, and how closely it computes what the folder's weights compute."""

    file: WrittenFile
    type: str
    max_logit_difference: float | None = None
    """In fp32, read back by transformers; None: verification was switched off."""
    kl_divergence: float | None = None
    """Mean over positions, in nats, of the file's next-token distribution from the folder's."""
    top1_agreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class ImportRecord:
    """Where an imported checkpoint's weights come from, and how that was checked."""

    source: str
    """Path of the Hugging Face folder."""
    tp: int
    pp: int
    engine: str
    """Whose files these are: 0.4 or main."""
    architecture: dict[str, Any]
    """The model as written, vocabulary padded."""
    source_vocab_size: int
    dtype: str
    model_section: dict[str, Any]
    """The `model` section of a training configuration that starts from this checkpoint."""
    verification: Verification | None
    """None: verification was switched off."""
    notices: tuple[str, ...]
    converter_version: str
    created: str
    """UTC time in ISO 8601."""


@dataclass(frozen=True, kw_only=True)
class ConversionRecord:
    """Where a folder's weights come from, what was done to them, and how that was checked."""

    checkpoint: str
    """Name of the step's folder; records of older versions hold its path."""
    checkpoint_sha256: str
    """Identifies the weights it was made from, see `checkpoints.weights_digest`."""
    step: int | None
    consumed_samples: int | None
    tp: int
    """Tensor-parallel size of the run that wrote the checkpoint."""
    pp: int
    checkpoint_versions: tuple[str, ...]
    """Nanotron's checkpoint versions found in the shards: 1.2 is nanotron 0.4, 1.5 upstream main."""
    architecture: dict[str, Any]
    """The model as written; `rope_interleaved` is how the checkpoint stores q and k."""
    stored_vocab_size: int
    """Vocabulary rows in the checkpoint, padding included."""
    stored_dtype: str
    masters: bool
    """The weights are the optimizer's fp32 masters, not the ones the model computed with."""
    dtype: str
    """dtype written; another than stored_dtype means the weights were rounded or widened."""
    tokenizer: str
    """Its hub id, or the name of its folder or file; older versions: the path."""
    tokenizer_sha256: str
    """SHA-256 of its tokenizer.json, as it was before it was written here."""
    weights: tuple[WrittenFile, ...]
    training: dict[str, Any]
    """Figures of the run from the checkpoint's config.yaml; empty without one."""
    started_from: str | None = None
    """Name of the checkpoint whose weights the run started from; None: from random ones, or not known."""
    card: dict[str, Any] | None = None
    """What the model card says beyond the checkpoint; kept for when it is written again."""
    scores: tuple[dict[str, Any], ...] = ()
    """Evaluation results on the model card."""
    verification: Verification | None = None
    """None: verification was switched off."""
    gguf: GGUFRecord | None = None
    notices: tuple[str, ...]
    """Remarks about the source and what was adjusted."""
    converter_version: str
    created: str
    """UTC time in ISO 8601."""


def last_part(path: str | Path) -> str:
    """Return the name of a file or folder here, which is what may be published of its path."""
    # Links are not followed: what a link in the hub's cache points to is called by a hash.
    # os.path: `Path.expanduser` raises on the home of a user whom this machine does not know.
    return Path(os.path.normpath(Path.cwd() / os.path.expanduser(path))).name  # noqa: PTH111


def is_hub_id(name: str) -> bool:
    """Tell whether ``name`` is `owner/name` on the hub, with or without a revision, and no path here."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def public_name(name: str) -> str:
    """Return what may be published of a hub id or path: a hub id as it is, of a path the last part."""
    return name if is_hub_id(name) else last_part(name)


def read_conversion_record(folder: Path) -> dict[str, Any]:
    """Return the record of a Hugging Face folder that this project's converter made.

    Raises:
        MissingInputError: the folder has none.
        InputError: it is the record of something else, or was edited into something that is none.
    """
    record = read_json(folder / RECORD_FILE)
    missing = [name for name in _REQUIRED if name not in record]
    if missing:
        kind = "of an imported checkpoint" if "source" in record else f"without {missing[0]!r}"
        raise InputError(
            f"{folder / RECORD_FILE}: a record {kind}; give the Hugging Face folder that `zagreus convert` made"
        )
    _check_kinds(record, folder / RECORD_FILE)
    return record


def is_of_other_weights(folder: Path, checkpoint: Path) -> bool:
    """Tell whether ``folder`` was converted from other weights than ``checkpoint`` has.

    No, where record and manifest do not say it: another Nanotron's checkpoint would have to be read in full.
    """
    if not ((folder / RECORD_FILE).is_file() and (checkpoint / MANIFEST_FILE).is_file()):
        return False
    try:
        known = read_json(folder / RECORD_FILE).get("checkpoint_sha256")
        return known is not None and known != weights_digest(checkpoint)
    except (InputError, VerificationError):  # a record or manifest that cannot be read
        return False


def _check_kinds(record: dict[str, Any], path: Path) -> None:
    """Refuse a record in which something else stands where a text, a mapping or a list is read."""
    for name, kind in _KINDS.items():
        section, _, key = name.rpartition(".")
        value = ((record.get(section) or {}) if section else record).get(key)
        if not isinstance(value, kind) and (value is not None or name in _REQUIRED):
            got = "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else repr(value)
            raise InputError(f"{path}: {name}: got {got}, expected {_KIND_NAMES[kind]}; {_AGAIN}")
    for file in record["weights"]:
        if not isinstance(file, dict) or not all(isinstance(file.get(key), str) for key in ("name", "sha256")):
            raise InputError(f"{path}: weights: got {file!r}, expected name and sha256 of files; {_AGAIN}")
    if record["dtype"] not in TORCH_NAMES:
        raise InputError(f"{path}: dtype: got {record['dtype']!r}, expected one of {', '.join(TORCH_NAMES)}; {_AGAIN}")
