"""Prove that a Hugging Face folder computes what the checkpoint computes.

Gates, each able to fail alone: every stored element comes back bit for bit; the configuration, as
transformers understands it, is the checkpoint's; the tokenizer reads text as its tokenizer.json does; fp32 logits and
greedy tokens equal those of an independent forward pass. bf16 arithmetic is no gate: its noise would hide a wrong norm
epsilon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.conversion.dtypes import cast
from nanotron_zagreus.conversion.logit_gate import verify_logits
from nanotron_zagreus.conversion.tensor_reading import HFTensors
from nanotron_zagreus.conversion.verify_tokenizer import verify_tokenizer
from nanotron_zagreus.conversion.weight_map import hf_rows, nanotron_tensors
from nanotron_zagreus.errors import VerificationError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was compared, and how closely it agreed."""

    num_elements_equal: int
    """Stored elements found again bit for bit; all of them."""
    num_positions: int
    """Positions whose logits were compared, in fp32 on the CPU."""
    max_logit_difference: float
    """Of the folder's fp32 logits from the float64 logits of an independent forward pass."""
    fp32_rounding: float
    """The same for that forward pass in float32: what rounding alone does in this model."""
    loss_difference: float
    """Absolute difference of the mean next-token loss, in nats."""
    top1_agreement: float
    """Share of positions whose most likely token is the same."""
    num_greedy_tokens_equal: int
    """Tokens generated with the key-value cache that the reference puts first, of NUM_GREEDY_TOKENS."""
    transformers_version: str
    """The transformers that loaded the folder."""


def verify_folder(folder: Path, arch: Architecture, weight: Callable[[str], torch.Tensor]) -> Verification:
    """Check ``folder`` against the model it was converted from.

    Args:
        folder: the Hugging Face folder.
        arch: the model as written: vocabulary cut, rotary pairs as the source stores them.
        weight: gives a whole source tensor by Nanotron name, cut to ``arch`` and in the written dtype.

    Raises:
        VerificationError: any gate fails; the text says which tensor, key or figure.
    """
    import transformers

    surplus = set(HFTensors.open(folder).names) - set(hf_rows(arch))
    if surplus:
        raise VerificationError(f"{folder}: {len(surplus)} tensors are not the model's, among them {min(surplus)}")
    num_elements = compare_weights(folder, arch, weight)
    model = load_model(folder)
    verify_config(model, arch)
    verify_tokenizer(folder, arch.vocab_size)
    figures = verify_logits(model, arch, weight)
    return Verification(num_elements_equal=num_elements, transformers_version=transformers.__version__, **figures)


def compare_weights(
    folder: Path,
    arch: Architecture,
    weight: Callable[[str], torch.Tensor],
    rounded: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
) -> int:
    """Map the folder's tensors to Nanotron's and compare all bits; return the number of elements compared.

    Args:
        folder: a Hugging Face folder.
        arch: its architecture, rotary pairs as the Nanotron tensors store them.
        weight: gives a whole Nanotron tensor.
        rounded: what was done to the folder's tensors on the way, if anything.

    Raises:
        VerificationError: a tensor differs, or holds what is no number.
    """
    import torch

    tensors = HFTensors.open(folder)
    missing = set(hf_rows(arch)) - set(tensors.names)
    if missing:
        raise VerificationError(f"{folder}: {len(missing)} tensors are missing, among them {min(missing)}")
    num_elements = 0
    for name, _, found in nanotron_tensors(arch, lambda name: rounded(tensors.read(name))):
        source = weight(name)
        if found.shape != source.shape or found.dtype != source.dtype:
            raise VerificationError(
                f"{name}: came back as {found.dtype} {tuple(found.shape)} for {source.dtype} {tuple(source.shape)}"
            )
        if not torch.equal(_bits(found), _bits(source)):
            num_wrong = int((_bits(found) != _bits(source)).sum())
            raise VerificationError(f"{name}: {num_wrong} of {source.numel()} elements differ after the round trip")
        if not bool(torch.isfinite(source).all()):
            num_bad = int((~torch.isfinite(source)).sum())
            raise VerificationError(
                f"{name}: {num_bad} weights are not finite; the training run diverged, take an earlier step"
            )
        num_elements += source.numel()
    return num_elements


def verify_config(model: Any, arch: Architecture) -> None:
    """Compare what the loaded model uses, not only what its config says, with ``arch``."""
    import torch

    config = model.config
    wanted = {
        name: getattr(arch, name)
        for name in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "vocab_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "head_dim",
        )
    }  # fmt: skip
    found = {name: getattr(config, name, None) for name in wanted}
    found["head_dim"] = model.model.layers[0].self_attn.head_dim
    found["rms_norm_eps"] = model.model.norm.variance_epsilon
    found["tie_word_embeddings"] = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    for name, value in wanted.items():
        if found[name] != value:
            raise VerificationError(f"config: the loaded model has {name} = {found[name]}, the checkpoint {value}")
    exponents = torch.arange(0, arch.head_dim, 2, dtype=torch.float32) / arch.head_dim
    difference = float((model.model.rotary_emb.inv_freq - 1.0 / arch.rope_theta**exponents).abs().max())
    if difference > 1e-7:
        raise VerificationError(
            f"config: the loaded model's rotary frequencies differ by {difference:.3g} from those of rope_theta "
            f"{arch.rope_theta}"
        )


def load_model(folder: Path, rounded_to: str = "F32") -> Any:
    """Load the folder as a user would, and widen it to fp32; missing or surplus weights are refused.

    Args:
        folder: a Hugging Face folder.
        rounded_to: dtype the weights are rounded to first, where they were written in a narrower one.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # its checks of a config raise classes of their own, torch's asserts, and more
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VerificationError(f"{folder}: transformers cannot load it: {reason}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise VerificationError(f"{folder}: loading reports {kind}: {sorted(map(str, info[kind]))[:4]}")
    if rounded_to != "F32":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(cast(parameter, rounded_to))
    return model.eval()


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)
