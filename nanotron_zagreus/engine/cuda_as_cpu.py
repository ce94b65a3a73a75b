"""Run engine code that names "cuda" literally on a machine without CUDA.

Nanotron 0.4 asks for device="cuda" in a dozen places (models/base.py:159, gradient_accumulator.py:95
and 173, random.py:143, trainer.py:632 …). Inside the context every torch call reads "cuda" as "cpu", and
the few `torch.cuda` calls that fail without a driver do nothing. Nothing is changed when CUDA is there,
nor outside the context. It can go when the engine takes the device from one place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

_NO_OPS = ("set_device", "synchronize", "reset_peak_memory_stats", "empty_cache")


@contextlib.contextmanager
def cuda_as_cpu() -> Iterator[None]:
    """Read "cuda" as "cpu" inside the context when there is no CUDA device."""
    if torch.cuda.is_available():
        yield
        return
    with contextlib.ExitStack() as stack:
        for name in _NO_OPS:
            stack.enter_context(mock.patch.object(torch.cuda, name, _make_no_op(name)))
        stack.enter_context(_CudaReadAsCpu())
        yield


class _CudaReadAsCpu(TorchFunctionMode):
    """Replace cuda devices by the CPU in every torch call's arguments."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(_to_cpu(argument) for argument in args)
        kwargs = {name: _to_cpu(value) for name, value in (kwargs or {}).items()}
        return func(*args, **kwargs)


def _to_cpu(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    if isinstance(value, str) and (value == "cuda" or value.startswith("cuda:")):
        return "cpu"
    return value


def _make_no_op(name: str) -> Callable[..., None]:
    """Return a stand-in for a `torch.cuda` call that has no meaning on a CPU; torch._dynamo wants one object each."""

    def no_op(*arguments: Any, **options: Any) -> None:
        del arguments, options

    no_op.__name__ = name
    return no_op
