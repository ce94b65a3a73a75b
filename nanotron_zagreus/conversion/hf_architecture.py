"""Read the architecture of a Hugging Face Llama from its `config.json`, of either transformers generation.

What transformers' own Llama ignores is ignored; what it computes with and Nanotron's Llama cannot
express is refused. Absent keys take the defaults of transformers' LlamaConfig.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.architecture import Architecture, check_plain_llama, read_json
from nanotron_zagreus.checkpoints.layout import is_step_folder
from nanotron_zagreus.errors import InputError, MissingInputError

_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "initializer_range": 0.02,
}
"""transformers 4.40 to 5.23, models/llama/configuration_llama.py."""

_DEFAULT_ROPE_THETA = 10000.0
_PLAIN_ROPE = ("default", None)


def read_hf_architecture(folder: Path) -> Architecture:
    """Return the architecture of the model in ``folder``; Hugging Face files are never interleaved.

    Raises:
        InputError: no Llama, or one that a plain Nanotron Llama cannot express.
    """
    path = folder / "config.json"
    if not path.is_file():
        advice = "give a Hugging Face folder; `hf download OWNER/NAME --local-dir DIR` makes one of a model of the hub"
        if is_step_folder(folder):
            advice = "it is a Nanotron checkpoint, from which training starts as it is, by model.init_method.path"
        raise MissingInputError(f"{folder}: no {path.name} in it; {advice}")
    data = read_json(path)
    if data.get("model_type") != "llama":
        raise InputError(f"{path}: model_type: got {data.get('model_type')!r}, only 'llama' models are imported")
    if data.get("quantization_config") is not None:
        raise InputError(f"{path}: quantization_config: the weights are quantised; import the original ones")
    check_plain_llama({key: value for key, value in data.items() if key != "rope_scaling"}, path)
    values: dict[str, Any] = {name: data.get(name, _DEFAULTS.get(name)) for name in Architecture.__dataclass_fields__}
    values |= {"rope_theta": _rope_theta(data, path), "rope_interleaved": False}
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values["num_attention_heads"]
    if isinstance(values["eos_token_id"], list):
        values["eos_token_id"] = tuple(values["eos_token_id"])
    try:
        arch = Architecture(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if data.get("head_dim") not in (None, arch.head_dim):
        raise InputError(
            f"{path}: head_dim: got {data['head_dim']}, Nanotron's Llama has hidden_size / num_attention_heads = "
            f"{arch.hidden_size} / {arch.num_attention_heads} = {arch.head_dim} and no other"
        )
    return arch


def _rope_theta(data: dict[str, Any], path: Path) -> float:
    """Return the rotary base, from version 5's `rope_parameters`, version 4's `rope_theta`, or both when they agree."""
    found: dict[str, Any] = {}
    if data.get("rope_theta") is not None:
        found["rope_theta"] = data["rope_theta"]
    for key in ("rope_parameters", "rope_scaling"):
        section = data.get(key)
        if section is None:
            continue
        if not isinstance(section, dict):
            raise InputError(f"{path}: {key}: got {section!r}, expected a mapping or null")
        kind = section.get("rope_type", section.get("type"))
        if kind not in _PLAIN_ROPE:
            raise InputError(
                f"{path}: {key}: got rope_type {kind!r}; training knows plain rotary embeddings only, and the "
                "weights would compute something else with them"
            )
        if section.get("rope_theta") is not None:
            found[f"{key}.rope_theta"] = section["rope_theta"]
    for key, value in found.items():
        if not isinstance(value, int | float):
            raise InputError(f"{path}: {key}: got {value!r}, expected a positive number")
    if len(set(found.values())) > 1:
        listing = ", ".join(f"{key} = {value}" for key, value in found.items())
        raise InputError(f"{path}: {listing}: transformers 4 and 5 would disagree about this model; correct the file")
    return next(iter(found.values()), _DEFAULT_ROPE_THETA)
