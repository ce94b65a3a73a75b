"""Make each classic mistake of a converter on purpose, and show which gate catches it and by how much.

    python -m benchmarks.negative_controls

Two models: the tests' tiny one, and one of the published widths (4 layers, 2,048 tokens) with the published
initialisation, where activations are small and mistakes hard to see. For each mistake: the largest fp32 logit
difference from the independent forward, over what the gate allows; and the same difference in bfloat16, beside
what bfloat16 arithmetic does to a correct folder (SDPA against eager attention). Exits with 1 when a gate
misses a mistake or refuses the correct folder.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.utils.logging import disable_progress_bar

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.conversion.logit_gate import verify_logits
from nanotron_zagreus.conversion.source import open_checkpoint
from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from nanotron_zagreus.conversion.verify import compare_weights, load_model, verify_config
from nanotron_zagreus.errors import VerificationError
from tests.unit import test_conversion_negative_controls as controls
from tests.unit.conversion_fixtures import TINY, write_checkpoint, write_tokenizer_folder

WIDE = replace(
    TINY, hidden_size=960, intermediate_size=2560, num_hidden_layers=4, num_attention_heads=15, num_key_value_heads=5,
    vocab_size=2048,
)  # fmt: skip
PUBLISHED_STD = 0.03227
WEIGHT_MISTAKES: dict[str, Callable[[dict[str, torch.Tensor]], None]] = {
    "k and v swapped in one layer": controls.swap_key_and_value,
    "gate and up swapped in one layer": controls.swap_gate_and_up,
    "two norms swapped in one layer": controls.swap_norms,
}
CONFIG_MISTAKES: dict[str, Callable[[dict[str, object]], None]] = {
    "theta 500000": controls.change_theta,
    "epsilon 1e-6": controls.change_epsilon,
}


def main() -> int:
    disable_progress_bar()
    all_caught = True
    print("| model | mistake | weights | config | logits | fp32 difference | bf16 difference |")
    print("|---|---|---|---|---|---|---|")
    for name, arch, std in (("tiny", TINY, None), ("published widths", WIDE, PUBLISHED_STD)):
        with tempfile.TemporaryDirectory() as scratch:
            all_caught &= judge(name, arch, std, Path(scratch))
    return 0 if all_caught else 1


def judge(name: str, arch: Architecture, std: float | None, root: Path) -> bool:
    """Print one row per mistake; return whether each was caught and the correct folder passed."""
    make_checkpoint(root / "20", arch, std)
    tokenizer = write_tokenizer_folder(root / "tokenizer")
    convert_checkpoint(root / "20", root / "hf", tokenizer, verify=False, vocab_size=arch.vocab_size)
    original = {file: (root / "hf" / file).read_bytes() for file in ("model.safetensors", "config.json")}
    is_right = True
    for mistake in ("none", *WEIGHT_MISTAKES, "rotary pairs interleaved", *CONFIG_MISTAKES):
        for file, content in original.items():
            (root / "hf" / file).write_bytes(content)
        make_mistake(root / "hf", mistake, arch)
        caught, differences = run_gates(root / "20", root / "hf", arch)
        print(f"| {name} | {mistake} | {' | '.join(caught)} | {differences} |", flush=True)
        is_right &= ("CAUGHT" in caught) == (mistake != "none") and (caught[2] == "CAUGHT") == (mistake != "none")
    return is_right


def make_checkpoint(folder: Path, arch: Architecture, std: float | None) -> None:
    """Write a bf16 checkpoint: the tests' weights, or normal ones of standard deviation ``std`` and norms about 1."""
    write_checkpoint(folder, arch, dtype=torch.bfloat16)
    if std is None:
        return
    for path in (folder / "model").rglob("*.safetensors"):
        data = load_file(path)["data"]
        if data.dim() > 1:
            # The fixture draws with deviation 1.5 / sqrt(columns).
            save_file({"data": (data.float() * (std / 1.5 * data.shape[-1] ** 0.5)).bfloat16()}, path)


def make_mistake(folder: Path, mistake: str, arch: Architecture) -> None:
    if mistake in CONFIG_MISTAKES:
        config = json.loads((folder / "config.json").read_text())
        CONFIG_MISTAKES[mistake](config)
        (folder / "config.json").write_text(json.dumps(config))
        return
    tensors = load_file(folder / "model.safetensors")
    if mistake in WEIGHT_MISTAKES:
        WEIGHT_MISTAKES[mistake](tensors)
    elif mistake != "none":
        for name in list(tensors):
            if "q_proj" in name or "k_proj" in name:
                heads = tensors[name].view(-1, 2, arch.head_dim // 2, arch.hidden_size)
                tensors[name] = heads.transpose(1, 2).reshape(tensors[name].shape).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def run_gates(checkpoint: Path, folder: Path, arch: Architecture) -> tuple[list[str], str]:
    """Return what the three gates say, and the logit differences as text."""
    source = open_checkpoint(checkpoint)
    model = load_model(folder)
    gates: list[Callable[[], Any]] = [
        lambda: compare_weights(folder, arch, source.read),
        lambda: verify_config(model, arch),
        lambda: verify_logits(model, arch, source.read),
    ]
    said, fp32 = [], ""
    for gate in gates:
        try:
            figures = gate()
            said.append("passed")
            if isinstance(figures, dict):
                fp32 = f"{figures['max_logit_difference']:.1e}"
        except VerificationError as error:
            said.append("CAUGHT")
            if str(error).startswith("logits: max difference"):
                fp32 = str(error).split("max difference ")[1].split("), ")[0] + ")"
    return said, f"{fp32} | {bf16_difference(folder, source, arch)}"


def bf16_difference(folder: Path, source: Any, arch: Architecture) -> str:
    """Return the folder's bf16 logit difference from the reference, and its own SDPA against eager attention."""
    from transformers import AutoModelForCausalLM

    from nanotron_zagreus.conversion.reference_forward import reference_logits

    tokens = torch.randint(arch.vocab_size, (128,), generator=torch.Generator().manual_seed(0))
    logits = []
    for attention in ("sdpa", "eager"):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation=attention)
        with torch.no_grad():
            logits.append(model(tokens[None]).logits[0].float())
    difference = float((logits[0] - reference_logits(arch, source.read, tokens)).abs().max())
    floor = float((logits[0] - logits[1]).abs().max())
    return f"{difference:.1e} (SDPA against eager: {floor:.1e})"


if __name__ == "__main__":
    sys.exit(main())
