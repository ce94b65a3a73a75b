"""Seconds from the launch of a rank to the end of its first step, by part, and what sparing unused imports saves.

    python -m benchmarks.startup                      the demo's shape
    python -m benchmarks.startup --shape published    437,760,960 parameters at 32 tokens; needs ~10 GB of memory

Each round starts one rank in a new process twice: as it is, and with the engine importing datasets and transformers as
upstream writes it. The order within a pair alternates; medians and the median of the pairs' ratios are printed. The
first step includes compiling where `--compile` asks for it: once with an empty cache, and then from torch's own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import yaml

from benchmarks.random_shard import write_random_shard
from nanotron_zagreus.resources import find_config

SHAPES = {"demo": "zagreus_tiny.yaml", "published": "zagreus_350M_por.yaml"}
ARMS = ("as it is", "with unused imports")


def write_configuration(root: Path, shape: str, *, compiled: bool) -> Path:
    """Write a configuration of one step on one rank and random tokens; return its file."""
    data = yaml.safe_load(find_config(SHAPES[shape]).read_text(encoding="utf-8"))
    source = write_random_shard(root / "data", vocab_size=1000, num_tokens=20_000, token_size=4)
    data["data_stages"] = [
        {"name": "one", "start_training_step": 1, "data": {"dataset": {"dataset_folder": str(source)}}}
    ]
    data["checkpoints"] |= {"checkpoints_path": str(root / "checkpoints"), "save_final_state": False}
    data["checkpoints"]["resume_checkpoint_path"] = None
    data["logging"] |= {"log_level": "error", "log_level_replica": "error"}
    data["parallelism"] |= {"dp": 1}
    data["tokenizer"] = {"tokenizer_name_or_path": "tok"}
    data["tokens"] |= {"sequence_length": 32, "micro_batch_size": 1, "batch_accumulation_per_replica": 1}
    data["tokens"] |= {"train_steps": 1, "limit_val_batches": 0}
    data["zagreus"] = {"compile_blocks": compiled, "max_source_epochs": 1e6}
    data["optimizer"]["learning_rate_scheduler"] = {"learning_rate": 1e-4}
    file = root / "run.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


def start_rank(file: str, launched: float, *, spared: bool) -> None:
    """Run the step in this process and print when each part was done, in seconds since ``launched``."""
    places: dict[str, float] = {}

    def reached(place: str) -> None:
        places[place] = time.time() - launched

    import torch  # noqa: F401 - timed by itself

    reached("python and torch")
    from nanotron_zagreus.engine import repairs
    from nanotron_zagreus.engine.bringup import bring_up

    importing = repairs.import_trainer
    patch = mock.patch.object(repairs, "import_trainer", lambda *packages, unused=(): importing(*packages))
    if spared:
        bring_up()
    else:
        with patch:
            bring_up()
    reached("engine")
    from nanotron_zagreus.training.loop import TrainingLoop
    from nanotron_zagreus.training.run import run_training

    initialise = TrainingLoop.__init__

    def timed_initialise(*arguments: object, **options: object) -> None:
        reached("checks and data")
        initialise(*arguments, **options)  # type: ignore[arg-type]
        reached("model and optimizer")

    with mock.patch.object(TrainingLoop, "__init__", timed_initialise):
        run_training(file)
    reached("first step")
    print(json.dumps(places))


def measure(file: Path, arm: str, cache: Path) -> dict[str, float]:
    """Return the seconds each part took in a process of its own."""
    checkpoints = file.parent / "checkpoints"
    subprocess.run(["rm", "-rf", str(checkpoints)], check=True)
    command = [sys.executable, "-m", "benchmarks.startup", "--rank", str(file), str(time.time()), arm]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    reached = json.loads(done.stdout.splitlines()[-1])
    starts = [0.0, *list(reached.values())[:-1]]
    parts = {name: end - start for (name, end), start in zip(reached.items(), starts, strict=True)}
    return {**parts, "all": list(reached.values())[-1]}


def main() -> None:
    """Run the benchmark; see the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--compile", action="store_true", help="compile the decoder blocks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rank", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        file, launched, arm = arguments.rank
        start_rank(file, float(launched), spared=arm == ARMS[0])
        return
    with tempfile.TemporaryDirectory(prefix="zagreus-startup-") as temporary:
        root = Path(temporary)
        file = write_configuration(root, arguments.shape, compiled=arguments.compile)
        first = measure(file, ARMS[0], root / "cache")
        rounds: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for number in range(arguments.rounds):
            for arm in ARMS if number % 2 else ARMS[::-1]:
                rounds[arm].append(measure(file, arm, root / "cache"))
    ratios = [other["all"] / ours["all"] for ours, other in zip(rounds[ARMS[0]], rounds[ARMS[1]], strict=True)]
    result = {
        "first launch, all": round(first["all"], 2),
        **{arm: {n: round(statistics.median(r[n] for r in runs), 2) for n in runs[0]} for arm, runs in rounds.items()},
        "unused imports / without them": [round(x, 2) for x in (statistics.median(ratios), min(ratios), max(ratios))],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
