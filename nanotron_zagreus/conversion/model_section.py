"""The `model` section of a training configuration that starts from an imported checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.conversion.dtypes import TORCH_NAMES

MODEL_SECTION_FILE = "model_section.yaml"


def model_section(
    arch: Architecture, checkpoint: Path, dtype: str, make_vocab_size_divisible_by: int
) -> dict[str, Any]:
    """Return the section as plain data, under its key.

    Args:
        arch: the model, its vocabulary not padded: training pads it for its own tp.
        checkpoint: the step's folder to start from.
        dtype: safetensors name of the weights' dtype.
        make_vocab_size_divisible_by: what the checkpoint was padded for, beside its tp.
    """
    return {
        "model": {
            "dtype": TORCH_NAMES[dtype],
            "init_method": {"path": str(checkpoint.absolute())},
            "make_vocab_size_divisible_by": make_vocab_size_divisible_by,
            "model_config": asdict(arch) | {"eos_token_id": arch.first_eos_token_id, "is_llama_config": True},
        }
    }


def section_text(section: dict[str, Any]) -> str:
    """Return the section as YAML."""
    import yaml

    return yaml.safe_dump(section, sort_keys=False)
