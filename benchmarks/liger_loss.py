"""Liger's fused linear cross entropy in the place of ours, for benchmarks/train_step.py.

Releases differ in how many rows they take at a time: at this vocabulary and width the default is 128, as slow as the
plain loss; where a release lets the memory of a chunk be chosen, it gets the rows that ours has.
"""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any

import torch

ROWS = 2048


def use_liger(trainer: Any) -> None:
    """Let the trainer's head take its loss by Liger.

    Raises:
        RuntimeError: liger-kernel is not installed, or there is no GPU for its kernels.
    """
    if importlib.util.find_spec("liger_kernel") is None or not torch.cuda.is_available():
        raise RuntimeError("needs a GPU and liger-kernel; `pip install --no-deps --target carried liger-kernel`")
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Liger

    from nanotron_zagreus.model import head

    names = list(inspect.signature(Liger.forward).parameters)[1:]  # without ctx
    given = {"reduction": "sum", "accum_dtype": torch.float32}
    model = trainer.run.model.model_config
    if "chunk_mem_const" in names:
        num_tokens = trainer.run.tokens.micro_batch_size * trainer.run.tokens.sequence_length
        # Liger divides the tokens by ceil(vocabulary / (this x width)), and rounds up to a power of two.
        chunks = -(-num_tokens // ROWS)
        given["chunk_mem_const"] = max(1, model.vocab_size // (chunks * model.hidden_size))
    defaults = {name: p.default for name, p in inspect.signature(Liger.forward).parameters.items() if name in names}

    def loss(
        hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, token_weights: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        tensors = {"_input": hidden, "weight": weight, "target": labels}
        out = Liger.apply(*({**defaults, **given, **tensors}[name] for name in names))
        total = out[0] if isinstance(out, tuple) else out
        return total * token_weights[0]  # no mask here: all weights are equal

    head.linear_cross_entropy = loss
