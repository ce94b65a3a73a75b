"""What one rank contributes to a checkpoint: the state copied to host memory, and how it becomes files.

Taking a snapshot is all that training has to wait for; writing it may happen in a thread. The copies live in
buffers that are kept from save to save.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nanotron.constants import CHECKPOINT_VERSION
from nanotron.serialize.metadata import TensorMetadata

from nanotron_zagreus.checkpoints import layout
from nanotron_zagreus.checkpoints.manifest import FileRecord
from nanotron_zagreus.checkpoints.model_shards_writing import ShardRank, shard_path
from nanotron_zagreus.checkpoints.optimizer_shards import FOLDER as OPTIMIZER_FOLDER
from nanotron_zagreus.checkpoints.optimizer_shards import Placement, write_optimizer_shard
from nanotron_zagreus.checkpoints.tensor_file import write_tensors
from nanotron_zagreus.config import Config, dump_config
from nanotron_zagreus.engine.bringup import current
from nanotron_zagreus.engine.face import Progress
from nanotron_zagreus.training.parameters import NamedParameter, named_parameters, optimizer_states
from nanotron_zagreus.training.random_state import RandomState, current_random_state, write_random_state
from nanotron_zagreus.training.ranks import RankLayout


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Everything a checkpoint holds of this rank, live."""

    config: Config
    step: int
    consumed_samples: int
    model: Any
    model_config: Any
    optimizer: Any
    grad_accumulator: Any
    data_state: dict[str, Any]
    """What the mixture needs to go on: fingerprints and samples per stage."""


@dataclass(frozen=True)
class _Weight:
    path: Path
    tensor: torch.Tensor
    metadata: dict[str, str]


@dataclass(frozen=True)
class _Optimizer:
    path: Path
    states: dict[str, dict[str, torch.Tensor]]
    placements: dict[str, Placement]
    adam_steps: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One rank's part of a checkpoint in host memory; paths are relative to the checkpoint's folder."""

    texts: dict[str, str]
    weights: list[_Weight]
    optimizer: _Optimizer | None
    random_path: Path
    random_state: RandomState

    def weight_tensors(self) -> list[torch.Tensor]:
        """Return the copied weights."""
        return [weight.tensor for weight in self.weights]

    def write(self, folder: Path, beat: Callable[[], None]) -> list[FileRecord]:
        """Write every file durably below ``folder`` and return their records.

        Args:
            folder: the checkpoint's, while it is written.
            beat: called after every chunk.
        """
        records = [_write_text(folder, Path(name), text) for name, text in self.texts.items()]
        for weight in self.weights:
            written = write_tensors(_place(folder, weight.path), {"data": weight.tensor}, weight.metadata, beat)
            records.append(_record(weight.path, written))
        if self.optimizer is not None:
            held = self.optimizer
            path = _place(folder, held.path)
            written = write_optimizer_shard(path, held.states, held.placements, held.adam_steps, beat)
            records.append(_record(held.path, written))
        written = write_random_state(_place(folder, self.random_path), self.random_state)
        return [*records, _record(self.random_path, written)]


class SnapshotTaker:
    """Copies a rank's state into buffers that it keeps."""

    def __init__(self, ranks: RankLayout) -> None:
        self._ranks = ranks
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, state: TrainingState) -> Snapshot:
        """Return a copy of what this rank writes; the last snapshot taken must have been written by now."""
        ranks = self._ranks
        weights = [self._weight(named) for named in named_parameters(state.model) if named.is_first]
        holds_optimizer = ranks.writes_model or state.config.optimizer.zero_stage > 0
        return Snapshot(
            texts=_descriptions(state) if ranks.is_leader else {},
            weights=weights if ranks.writes_model else [],
            optimizer=self._optimizer(state) if holds_optimizer else None,
            random_path=ranks.random_state_file,
            random_state=current_random_state(),
        )

    def _weight(self, named: NamedParameter) -> _Weight:
        """Return one parameter's shard as the engine's save_weights would write it, byte for byte."""
        param, place, metadata = named.param, None, {}
        if param.is_sharded:
            info = param.get_sharded_info()
            ranks = self._ranks
            place = ShardRank(ranks.tp, ranks.tp_size, ranks.pp, ranks.pp_size)
            metadata = TensorMetadata(
                version=CHECKPOINT_VERSION,
                local_global_slices_pairs=info.local_global_slices_pairs,
                unsharded_shape=info.unsharded_shape,
            ).to_str_dict()
        tensor = self._copy(f"weight/{named.name}", param) if self._ranks.writes_model else param
        return _Weight(shard_path(named.name, place), tensor, metadata)

    def _optimizer(self, state: TrainingState) -> _Optimizer:
        held = optimizer_states(state.model, state.optimizer, state.grad_accumulator, self._ranks.dp)
        suffix = self._ranks.suffix(with_dp=state.config.optimizer.zero_stage > 0)
        return _Optimizer(
            path=Path(OPTIMIZER_FOLDER) / f"optimizer_{suffix}.safetensors",
            states={
                name: {kind: self._copy(f"{kind}/{name}", tensor) for kind, tensor in part.tensors.items()}
                for name, part in held.items()
            },
            placements={name: part.placement for name, part in held.items()},
            adam_steps={name: int(part.adam.get("step", 0)) for name, part in held.items()},
        )

    def _copy(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        buffer = self._buffers.get(name)
        if buffer is None:
            pinned = tensor.device.type == "cuda"
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned)
            self._buffers[name] = buffer
        with torch.no_grad():
            buffer.copy_(tensor.detach())
        return buffer


def _descriptions(state: TrainingState) -> dict[str, str]:
    """Return the small files that are the same for every rank, in Nanotron's byte format."""
    general = dataclasses.replace(state.config.general, step=state.step, consumed_train_samples=state.consumed_samples)
    progress = Progress(
        config=state.config,
        step=state.step,
        consumed_samples=state.consumed_samples,
        stages=state.data_state["stages"],
        sources=state.data_state["sources"],
    )
    metadata = current().checkpoint_metadata(progress)
    return {
        layout.CONFIG_FILE: dump_config(dataclasses.replace(state.config, general=general)),
        layout.MODEL_CONFIG_FILE: json.dumps(dataclasses.asdict(state.model_config)),
        layout.METADATA_FILE: json.dumps(metadata, indent=2, sort_keys=True),
        "lr_scheduler/lr_scheduler.json": json.dumps({"last_epoch": state.step}),
    }


def _place(folder: Path, path: Path) -> Path:
    """Return where a file goes, its folder made."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    return folder / path


def _record(path: Path, written: tuple[int, str]) -> FileRecord:
    return FileRecord(path=path.as_posix(), bytes=written[0], sha256=written[1])


def _write_text(folder: Path, path: Path, text: str) -> FileRecord:
    content = text.encode()
    with _place(folder, path).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return _record(path, (len(content), hashlib.sha256(content).hexdigest()))
