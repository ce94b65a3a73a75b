"""Tiny training runs for tests: synthetic shards, a configuration with overrides, launches under torchrun.

Several runs share one launch: starting the engine costs seconds, a tiny run does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
VOCAB_SIZE = 64
_WORKER = Path(__file__).with_name("run_configs.py")

DP2 = {"parallelism__dp": 2, "tokens__batch_accumulation_per_replica": 2}
"""Two replicas; the global batch stays that of DP1."""
DP1 = {"parallelism__dp": 1, "tokens__batch_accumulation_per_replica": 4}


def write_shards(folder: Path, *, num_tokens: int, seed: int) -> Path:
    """Write one whole shard of tokens with a skewed distribution, so that there is something to learn."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tokens = np.minimum((rng.pareto(1.0, num_tokens) * 5).astype(np.int64), VOCAB_SIZE - 1).astype("<u2")
    ends = np.array(sorted({*range(37, num_tokens, 41), num_tokens}), dtype="<u8")
    shard = folder / "00000_00000_unshuffled.ds"
    shard.write_bytes(tokens.tobytes())
    shard.with_name(shard.name + ".index").write_bytes(ends.tobytes())
    shard.with_name(shard.name + ".metadata").write_text(f"tok|2\n{num_tokens}\n{num_tokens} T")
    return folder


def tiny_config(root: Path, **overrides: Any) -> dict[str, Any]:
    """Return a tiny run's YAML data; ``overrides`` are dotted paths with `__` for dots."""
    sources = [root / "data" / name for name in ("a", "b")]
    for seed, source in enumerate(sources):
        if not source.exists():
            write_shards(source, num_tokens=20_000, seed=seed)
    config: dict[str, Any] = {
        "checkpoints": {
            "checkpoint_interval": 5,
            "checkpoints_path": str(root / "checkpoints"),
            "checkpoints_path_is_shared_file_system": True,
        },
        "data_stages": [
            {
                "name": "one",
                "start_training_step": 1,
                "data": {"dataset": {"dataset_folder": [str(s) for s in sources], "dataset_weights": [0.7, 0.3]}},
            },
            {
                "name": "two",
                "start_training_step": 7,
                "data": {"dataset": {"dataset_folder": [str(sources[1])]}},
            },
        ],
        "general": {"project": "tiny", "run": "tiny", "seed": 5},
        "logging": {"log_level": "warning", "log_level_replica": "warning"},
        "model": {
            "dtype": "float32",
            "init_method": {"std": 0.05},
            "model_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "num_hidden_layers": 2,
                "vocab_size": VOCAB_SIZE,
                "max_position_embeddings": 32,
                "rms_norm_eps": 1e-05,
                "tie_word_embeddings": True,
            },
        },
        "optimizer": {
            "accumulate_grad_in_fp32": False,
            "learning_rate_scheduler": {
                "learning_rate": 0.01,
                "lr_warmup_steps": 2,
                "lr_decay_starting_step": 8,
                "lr_decay_steps": 4,
                "min_decay_lr": 0.001,
            },
            "optimizer_factory": {"torch_adam_is_fused": False},
        },
        "parallelism": {"dp": 1, "tp": 1, "pp": 1},
        "tokenizer": {"tokenizer_name_or_path": "tok"},
        "tokens": {
            "batch_accumulation_per_replica": 4,
            "micro_batch_size": 2,
            "sequence_length": 32,
            "train_steps": 12,
        },
        "zagreus": {"max_source_epochs": 1e6},
    }
    for path, value in overrides.items():
        section = config
        *parents, last = path.split("__")
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = value
    return config


def write_config(path: Path, config: dict[str, Any]) -> Path:
    """Write a configuration's YAML and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


def launch(
    configs: Sequence[Path | str],
    *,
    num_processes: int,
    check: bool = True,
    environment: dict[str, str] | None = None,
    worker: Path = _WORKER,
) -> subprocess.CompletedProcess[str]:
    """Run the configurations one after another in one launch of ``num_processes`` ranks, or what ``worker`` takes."""
    done = subprocess.run(
        launch_command(configs, num_processes, worker),
        cwd=REPOSITORY,
        env=environment or launch_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"launch failed with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return done


def launch_command(configs: Sequence[Path | str], num_processes: int, worker: Path = _WORKER) -> list[str]:
    """Return the command line of a launch."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={num_processes}"]
    return [*command, "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0", str(worker), *map(str, configs)]


def launch_environment() -> dict[str, str]:
    """Return the environment of a launch: one thread per rank, and the package found where it is not installed."""
    folders = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(folders)}


def environment_without_checkout() -> dict[str, str]:
    """Return the environment of a launch on the installed nanotron, also where NANOTRON_SRC names a checkout."""
    environment = launch_environment()
    folders = environment.get("PYTHONPATH", "").split(os.pathsep)
    kept = [folder for folder in folders if folder and not (Path(folder) / "nanotron").is_dir()]
    return environment | {"PYTHONPATH": os.pathsep.join(kept)}


def read_events(root: Path, kind: str) -> list[dict[str, Any]]:
    """Return a run's events of one kind from metrics.jsonl."""
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row.get("event") == kind]


def read_losses(root: Path) -> dict[int, float]:
    """Return step -> loss from a run's metrics.jsonl; the last line of a step counts."""
    return read_figures(root, "lm_loss")


def read_figures(root: Path, name: str) -> dict[int, float]:
    """Return step -> figure from a run's metrics.jsonl; the last line of a step counts."""
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return {row["iteration"]: row[name] for row in rows if "lm_loss" in row}
