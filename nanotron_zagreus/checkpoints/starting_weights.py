"""Whether a run may start from the weights that `model.init_method.path` names.

A wrong start is silent: weights of equal shapes load, and another rope_theta, epsilon or grouping of heads only shows
in the loss. Reads small JSON and YAML files, no torch and no engine; whether the files are what their manifest says
is checked by `manifest.verify`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints import layout
from nanotron_zagreus.checkpoints.architecture import Architecture, read_json, read_nanotron_architecture
from nanotron_zagreus.config.model import ExistingCheckpointSection, ModelSection
from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.config.yaml_text import parse_yaml, section_of
from nanotron_zagreus.errors import InputError, MissingInputError

_FIELD = "model.init_method.path"
_COMPARED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
)
"""What must agree for the weights to compute the same; max_position_embeddings may change, it has no weights."""


def find_starting_weights(config: Config) -> Path | None:
    """Return the step's folder that a fresh run takes its weights from, or None when it starts at random.

    Raises:
        MissingInputError: the path does not exist, or no checkpoint is there.
        InputError: the checkpoint holds another model than the configuration describes.
    """
    init = config.model.init_method
    if not isinstance(init, ExistingCheckpointSection):
        return None
    try:
        folder = layout.resolve_checkpoint(init.path)
        arch, _ = read_nanotron_architecture(folder / layout.MODEL_CONFIG_FILE)
    except InputError as error:
        raise type(error)(f"{_FIELD}: {error}") from error
    if arch.rope_interleaved:
        raise InputError(
            f"{_FIELD}: {folder} stores rotary pairs interleaved, as nanotron 0.4's own Llama trains them, and only "
            "half-split ones are trained here; `zagreus convert` it, `zagreus import` the result, and start from that"
        )
    section = config.model.model_config
    wanted = {name: getattr(section, name) for name in _COMPARED} | {"num_key_value_heads": section.kv_heads}
    differences = [
        f"{name} is {getattr(arch, name)} there and {value} in model.model_config"
        for name, value in wanted.items()
        if getattr(arch, name) != value
    ]
    if vocabulary := _vocabulary_difference(folder, arch, config.model):
        differences.append(vocabulary)
    if differences:
        raise InputError(
            f"{_FIELD}: {folder} holds another model: {'; '.join(differences)}; give the configuration the "
            "checkpoint's values, or start from another checkpoint"
        )
    return folder


def declared_vocab_size(folder: Path, arch: Architecture, config: dict[str, Any]) -> int | None:
    """Return the rows that a checkpoint's run was configured with, before padding; None where nothing tells.

    It stands in this project's config.yaml and in the record of an import. Other engines overwrite it in their
    config.yaml with the padded number.

    Args:
        folder: the step's folder.
        arch: what its model_config.json holds, padding included.
        config: its config.yaml as plain data.
    """
    declared: Any = section_of(section_of(config, "model"), "model_config").get("vocab_size")
    if (folder / layout.CONVERSION_FILE).is_file():
        declared = read_json(folder / layout.CONVERSION_FILE).get("source_vocab_size", declared)
    elif not (folder / layout.MANIFEST_FILE).is_file() and declared == arch.vocab_size:
        return None
    return declared if isinstance(declared, int) and 0 < declared <= arch.vocab_size else None


def _vocabulary_difference(folder: Path, arch: Architecture, model: ModelSection) -> str | None:
    """Return how the vocabularies differ, unless padding for tensor parallelism alone explains it."""
    config, wanted, stored = _read_config(folder), model.model_config.vocab_size, arch.vocab_size
    declared = declared_vocab_size(folder, arch, config)
    if declared is not None:
        return None if declared == wanted else _differs(declared, wanted)
    divisible_by = section_of(config, "model").get("make_vocab_size_divisible_by", model.make_vocab_size_divisible_by)
    multiple = _tensor_parallel_size(folder) * (divisible_by if isinstance(divisible_by, int) else 1)
    padded = -(-wanted // max(multiple, 1)) * max(multiple, 1)
    if stored in (wanted, padded):
        return None
    return f"{_differs(stored, wanted)} (padded to a multiple of {multiple}: {padded})"


def _differs(there: int, here: int) -> str:
    return f"vocab_size is {there} there and {here} in model.model_config"


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the run's config.yaml as plain data; {} where there is none, or one of another kind."""
    try:
        return parse_yaml((folder / layout.CONFIG_FILE).read_text(encoding="utf-8", errors="replace"), "config.yaml")
    except (FileNotFoundError, InputError):
        return {}


def _tensor_parallel_size(folder: Path) -> int:
    try:
        size = read_json(folder / layout.METADATA_FILE).get("tp")
    except MissingInputError:
        return 1
    return size if isinstance(size, int) and size > 0 else 1
