"""One step's checkpoint as conversion sees it: tensors, architecture, and what the run said of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanotron_zagreus.checkpoints.architecture import Architecture, read_json, read_nanotron_architecture
from nanotron_zagreus.checkpoints.layout import (
    CONFIG_FILE,
    LATEST_FILE,
    MANIFEST_FILE,
    METADATA_FILE,
    MODEL_CONFIG_FILE,
    resolve_checkpoint,
)
from nanotron_zagreus.checkpoints.manifest import WEIGHT_FILES, read_manifest
from nanotron_zagreus.checkpoints.manifest import verify as verify_manifest
from nanotron_zagreus.checkpoints.model_shards import ModelShards, open_model_shards
from nanotron_zagreus.checkpoints.optimizer_shards import FOLDER as OPTIMIZER_FOLDER
from nanotron_zagreus.checkpoints.optimizer_shards import OptimizerShards
from nanotron_zagreus.checkpoints.starting_weights import declared_vocab_size
from nanotron_zagreus.config.yaml_text import parse_yaml, section_of
from nanotron_zagreus.conversion.dtypes import TORCH_NAMES, cast
from nanotron_zagreus.conversion.record import last_part
from nanotron_zagreus.conversion.weight_map import nanotron_shapes
from nanotron_zagreus.errors import InputError, VerificationError

if TYPE_CHECKING:
    import torch

_MAX_YAML_BYTES = 4 * 1024 * 1024
_COMPARED_ROWS = 4096
"""Rows of a master weight held once more while they are compared; memory is meant to stay that of one tensor."""


@dataclass(frozen=True)
class SourceCheckpoint:
    """A checkpoint whose every tensor is there, in the shape its model_config.json means."""

    path: Path
    arch: Architecture
    shards: ModelShards
    weight_dtype: str
    """safetensors name of the weights' dtype."""
    step: int | None
    """Optimizer updates done, when the checkpoint says so."""
    consumed_samples: int | None
    """Samples of sequence_length tokens trained on, when the checkpoint says so."""
    training_config: dict[str, Any]
    """The run's config.yaml as plain data; empty when absent or unreadable."""
    notices: tuple[str, ...]
    declared_vocab_size: int | None = None
    """Rows the run was configured with, before padding, when that is known."""
    tokenizer_hashes: frozenset[str] = frozenset()
    """SHA-256 of the tokenizer files that the training data was made with, as far as they were recorded."""
    masters: OptimizerShards | None = None
    """Where the fp32 master weights are, when they are read in place of the weights."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Return rows of a Nanotron tensor.

        Raises:
            VerificationError: a master weight does not round to the weight that was saved with it.
        """
        stored = self.shards.tensors[name]
        if self.masters is None:
            return stored.read(start, stop)
        master = self.masters.read_whole("master", name)
        for first in range(0, stored.shape[0], _COMPARED_ROWS):
            rows = slice(first, min(first + _COMPARED_ROWS, stored.shape[0]))
            if not bool((cast(master[rows], self.weight_dtype) == stored.read(rows.start, rows.stop)).all()):
                raise VerificationError(
                    f"{name}: the optimizer's master weights do not round to the weights beside them; they are of "
                    "different steps, convert without masters"
                )
        return master[start:stop]

    @property
    def dtype(self) -> str:
        """safetensors name of the dtype that :meth:`read` gives."""
        return self.weight_dtype if self.masters is None else "F32"

    @property
    def padding_multiple(self) -> int:
        """The vocabulary is padded to a multiple of this: tp x make_vocab_size_divisible_by."""
        divisible_by = section_of(self.training_config, "model").get("make_vocab_size_divisible_by", 1)
        return self.shards.tp * (divisible_by if isinstance(divisible_by, int) and divisible_by > 0 else 1)

    @property
    def started_from(self) -> str | None:
        """Path of the checkpoint whose weights the run started from; None: from random ones, or not known."""
        init = section_of(self.training_config, "model").get("init_method")
        path = init.get("path") if isinstance(init, dict) else None
        return path if isinstance(path, str) else None


