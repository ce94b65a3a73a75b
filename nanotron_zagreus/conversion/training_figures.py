"""What a checkpoint's config.yaml says about the run, as the model card shows it.

Works on plain data, so that the YAML of any Nanotron generation gives what it has; what is absent or of an
unexpected kind is left out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nanotron_zagreus.config.yaml_text import section_of
from nanotron_zagreus.conversion.record import public_name

_SCHEDULE = (
    "learning_rate", "min_decay_lr", "lr_warmup_steps", "lr_warmup_style", "lr_decay_starting_step", "lr_decay_steps",
    "lr_decay_style",
)  # fmt: skip
_OPTIMIZER = ("weight_decay", "clip_grad", "zero_stage")


def training_figures(config: dict[str, Any], consumed_samples: int | None) -> dict[str, Any]:
    """Return the run's figures, JSON-able, absent ones left out.

    Args:
        config: a run's config.yaml as plain data.
        consumed_samples: windows of sequence_length tokens trained on so far.
    """
    tokens, parallelism = section_of(config, "tokens"), section_of(config, "parallelism")
    optimizer = section_of(config, "optimizer")
    schedule, factory = section_of(optimizer, "learning_rate_scheduler"), section_of(optimizer, "optimizer_factory")
    sequence_length = tokens.get("sequence_length")
    tokenizer = section_of(config, "tokenizer").get("tokenizer_name_or_path")
    figures = {
        "run": section_of(config, "general").get("run"),
        "seed": section_of(config, "general").get("seed"),
        "sequence_length_tokens": sequence_length,
        "tokens_per_step": _product(
            parallelism.get("dp"),
            tokens.get("micro_batch_size"),
            tokens.get("batch_accumulation_per_replica"),
            sequence_length,
        ),
        "tokens_trained": _product(consumed_samples, sequence_length),
        "train_steps_planned": tokens.get("train_steps"),
        "dtype": section_of(config, "model").get("dtype"),
        "parallelism": {name: parallelism[name] for name in ("dp", "tp", "pp") if name in parallelism} or None,
        "optimizer": factory.get("name"),
        "adam_betas": [factory["adam_beta1"], factory["adam_beta2"]] if "adam_beta2" in factory else None,
        **{name: schedule.get(name) for name in _SCHEDULE},
        **{name: optimizer.get(name) for name in _OPTIMIZER},
        "tokenizer": public_name(tokenizer) if isinstance(tokenizer, str) else None,
        "stages": _stages(config) or None,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _stages(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each data stage with the names of its folders, and their weights or their groups' tokens."""
    stages = config.get("data_stages")
    found: list[dict[str, Any]] = []
    for stage in stages if isinstance(stages, list) else []:
        if not isinstance(stage, dict):
            continue
        dataset = section_of(section_of(stage, "data"), "dataset")
        folders: Any = dataset.get("dataset_folder")
        weights = dataset.get("dataset_weights")
        if isinstance(folders, dict):
            folders, weights = list(folders), list(folders.values())
        elif not isinstance(folders, list):
            folders = [folders] if folders else []
        groups = _groups(dataset)
        found.append(
            {
                "name": stage.get("name"),
                "start_training_step": stage.get("start_training_step"),
                "sources": [source for _, _, sources in groups for source in sources] or [str(f) for f in folders],
                "weights": weights,
                "groups": [[name, tokens, len(sources)] for name, tokens, sources in groups] or None,
            }
        )
    names = _short_names([source for stage in found for source in stage["sources"]])
    return [stage | {"sources": [names[source] for source in stage["sources"]]} for stage in found]


def _groups(dataset: dict[str, Any]) -> list[tuple[str, Any, list[str]]]:
    """Return (name, target tokens, folders) of each group of sources, ordered by name."""
    groups = []
    for name, group in sorted(section_of(dataset, "dataset_groups").items()):
        group = group if isinstance(group, dict) else {}
        folders: Any = group.get("dataset_folder")
        folders = folders if isinstance(folders, list) else [folders] if folders else []
        groups.append((name, group.get("tokens"), [str(folder) for folder in folders]))
    return groups


def _short_names(folders: list[str]) -> dict[str, str]:
    """Return the folders' names: where they lie on a cluster is nobody's business.

    A path's last part; where several end alike, as in `english/tokenized` and `french/tokenized`, as many of the last
    parts as tell it from the others.
    """
    paths = {folder: _named_parts(folder) for folder in folders}
    return {folder: _shortest_name(parts, set(paths.values())) for folder, parts in paths.items()}


def _named_parts(folder: str) -> tuple[str, ...]:
    """Return the parts of a path that are names: neither the root, nor a step upwards, nor anybody's home."""
    parts = Path(os.path.normpath(folder)).parts
    return tuple(part for part in parts if part not in ("/", "//", "..") and not part.startswith("~")) or (".",)


def _shortest_name(parts: tuple[str, ...], paths: set[tuple[str, ...]]) -> str:
    for length in range(1, len(parts) + 1):
        if sum(other[-length:] == parts[-length:] for other in paths) == 1:
            return "/".join(parts[-length:])
    return parts[-1]


def _product(*factors: Any) -> int | None:
    result = 1
    for factor in factors:
        if not isinstance(factor, int) or isinstance(factor, bool):
            return None
        result *= factor
    return result
