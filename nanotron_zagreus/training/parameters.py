"""The engine's parameters and optimizer state under their checkpoint names, with their places in the whole tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nanotron_zagreus.checkpoints.optimizer_shards import Placement
from nanotron_zagreus.checkpoints.shard_metadata import Box, SlicePair


@dataclass(frozen=True)
class NamedParameter:
    """A parameter of this rank under the name a checkpoint knows it by."""

    name: str
    """The name of the first of a group of tied parameters."""
    param: Any
    is_first: bool
    """False for a tied copy on another pipeline rank than the first's."""


@dataclass(frozen=True)
class ParameterState:
    """The optimizer's state of the part of a parameter that this rank updates."""

    placement: Placement
    tensors: dict[str, torch.Tensor]
    """kind -> tensor, live: writing into it changes the training state."""
    adam: dict[str, Any]
    """torch's state of the parameter; empty before the first update."""


def named_parameters(model: Any) -> list[NamedParameter]:
    """Return this rank's parameters in the model's order; tied ones on the same rank appear once."""
    prefixes = {id(module): f"{name}." if name else "" for name, module in model.named_modules()}
    found = []
    for local_name, param in model.named_parameters():
        if param.is_tied:
            tied = param.get_tied_info()
            name = tied.get_full_name_from_module_id_to_prefix(prefixes)
            found.append(NamedParameter(name, param, torch.distributed.get_rank() == tied.global_ranks[0]))
        else:
            found.append(NamedParameter(local_name, param, True))
    return found


def optimizer_states(model: Any, optimizer: Any, grad_accumulator: Any, dp_rank: int) -> dict[str, ParameterState]:
    """Return the optimizer state that this rank holds, by parameter name."""
    base = optimizer.get_base_optimizer()
    by_name = {optimizer.id_to_name[id(p)]: p for group in base.param_groups for p in group["params"]}
    offsets = getattr(optimizer, "param_name_to_dp_rank_offsets", None)
    states = {}
    for named in named_parameters(model):
        updated = by_name.get(named.name)
        if updated is None:
            continue  # ZeRO-1: another data-parallel rank updates all of it
        span = (0, named.param.numel()) if offsets is None else offsets[named.name][dp_rank]
        adam = base.state[updated]
        tensors = {kind: adam[kind].view(-1) for kind in ("exp_avg", "exp_avg_sq") if kind in adam}
        if grad_accumulator is not None:
            tensors["master"] = updated.detach().view(-1)
        states[named.name] = ParameterState(_placement(named.param, (int(span[0]), int(span[1]))), tensors, adam)
    return states


def _placement(param: Any, span: tuple[int, int]) -> Placement:
    local_shape = tuple(int(size) for size in param.shape)
    if not param.is_sharded:
        everything = _whole_box(local_shape)
        pairs: tuple[SlicePair, ...] = (SlicePair(everything, everything),)
        whole_shape = local_shape
    else:
        info = param.get_sharded_info()
        whole_shape = tuple(int(size) for size in info.unsharded_shape)
        pairs = tuple(
            SlicePair(_box(pair.local_slices, local_shape), _box(pair.global_slices, whole_shape))
            for pair in info.local_global_slices_pairs
        )
    return Placement(whole_shape=whole_shape, local_shape=local_shape, pairs=pairs, start=span[0], stop=span[1])


def _box(slices: tuple[slice, ...], shape: tuple[int, ...]) -> Box:
    resolved = (s.indices(size) for s, size in zip(slices, shape, strict=True))
    return tuple((int(start), int(stop)) for start, stop, _ in resolved)


def _whole_box(shape: tuple[int, ...]) -> Box:
    return tuple((0, size) for size in shape)
