"""Our configuration in the words that every engine shares, and the temporary file that engines read.

Data, resuming and saving are ours, so those sections carry only what the trainer's constructor looks at. What an
engine says differently stands in its own file.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nanotron_zagreus.arithmetic import decay_span
from nanotron_zagreus.config import Config
from nanotron_zagreus.config.model import RandomInitSection
from nanotron_zagreus.config.parsing import to_plain


@contextlib.contextmanager
def engine_config_file(translated: dict[str, Any]) -> Iterator[Path]:
    """Yield the path of a temporary YAML file of ``translated``, gone after the context; engines load only paths."""
    with tempfile.TemporaryDirectory(prefix="zagreus-engine-") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(translated), encoding="utf-8")
        yield path


def shared_sections(config: Config) -> dict[str, Any]:
    """Return the sections that all engines read alike."""
    return {
        "general": {
            "project": config.general.project,
            "run": config.general.run,
            "seed": config.general.seed,
            "ignore_sanity_checks": config.general.ignore_sanity_checks,
        },
        "parallelism": _parallelism(config),
        "model": _model(config),
        "tokenizer": to_plain(config.tokenizer),
        "checkpoints": {
            "checkpoints_path": str(config.checkpoints.checkpoints_path),
            "checkpoint_interval": config.checkpoints.checkpoint_interval,
            "checkpoints_path_is_shared_file_system": config.checkpoints.checkpoints_path_is_shared_file_system,
        },
        "logging": to_plain(config.logging),
        "tokens": to_plain(config.tokens),
        "optimizer": _optimizer(config),
        "profiler": None,
    }


def adam_constants(config: Config) -> dict[str, Any]:
    """Return the constants of AdamW, which engines read in different places."""
    adam = config.optimizer.optimizer_factory
    return {
        "adam_eps": adam.adam_eps,
        "adam_beta1": adam.adam_beta1,
        "adam_beta2": adam.adam_beta2,
        "torch_adam_is_fused": adam.torch_adam_is_fused,
    }


def _parallelism(config: Config) -> dict[str, Any]:
    parallelism = config.parallelism
    return {
        "dp": parallelism.dp,
        "tp": parallelism.tp,
        "pp": parallelism.pp,
        "pp_engine": parallelism.pp_engine,
        "tp_mode": parallelism.tp_mode,
        # At tp = 1 it does nothing, at tp > 1 it is refused (functional.py:417 computes a wrong gradient).
        "tp_linear_async_communication": False,
        "expert_parallel_size": 1,
    }


def _model(config: Config) -> dict[str, Any]:
    model = config.model
    # Where parameters come from is our trainer's affair; the engine only needs a standard deviation.
    std = model.init_method.std if isinstance(model.init_method, RandomInitSection) else 0.02
    return {
        "model_config": to_plain(model.model_config) | {"num_key_value_heads": model.model_config.kv_heads},
        "init_method": {"std": std},
        "dtype": model.dtype,
        "make_vocab_size_divisible_by": model.make_vocab_size_divisible_by,
        "ddp_bucket_cap_mb": model.ddp_bucket_cap_mb,
    }


def _optimizer(config: Config) -> dict[str, Any]:
    optimizer, schedule = config.optimizer, to_plain(config.optimizer.learning_rate_scheduler)
    first, last = decay_span(config.optimizer.learning_rate_scheduler, config.tokens.train_steps)
    schedule |= {"lr_decay_starting_step": first, "lr_decay_steps": last - first}
    # dacite refuses null where a field's hint is `float = None`; absent means the same.
    schedule = {name: value for name, value in schedule.items() if value is not None}
    return {
        "zero_stage": optimizer.zero_stage,
        "weight_decay": optimizer.weight_decay,
        "clip_grad": optimizer.clip_grad,
        "accumulate_grad_in_fp32": optimizer.accumulate_grad_in_fp32,
        "learning_rate_scheduler": schedule,
    }
