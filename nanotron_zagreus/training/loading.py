"""Read a checkpoint back into the engine: resume a run, or start a new one from another's weights.

A checkpoint written at any dp, tp and pp is read at any other: weights and optimizer state are put
together from their boxes and cut again for this rank. Which checkpoint that is, and whether it fits, is
decided before: see `resume_point`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nanotron_zagreus.checkpoints.model_shards import open_model_shards
from nanotron_zagreus.checkpoints.optimizer_shards import OptimizerShards
from nanotron_zagreus.checkpoints.stored_tensor import StoredTensor
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.training import random_state
from nanotron_zagreus.training.parameters import named_parameters, optimizer_states
from nanotron_zagreus.training.ranks import RankLayout
from nanotron_zagreus.training.resume_point import ResumePoint

_PADDED = ("model.token_position_embeddings.", "model.lm_head.")
"""Tensors with a row per token of the vocabulary, which is padded for tensor parallelism."""


def load_weights(model: Any, folder: Path) -> None:
    """Fill the model's parameters from a step's folder, of any topology.

    Raises:
        InputError: a tensor is missing, incomplete, or of another shape.
    """
    shards = open_model_shards(folder)
    for named in named_parameters(model):
        stored = shards.tensors.get(named.name)
        if stored is None:
            raise InputError(f"{folder}: no weights of {named.name}; the checkpoint is of another model, or incomplete")
        with torch.no_grad():
            _fill(named.param, stored)


def _fill(param: Any, stored: StoredTensor) -> None:
    """Copy this rank's boxes of a stored tensor; only rows of a padded vocabulary may be missing or left over.

    Whether the rows that differ are padding and nothing else was checked before, from the configurations.
    """
    if not param.is_sharded:
        if tuple(param.shape) != stored.shape:
            raise InputError(f"{stored.name}: has shape {stored.shape}, the model {tuple(param.shape)}")
        param.copy_(stored.read())
        return
    info = param.get_sharded_info()
    may_differ = 1 if stored.name.startswith(_PADDED) else 0
    if tuple(info.unsharded_shape)[may_differ:] != stored.shape[may_differ:]:
        raise InputError(f"{stored.name}: has shape {stored.shape}, the model {tuple(info.unsharded_shape)}")
    for pair in info.local_global_slices_pairs:
        start, stop, _ = pair.global_slices[0].indices(int(info.unsharded_shape[0]))
        rows = stored.read(min(start, stored.shape[0]), min(stop, stored.shape[0]))
        target = param[pair.local_slices]
        target.zero_()
        target[: rows.shape[0]] = rows[(slice(None), *pair.global_slices[1:])].to(param.device)


def load_optimizer(model: Any, optimizer: Any, grad_accumulator: Any, folder: Path, dp_rank: int) -> None:
    """Fill Adam's moments and the fp32 master weights from a step's folder, of any topology.

    Raises:
        InputError: state is missing, incomplete, or of another shape.
    """
    shards = OptimizerShards(folder)
    base = optimizer.get_base_optimizer()
    by_name = {optimizer.id_to_name[id(p)]: p for group in base.param_groups for p in group["params"]}
    for name, held in optimizer_states(model, optimizer, grad_accumulator, dp_rank).items():
        updated, state = by_name[name], {}
        if (step := shards.adam_steps.get(name, 0)) > 0:
            for kind in ("exp_avg", "exp_avg_sq"):
                state[kind] = shards.read(kind, name, held.placement).view_as(updated).to(updated)
            state["step"] = torch.tensor(float(step), dtype=torch.float32, device=_step_device(base, updated))
            base.state[updated] = state
        if "master" in held.tensors:
            with torch.no_grad():
                held.tensors["master"].copy_(shards.read("master", name, held.placement))


def _step_device(base: Any, param: torch.Tensor) -> torch.device:
    """Return where torch's AdamW keeps its step counter: beside the parameter when fused, else on the CPU."""
    return param.device if base.defaults.get("fused") else torch.device("cpu")


def load_random_state(point: ResumePoint, ranks: RankLayout) -> bool:
    """Restore this rank's generators; return False when the topology changed and there is none to restore."""
    if ranks.topology != point.topology:
        return False
    random_state.restore_random_state(point.folder / ranks.random_state_file)
    return True
