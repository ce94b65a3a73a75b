"""The optimizer's state on disk: safetensors, one file per rank that owns any, readable at any topology.

Every tensor is stored flat under `<kind>/<parameter name>`, with kind one of `exp_avg`, `exp_avg_sq`,
`master` (fp32 weights, where the model is bf16). The file's metadata places each parameter: which part of
the flattened local shard this file holds (ZeRO-1 divides that over dp), and which boxes of the whole tensor
the local shard fills (tensor parallelism divides that over tp). Reading puts whole tensors together again.
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanotron_zagreus.checkpoints.shard_metadata import Box, SlicePair, box_shape, covers_exactly
from nanotron_zagreus.checkpoints.tensor_file import nobody_listens, write_tensors
from nanotron_zagreus.errors import InputError, MissingInputError

if TYPE_CHECKING:
    import torch

FOLDER = "optimizer"
_PLACEMENTS = "placements"
_STEPS = "adam_steps"
_RESTORE = "restore it; without a shared file system every node must run the ranks that it ran"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where one file's part of a parameter lies."""

    whole_shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    pairs: tuple[SlicePair, ...]
    """Boxes of the local shard and the boxes of the whole tensor they fill."""
    start: int
    """First element held, counted in the flattened local shard."""
    stop: int
    """Past the last element held."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able data from which :meth:`from_json` rebuilds it."""
        return {
            "whole_shape": self.whole_shape,
            "local_shape": self.local_shape,
            "pairs": [[pair.local, pair.whole] for pair in self.pairs],
            "span": [self.start, self.stop],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Placement:
        """Rebuild a placement; sizes that do not fit together are refused."""
        placement = cls(
            whole_shape=tuple(map(int, data["whole_shape"])),
            local_shape=tuple(map(int, data["local_shape"])),
            pairs=tuple(SlicePair(_box(local), _box(whole)) for local, whole in data["pairs"]),
            start=int(data["span"][0]),
            stop=int(data["span"][1]),
        )
        inside = 0 <= placement.start <= placement.stop <= prod(placement.local_shape)
        if not inside or not covers_exactly([pair.local for pair in placement.pairs], placement.local_shape):
            raise ValueError(f"placement {dict(data)} does not fit its own shapes")
        return placement


def write_optimizer_shard(
    path: Path,
    states: Mapping[str, Mapping[str, torch.Tensor]],
    placements: Mapping[str, Placement],
    adam_steps: Mapping[str, int],
    beat: Callable[[], None] = nobody_listens,
) -> tuple[int, str]:
    """Write one rank's part, durably; return the file's size in bytes and its sha256.

    Args:
        path: the file to write.
        states: parameter name -> kind -> flat tensor of the placement's span.
        placements: parameter name -> placement.
        adam_steps: parameter name -> updates that Adam has made to it.
        beat: called after every chunk written.
    """
    tensors = {f"{kind}/{name}": t for name, kinds in states.items() for kind, t in kinds.items()}
    metadata = {
        _PLACEMENTS: json.dumps({name: placement.to_json() for name, placement in placements.items()}),
        _STEPS: json.dumps(dict(adam_steps)),
    }
    return write_tensors(path, tensors, metadata, beat)


class OptimizerShards:
    """All files of a checkpoint's optimizer state; opening reads headers only."""

    def __init__(self, checkpoint: Path) -> None:
        """Open the `optimizer/` folder of one step.

        Raises:
            MissingInputError: no such folder, or none of our files in it.
            InputError: a file is truncated or no file of ours.
        """
        self.folder = checkpoint / FOLDER
        self._parts: dict[str, list[tuple[Path, Placement]]] = {}
        self._files: dict[Path, Any] = {}
        self.adam_steps: dict[str, int] = {}
        paths = sorted(self.folder.glob("*.safetensors"))
        if not paths:
            pickles = sorted(self.folder.glob("*.pt"))
            hint = f"; {pickles[0].name} is a pickle, which is never loaded" if pickles else ""
            raise MissingInputError(f"{self.folder}: no optimizer state in safetensors there{hint}")
        for path in paths:
            self._index(path)

    def names(self) -> set[str]:
        """Return the names of the parameters that have state."""
        return set(self._parts)

    def read(self, kind: str, name: str, wanted: Placement) -> torch.Tensor:
        """Return the part of a parameter's state that ``wanted`` describes, flat, bit for bit.

        Args:
            kind: `exp_avg`, `exp_avg_sq` or `master`.
            name: the parameter.
            wanted: where the reading rank's part lies; its topology may differ from the files'. Rows that only
                its padded vocabulary has come back as zeros.

        Raises:
            InputError: the state is missing, incomplete, or of another shape.
        """
        parts = self._parts.get(name)
        if not parts:
            raise InputError(f"{self.folder}: no optimizer state for {name}; is it another model's checkpoint?")
        for path, placement in parts:
            if placement == wanted:
                return self._tensor(path, kind, name)
        whole = self.read_whole(kind, name)
        local = whole.new_zeros(wanted.local_shape)
        for pair in wanted.pairs:
            source = whole[_slices(pair.whole)]
            if source.shape[1:] != box_shape(pair.local)[1:]:
                raise InputError(
                    f"{self.folder}: {name} has shape {tuple(whole.shape)}, the model {wanted.whole_shape}"
                )
            target = local[_slices(pair.local)]
            target[: source.shape[0]] = source
        return local.flatten()[wanted.start : wanted.stop]

    def read_whole(self, kind: str, name: str) -> torch.Tensor:
        """Return the whole tensor, put together from every file's part; copies on other ranks are left alone."""
        import torch

        parts = self._parts[name]
        whole = torch.zeros(parts[0][1].whole_shape, dtype=torch.float32)
        locals_by_pairs: dict[tuple[SlicePair, ...], dict[tuple[int, int], Path]] = {}
        shapes = {}
        for path, placement in parts:
            spans = locals_by_pairs.setdefault(placement.pairs, {})
            spans.setdefault((placement.start, placement.stop), path)
            shapes[placement.pairs] = placement.local_shape
        boxes: list[Box] = []
        for pairs, spans in locals_by_pairs.items():
            local = torch.zeros(prod(shapes[pairs]), dtype=torch.float32)
            if not covers_exactly([((start, stop),) for start, stop in spans], [local.numel()]):
                raise InputError(
                    f"{self.folder}: {kind} of {name} is incomplete; a data-parallel rank's file is missing, {_RESTORE}"
                )
            for (start, stop), path in spans.items():
                local[start:stop] = self._tensor(path, kind, name)
            local = local.view(shapes[pairs])
            for pair in pairs:
                whole[_slices(pair.whole)] = local[_slices(pair.local)]
                boxes.append(pair.whole)
        if not covers_exactly(boxes, whole.shape):
            raise InputError(
                f"{self.folder}: {kind} of {name} is incomplete; a tensor-parallel rank's file is missing, {_RESTORE}"
            )
        return whole

    def _index(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            file = safe_open(path, framework="pt")
            metadata = file.metadata() or {}
            placements = {n: Placement.from_json(p) for n, p in json.loads(metadata[_PLACEMENTS]).items()}
            steps = {name: int(step) for name, step in json.loads(metadata[_STEPS]).items()}
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: not readable as optimizer state ({error}); the checkpoint is damaged") from error
        self._files[path] = file
        self.adam_steps |= steps
        for name, placement in placements.items():
            self._parts.setdefault(name, []).append((path, placement))

    def _tensor(self, path: Path, kind: str, name: str) -> torch.Tensor:
        from safetensors import SafetensorError

        try:
            return self._files[path].get_tensor(f"{kind}/{name}")
        except SafetensorError as error:
            raise InputError(f"{path}: no {kind} of {name} in it ({error})") from error


def _box(spans: Any) -> Box:
    return tuple((int(start), int(stop)) for start, stop in spans)


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)
