"""A training step asks nothing of the device that would make the host wait for it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.train_step_sides import build_ours, configuration
from nanotron_zagreus.data.batch import MicroBatch, document_offsets

WAITING_OPERATIONS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "equal",
    "is_nonzero",
)
WAITING_METHODS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__")


class Operations(TorchDispatchMode):
    """Lists the operations that return a number, or a size that depends on values."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        # Without the size of its result repeat_interleave asks the device for it, inside the kernel.
        asks_for_size = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in WAITING_OPERATIONS or asks_for_size:
            self._found.append(str(function))
        return function(*args, **(kwargs or {}))


class Methods(TorchFunctionMode):
    """Lists the calls that read a tensor on the host; on a CPU some do so without an operation."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in WAITING_METHODS:
            self._found.append(function.__name__)
        return function(*args, **(kwargs or {}))


def waits_of(function: Any) -> list[str]:
    found: list[str] = []
    with Operations(found), Methods(found):
        function()
    return found


def test_the_watch_sees_what_waits() -> None:
    tensor = torch.ones(3)
    for function in (lambda: float(tensor[0]), lambda: bool(tensor[0]), tensor.tolist, tensor.nonzero, tensor.cpu):
        assert waits_of(function)
    counts = torch.tensor([1, 0, 2])
    assert waits_of(lambda: torch.repeat_interleave(tensor, counts))
    assert not waits_of(lambda: torch.repeat_interleave(tensor, counts, output_size=3))
    assert not waits_of(lambda: tensor.sum().sqrt())


@pytest.mark.parametrize("documents", [False, True])
def test_a_step_waits_for_nothing(documents: bool, engine: Any) -> None:
    # sdpa: the CPU's own kernel for documents reads their sizes, and runs on no GPU.
    config = configuration(True, 1, 2, {"zagreus": {"document_masking": documents, "attention": "sdpa"}})
    _, trainer = build_ours(config, None)
    rows, length = config.tokens.micro_batch_size, config.tokens.sequence_length
    tokens = torch.randint(0, config.model.model_config.vocab_size, (rows, length + 1), dtype=torch.int32)
    offsets = document_offsets(np.array([0, 0]), np.array([100, 300]), rows, length) if documents else None
    data = trainer.batches_on_device(itertools.repeat(MicroBatch(tokens, offsets)))
    trainer.run_step(1, data)
    assert waits_of(lambda: trainer.step_figures(trainer.run_step(2, data))) == []
