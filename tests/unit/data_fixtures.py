"""Small shards and configurations for the data tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import yaml

from nanotron_zagreus.config import Config, load_config_text
from nanotron_zagreus.data.mixture import Mixture, SampleId
from nanotron_zagreus.data.shard_file import ShardFile

VOCAB_SIZE = 1000


def write_shard(
    folder: Path,
    rank: int,
    num_tokens: int,
    *,
    first_token: int = 0,
    document_tokens: int = 7,
    tokenizer: str = "test-tokenizer",
    token_size: int = 2,
) -> Path:
    """Write a shard whose token i is (first_token + i) mod VOCAB_SIZE, in documents of equal length."""
    name = f"{rank:05d}_unshuffled.ds"
    tokens = ((np.arange(num_tokens) + first_token) % VOCAB_SIZE).astype(np.uint16 if token_size == 2 else np.uint32)
    lengths = np.full(num_tokens // document_tokens, document_tokens)
    if num_tokens % document_tokens:
        lengths = np.append(lengths, num_tokens % document_tokens)
    with ShardFile(folder, name, tokenizer=tokenizer, token_size=token_size) as shard:
        shard.write(tokens, lengths)
        shard.finish()
    return folder / name


def write_source(folder: Path, windows: Sequence[int], *, sequence_length: int = 8, **options: object) -> Path:
    """Write one shard per entry of ``windows``, each with that many windows and three tokens more."""
    for rank, num_windows in enumerate(windows):
        num_tokens = num_windows * (sequence_length + 1) + 3
        write_shard(folder, rank, num_tokens, first_token=rank * 100, **options)  # type: ignore[arg-type]
    return folder


def write_three_sources(root: Path) -> dict[str, str]:
    """Write sources of 17, 33 and 25 windows, a shard without any among them; return name -> folder."""
    windows = {"a": [10, 0, 7], "b": [20, 13], "c": [25]}
    return {name: str(write_source(root / name, counts)) for name, counts in windows.items()}


def samples_of(mixture: Mixture, steps: Iterable[int]) -> list[SampleId]:
    """Return the samples of ``steps`` in order."""
    return [sample for step in steps for sample in mixture.samples_of_step(step)]


def make_config(stages: list[dict], **changes: dict) -> Config:
    """Return a configuration with the given data stages; ``changes`` are merged into its sections.

    Args:
        stages: name, start and dataset (the section's keys) of each.
        changes: per section, the keys to set.
    """
    sections: dict = {
        "checkpoints": {"checkpoints_path": "checkpoints", "checkpoint_interval": 10},
        "data_stages": [
            {
                "name": stage.get("name", f"stage {index}"),
                "start_training_step": stage.get("start", 1),
                "data": {"seed": stage.get("seed", 8), "dataset": stage["dataset"]},
            }
            for index, stage in enumerate(stages)
        ],
        "general": {"project": "test"},
        "model": {
            "dtype": "float32",
            "init_method": {"std": 0.02},
            "model_config": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "num_hidden_layers": 1,
                "max_position_embeddings": 64,
                "vocab_size": VOCAB_SIZE,
            },
        },
        "optimizer": {
            "accumulate_grad_in_fp32": False,
            "learning_rate_scheduler": {"learning_rate": 0.001},
            "optimizer_factory": {"name": "adamW"},
        },
        "parallelism": {"dp": 1},
        "tokenizer": {"tokenizer_name_or_path": "test-tokenizer"},
        "tokens": {"sequence_length": 8, "train_steps": 20, "micro_batch_size": 4},
        "zagreus": {"max_source_epochs": 1000},
    }
    for section, values in changes.items():
        sections[section] = {**sections[section], **values}
    return load_config_text(yaml.safe_dump(sections), origin="test")
