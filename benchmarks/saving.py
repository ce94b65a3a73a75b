"""How long training stands still for a checkpoint: in the background against a synchronous save of the same state.

    python -m benchmarks.saving                       a 30M-parameter shape, for a look
    python -m benchmarks.saving --layers 32 --hidden 960 --vocab 128256     the published shape; needs ~16 GB of memory

One process on the CPU. The state is real: bf16 weights, fp32 masters, both Adam moments after one step. Saves of
the two kinds alternate; the median of each and their ratio are printed, and the size of a checkpoint. The time of a
plain write and flush of as many bytes is given beside them, as the disk's own pace. Both kinds write the same bytes
(tests/integration/test_faults_saving.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.random_shard import write_random_shard
from nanotron_zagreus.config import Config, load_config_text
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.engine.launch import start_process_group


def configuration(root: Path, source: Path, arguments: argparse.Namespace) -> Config:
    """Return a one-process configuration of the asked shape."""
    model = {
        "hidden_size": arguments.hidden,
        "intermediate_size": arguments.hidden * 8 // 3,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.hidden // 64,
        "num_key_value_heads": arguments.hidden // 64 // 3 or 1,
        "vocab_size": arguments.vocab,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    data: dict[str, Any] = {
        "checkpoints": {
            "checkpoint_interval": 1000,
            "checkpoints_path": str(root / "checkpoints"),
            "checkpoints_path_is_shared_file_system": True,
        },
        "data_stages": [
            {"name": "one", "start_training_step": 1, "data": {"dataset": {"dataset_folder": str(source)}}}
        ],
        "general": {"project": "saving", "run": "saving"},
        "logging": {"log_level": "error", "log_level_replica": "error"},
        "model": {"dtype": "bfloat16", "init_method": {"std": 0.03}, "model_config": model},
        "optimizer": {"learning_rate_scheduler": {"learning_rate": 1e-4}, "optimizer_factory": {}},
        "parallelism": {"dp": 1},
        "tokenizer": {"tokenizer_name_or_path": "tok"},
        "tokens": {"sequence_length": 64, "micro_batch_size": 1, "train_steps": 1000},
        "zagreus": {"max_source_epochs": 1e6, "checkpoints": {"keep_last": 1}},
    }
    return load_config_text(yaml.safe_dump(data), "benchmark")


def with_background(config: Config, background: bool) -> Config:
    """Return the configuration with the kind of save switched."""
    checkpoints = dataclasses.replace(config.zagreus.checkpoints, background=background)
    return dataclasses.replace(config, zagreus=dataclasses.replace(config.zagreus, checkpoints=checkpoints))


def measure(loop: Any, *, background: bool) -> tuple[float, float]:
    """Return (seconds that training stands still, seconds until the checkpoint is whole)."""
    loop.trainer.run = with_background(loop.trainer.run, background)
    loop.trainer.iteration_step += 1
    loop.saver.wait_for_deletions()
    started = time.perf_counter()
    loop.saver.begin()
    blocked = time.perf_counter() - started
    while loop.saver.is_writing:
        time.sleep(0.01)
    completing = time.perf_counter()
    loop.saver.finish()
    finished = time.perf_counter()
    return blocked + finished - completing, finished - started


def plain_write(folder: Path, num_bytes: int) -> float:
    """Return the seconds a plain sequential write and flush of as many bytes takes."""
    block = os.urandom(1 << 24)
    started = time.perf_counter()
    with (folder / "plain").open("wb") as file:
        for _ in range(num_bytes // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    (folder / "plain").unlink()
    return time.perf_counter() - started


def main() -> None:
    """Run the benchmark; see the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--vocab", type=int, default=50_000)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    bring_up()
    start_process_group()
    from nanotron_zagreus.training.loop import TrainingLoop

    with tempfile.TemporaryDirectory(prefix="zagreus-saving-") as temporary:
        root = Path(temporary)
        config = configuration(
            root, write_random_shard(root / "data", vocab_size=1000, num_tokens=20_000, token_size=4), arguments
        )
        loop = TrainingLoop(config, open_mixture(config), None)
        loop.trainer.run_step(1, loop.trainer.batches_on_device(loop.loader.micro_batches(1)))
        measure(loop, background=True)  # makes the buffers, which later saves reuse
        pairs = [(measure(loop, background=False), measure(loop, background=True)) for _ in range(arguments.pairs)]
        loop.saver.wait_for_deletions()
        files = [p for p in loop.saver.newest.rglob("*") if p.is_file()]
        num_bytes = sum(p.stat().st_size for p in files)
        plain = plain_write(root, num_bytes)
        loop.loader.close()
    ratios = [background[0] / synchronous[0] for synchronous, background in pairs]
    result = {
        "parameters": sum(p.numel() for p in loop.trainer.unwrapped_model.parameters()),
        "checkpoint_bytes": num_bytes,
        "synchronous_seconds": round(statistics.median(pair[0][0] for pair in pairs), 2),
        "background_blocked_seconds": round(statistics.median(pair[1][0] for pair in pairs), 2),
        "background_total_seconds": round(statistics.median(pair[1][1] for pair in pairs), 2),
        "plain_write_seconds": round(plain, 2),
        "blocked_over_synchronous_median": round(statistics.median(ratios), 3),
        "blocked_over_synchronous_all": [round(ratio, 3) for ratio in ratios],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
