"""The attention kernel of a run: refused where it cannot work, chosen once for all ranks, recorded in the log."""

from __future__ import annotations

import torch
from torch import distributed

from nanotron_zagreus.config import Config
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.model.attention_choice import SIXTEEN_BITS, AttentionChoice, AttentionShape, choose_attention

_NEED_CUDA = ("cudnn", "flash", "varlen", "flash_attn")
"""They compute in 16 bits only."""


def agree_on_attention(run: Config, device: torch.device) -> AttentionChoice:
    """Return rank 0's choice, on every rank; all ranks call it.

    Raises:
        InputError: the kernel asked for needs a GPU, and this is none, or 16 bits, and the model has 32.
    """
    wanted = run.zagreus.attention
    if device.type != "cuda" and wanted in _NEED_CUDA:
        raise InputError(f"zagreus.attention: got {wanted}, which needs a CUDA device and there is none; use auto")
    if wanted in _NEED_CUDA and getattr(torch, run.model.dtype) not in SIXTEEN_BITS:
        raise InputError(
            f"zagreus.attention: got {wanted}, which computes in 16 bits, with model.dtype {run.model.dtype}; "
            "use auto or sdpa, or model.dtype: bfloat16"
        )
    choice = [choose_attention(wanted, _shape(run), device) if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(choice, src=0, device=device)
    assert choice[0] is not None
    return choice[0]


def _shape(run: Config) -> AttentionShape:
    model, tp = run.model.model_config, run.parallelism.tp
    return AttentionShape(
        batch=run.tokens.micro_batch_size,
        sequence=run.tokens.sequence_length,
        heads=model.num_attention_heads // tp,
        kv_heads=model.kv_heads // tp,
        head_dim=model.head_dim,
        dtype=getattr(torch, run.model.dtype),
        has_documents=run.zagreus.document_masking,
    )
