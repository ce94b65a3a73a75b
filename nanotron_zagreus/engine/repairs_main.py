"""What is wrong in upstream main alone (2411b022)."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from nanotron_zagreus.engine.launch import local_world_size
from nanotron_zagreus.engine.repairs import replace_once


def no_survey_of_libraries() -> None:
    """Keep trainer.py:282 from importing flash-attn and running torch's collect_env, seconds on every rank.

    Can go when logging/base.py:418 looks for flash-attn before it imports it.
    """
    trainer = importlib.import_module("nanotron.trainer")
    replace_once(trainer, "log_libraries_versions", lambda original: lambda *arguments, **options: None)


def no_settings_in_other_words() -> None:
    """Keep two texts out of the log that say what is not so.

    trainer.py:283-289 prints 130 lines of the translated configuration, which names no data; helpers.py:232 counts
    the parameters without weight decay before ours are told apart. Can go when they are of level debug.
    """
    trainer, helpers = (importlib.import_module(f"nanotron.{name}") for name in ("trainer", "helpers"))
    replace_once(trainer, "log_rank", lambda original: lambda *arguments, **options: None)
    replace_once(helpers, "log_rank", _without_count_of_excluded)


def count_the_ranks_of_this_node() -> None:
    """Take the ranks of a node from torchrun.

    parallel/context.py:24 takes them from LOCAL_WORLD_SIZE above 8 ranks only; below, two nodes of up to 4 ranks
    each are taken for one, and the assertion in line 73 fails. Can go when the variable is read at any size.
    """
    context = importlib.import_module("nanotron.parallel.context").ParallelContext
    replace_once(context, "_init_parallel_groups", _with_local_world_size)


def gather_on_any_device() -> None:
    """Give the tensor-parallel linears room for a gathered sequence where there is no CUDA.

    parallel/utils.py:25 reuses a buffer on `torch.cuda.current_device()`; a CPU gets a new tensor each time. Can go
    when the buffer is made on the input's device.
    """
    import torch

    if not torch.cuda.is_available():
        buffer = importlib.import_module("nanotron.parallel.utils").MemoryBuffer
        replace_once(buffer, "get", lambda original: lambda self, name, shape, dtype: torch.empty(shape, dtype=dtype))


def scatter_gradients_of_any_shape() -> None:
    """Let reduce_scatter_tensor take an input whose dimensions are flattened otherwise than its output's.

    tensor_parallel/functional.py:541 scatters `[sequence x batch, hidden]` into `[sequence / tp, batch, hidden]`: NCCL
    counts elements, gloo compares first dimensions. Can go when the input keeps its dimensions.
    """
    dist = importlib.import_module("nanotron.distributed")
    replace_once(dist, "reduce_scatter_tensor", _with_dimensions_of_output)


def gradient_in_the_shape_of_the_input() -> None:
    """Give a column linear's input gradient the input's dimensions at tp = 1 under REDUCE_SCATTER, as published.

    tensor_parallel/functional.py:533 returns `[batch x sequence, hidden]`, which autograd refuses for an input
    `[batch, sequence, hidden]`; upstream's own models flatten theirs before. Can go when line 533 restores them.
    """
    functional = importlib.import_module("nanotron.parallel.tensor_parallel.functional")
    linear = functional._ColumnLinearNoAsyncCommunicationReduceScatterMode
    replace_once(linear, "backward", _with_shape_of_input)


def _without_count_of_excluded(original: Callable[..., None]) -> Callable[..., None]:
    def log_rank(message: str, *arguments: Any, **options: Any) -> None:
        if "params excluded from weight decay" not in message:
            original(message, *arguments, **options)

    return log_rank


def _with_local_world_size(original: Callable[..., None]) -> Callable[..., None]:
    def _init_parallel_groups(self: Any) -> None:
        self.local_world_size = local_world_size(default=self.local_world_size)
        original(self)

    return _init_parallel_groups


def _with_dimensions_of_output(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def reduce_scatter_tensor(output: Any, input: Any, *arguments: Any, **options: Any) -> Any:
        return original(output, input.view(-1, *output.shape[1:]), *arguments, **options)

    return reduce_scatter_tensor


def _with_shape_of_input(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def backward(ctx: Any, grad_output: Any) -> Any:
        gradient, *others = original(ctx, grad_output)
        return gradient.view(ctx.input_size), *others

    return backward
