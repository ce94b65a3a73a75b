"""Read a GGUF file back with transformers and compare it with the folder it was made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.conversion.logit_gate import NUM_RANDOM_TOKENS
from nanotron_zagreus.conversion.verify import load_model, verify_config
from nanotron_zagreus.conversion.verify_tokenizer import TEXTS
from nanotron_zagreus.errors import VerificationError

MAX_LOGIT_DIFFERENCE = 1e-4
"""The file's model against the folder's with its weights rounded alike: the same weights in the same code."""

MAX_ROUNDED_WEIGHT = {"F32": 0.0, "BF16": 2**-8, "Q8_0": 1 / 127}
"""Largest error of one weight, relative to itself (BF16: half of 2^-7) or to the largest of its 32 (Q8_0: half a
step of max/127, the scale itself rounded to float16)."""

SMALLEST_WEIGHT = {"F32": 0.0, "BF16": 2**-126, "Q8_0": 127 * 2**-25}
"""Absolute error that comes on top: BF16 loses what float32 calls subnormal, and Q8_0's scale is a float16, off by
2^-25 where it is subnormal. Rows of tokens that never occur in training decay that far."""


def verify_gguf(folder: Path, path: Path, arch: Architecture, gguf_type: str) -> dict[str, float]:
    """Return how closely the file computes what the folder computes.

    What a type's rounding does to the logits depends on the model and is reported, not judged. Judged are the
    configuration, the tokenizer, every weight, and the logits against those of the folder's weights rounded alike.

    Raises:
        VerificationError: one of them is out of bounds.
    """
    import torch
    from transformers import AutoModelForCausalLM

    ours = load_model(folder)
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=path.name, dtype=torch.float32, local_files_only=True
    ).eval()
    # GGUF holds epsilon and theta as float32.
    verify_config(theirs, replace(arch, rms_norm_eps=theirs.config.rms_norm_eps))
    if abs(theirs.config.rms_norm_eps - arch.rms_norm_eps) > 1e-6 * arch.rms_norm_eps:
        raise VerificationError(f"{path.name}: rms_norm_eps {theirs.config.rms_norm_eps}, expected {arch.rms_norm_eps}")
    _compare_tokenizers(folder, path)
    tokens = torch.randint(arch.vocab_size, (1, NUM_RANDOM_TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, wanted = theirs(tokens).logits[0], ours(tokens).logits[0]
        _round_weights(ours, theirs, path, gguf_type)
        difference = float((ours(tokens).logits[0] - found).abs().max())
    if not difference <= MAX_LOGIT_DIFFERENCE:
        raise VerificationError(
            f"{path.name}: its logits differ by {difference:.3g} from those of the folder's weights rounded alike; "
            f"allowed is {MAX_LOGIT_DIFFERENCE:g}"
        )
    log_wanted, log_found = wanted.double().log_softmax(-1), found.double().log_softmax(-1)
    return {
        "max_logit_difference": float((wanted - found).abs().max()),
        "kl_divergence": float((log_wanted.exp() * (log_wanted - log_found)).sum(-1).mean()),
        "top1_agreement": float((wanted.argmax(-1) == found.argmax(-1)).float().mean()),
    }


def _round_weights(ours: Any, theirs: Any, path: Path, gguf_type: str) -> None:
    """Round the folder's weights in place as the type does; refuse a file whose weights are not these.

    Args:
        ours: the folder's model.
        theirs: the file's model.
        path: the file, for errors.
        gguf_type: its type; vectors are float32 in every type.
    """
    import gguf
    import torch

    other = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        kind = "F32" if weight.dim() == 1 else gguf_type
        type_ = gguf.GGMLQuantizationType[kind]
        rounded = torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(force=True), type_), type_))
        blocks = weight.view(-1, 32) if kind == "Q8_0" else weight.view(-1, 1)
        allowed = blocks.abs().amax(-1, keepdim=True) * MAX_ROUNDED_WEIGHT[kind] + SMALLEST_WEIGHT[kind]
        if bool(((other[name].view_as(blocks) - blocks).abs() > allowed).any()):
            raise VerificationError(f"{path.name}: {name} differs from the folder's by more than {kind} rounds")
        weight.copy_(rounded)
        if not torch.equal(other[name], weight):
            raise VerificationError(f"{path.name}: {name} is not the folder's tensor rounded to {kind}")


def _compare_tokenizers(folder: Path, path: Path) -> None:
    """Refuse a file whose tokenizer cuts text into other tokens."""
    from transformers import AutoTokenizer

    ours = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    theirs = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, local_files_only=True)
    for text in TEXTS:
        wanted = ours(text, add_special_tokens=False)["input_ids"]
        found = theirs(text, add_special_tokens=False)["input_ids"]
        if wanted != found:
            raise VerificationError(f"{path.name}: its tokenizer reads {text!r} as {found}, the folder's as {wanted}")
