"""Prove that an imported checkpoint computes what its Hugging Face folder computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nanotron_zagreus.checkpoints.architecture import Architecture, read_nanotron_architecture
from nanotron_zagreus.checkpoints.layout import MODEL_CONFIG_FILE
from nanotron_zagreus.checkpoints.model_shards import open_model_shards
from nanotron_zagreus.conversion.dtypes import cast
from nanotron_zagreus.conversion.logit_gate import verify_logits
from nanotron_zagreus.conversion.verify import Verification, compare_weights, load_model, verify_config
from nanotron_zagreus.conversion.weight_map import EMBEDDING, LM_HEAD, nanotron_shapes
from nanotron_zagreus.errors import VerificationError

if TYPE_CHECKING:
    import torch


def verify_checkpoint(checkpoint: Path, hf_folder: Path, arch: Architecture, stored: str) -> Verification:
    """Check ``checkpoint`` against the folder it was made from.

    Args:
        checkpoint: the written step's folder.
        hf_folder: its source.
        arch: the source's architecture, its vocabulary not padded.
        stored: safetensors name of the dtype that was written; the source is rounded to it before comparing.

    Raises:
        VerificationError: any gate fails; the text says which tensor, key or figure.
    """
    import transformers

    written, _ = read_nanotron_architecture(checkpoint / MODEL_CONFIG_FILE)
    if replace(written, vocab_size=arch.vocab_size) != replace(arch, eos_token_id=arch.first_eos_token_id):
        raise VerificationError(f"{MODEL_CONFIG_FILE}: reads back as {written}, the source is {arch}")
    shards = open_model_shards(checkpoint)
    shards.expect(nanotron_shapes(written))

    def weight(name: str) -> torch.Tensor:
        return shards.tensors[name].read(0, arch.vocab_size if name in (EMBEDDING, LM_HEAD) else None)

    num_elements = compare_weights(hf_folder, arch, weight, lambda tensor: cast(tensor, stored))
    model = load_model(hf_folder, stored)
    verify_config(model, arch)
    figures = verify_logits(model, arch, weight)
    return Verification(num_elements_equal=num_elements, transformers_version=transformers.__version__, **figures)