def open_checkpoint(path: Path, *, masters: bool = False) -> SourceCheckpoint:
    """Return the checkpoint in ``path``, one step's folder or the folder of all steps (its newest).

    Args:
        path: where it lies.
        masters: read the optimizer's fp32 master weights in place of the weights.

    Raises:
        InputError: anything that keeps it from being converted, before any output exists.
        VerificationError: the checkpoint has a manifest, and a file differs from it.
    """
    path, notices = _step_folder(path)
    if (path / MANIFEST_FILE).exists():
        # Only what is read: the optimizer is six times the weights and need not be there at all, and files
        # copied together from several nodes are more than one node's manifest names.
        verify_manifest(path, only=(*WEIGHT_FILES, f"{OPTIMIZER_FOLDER}/") if masters else WEIGHT_FILES)
    arch, remarks = read_nanotron_architecture(path / MODEL_CONFIG_FILE)
    shards = open_model_shards(path)
    shards.expect(nanotron_shapes(arch))
    dtypes = sorted({tensor.dtype for tensor in shards.tensors.values()})
    if len(dtypes) != 1 or dtypes[0] not in TORCH_NAMES:
        raise InputError(f"{path}: weights of dtype {', '.join(dtypes)}; expected all of one of BF16, F16, F32")
    metadata = read_json(path / METADATA_FILE) if (path / METADATA_FILE).exists() else {}
    if "tp" in metadata and metadata["tp"] != shards.tp:
        raise InputError(
            f"{path}: checkpoint_metadata.json says tp = {metadata['tp']}, the shards are of tp = {shards.tp}; "
            "the folder mixes two runs"
        )
    metas = section_of(metadata, "metas")
    training_config, more = _training_config(path / CONFIG_FILE)
    return SourceCheckpoint(
        path=path,
        arch=arch,
        shards=shards,
        weight_dtype=dtypes[0],
        step=_count(metas.get("last_train_step")) or (int(path.name) if path.name.isdecimal() else None),
        consumed_samples=_count(metas.get("consumed_train_samples")),
        training_config=training_config,
        notices=(*notices, *remarks, *more),
        declared_vocab_size=declared_vocab_size(path, arch, training_config),
        tokenizer_hashes=_tokenizer_hashes(path),
        masters=_open_masters(path, dtypes[0], set(shards.tensors)) if masters else None,
    )


def _step_folder(path: Path) -> tuple[Path, list[str]]:
    """Return the folder of one step: ``path`` itself, or the one its latest.txt names."""
    folder = resolve_checkpoint(path)
    if folder == path:
        return path, []
    return folder, [f"{last_part(path)} holds several steps; the newest by {LATEST_FILE}, {folder.name}, was converted"]


def _open_masters(path: Path, weight_dtype: str, names: set[str]) -> OptimizerShards:
    """Return the optimizer's files of a checkpoint that has fp32 master weights in them, in safetensors."""
    if weight_dtype == "F32":
        raise InputError(f"{path}: masters: the weights are float32, they have no other masters; convert without")
    masters = OptimizerShards(path)
    missing = sorted(names - masters.names())
    if missing:
        raise InputError(
            f"{masters.folder}: no master weights of {missing[0]} ({len(missing)} missing); convert without"
        )
    return masters


def _training_config(path: Path) -> tuple[dict[str, Any], list[str]]:
    if not path.is_file() or path.stat().st_size > _MAX_YAML_BYTES:
        return {}, ["no config.yaml beside the weights: the model card lacks the training figures"]
    try:
        return parse_yaml(path.read_text(encoding="utf-8", errors="replace"), path.name), []
    except InputError as error:
        return {}, [f"the run's configuration was not used: {error}"]


def _tokenizer_hashes(path: Path) -> frozenset[str]:
    """Return what the manifest's data record says of tokenizers; older ones and other engines' say nothing."""
    if not (path / MANIFEST_FILE).is_file():
        return frozenset()
    sources = (read_manifest(path).get("data") or {}).get("sources") or {}
    hashes = (source.get("tokenizer_sha256") for source in sources.values() if isinstance(source, dict))
    return frozenset(digest for digest in hashes if isinstance(digest, str))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
