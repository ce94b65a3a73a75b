"""Kill a training run at random moments, over and over, and compare its end with a run nobody touched.

    python -m benchmarks.soak --kills 50

Two ranks train a tiny model on the CPU. Each life of the run is ended at a random moment by SIGKILL to all its
processes, SIGTERM to torchrun, SIGSTOP of one rank, or a full disk (a limit on the size of files, under which the
next save fails); the next life resumes with `resume_checkpoint_path: auto`. At the end every file of the last
checkpoint must equal the uninterrupted run's, byte for byte, config.yaml (which names the folder) aside. Exit code 0:
equal, and every full disk met a save; 3: not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from benchmarks.random_shard import write_random_shard
from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.checkpoints.outcome import read_outcome

STEPS_PER_LIFE = 60
FAULTS = ("SIGKILL", "SIGTERM", "SIGSTOP", "full disk")
WEIGHTS = (0.45, 0.35, 0.1, 0.1)
LARGEST_FILE_BYTES = 20_000
"""Of a life on a full disk: above every description in a checkpoint, below its optimizer files."""


def write_config(root: Path, name: str, source: Path, train_steps: int) -> Path:
    """Write the tiny run's YAML; a checkpoint every 20 steps, resumed from its own folder."""
    model = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config: dict[str, Any] = {
        "checkpoints": {
            "checkpoint_interval": 20,
            "checkpoints_path": str(root / name),
            "checkpoints_path_is_shared_file_system": True,
            "resume_checkpoint_path": "auto",
            "save_final_state": True,
        },
        "data_stages": [
            {"name": "one", "start_training_step": 1, "data": {"dataset": {"dataset_folder": str(source)}}}
        ],
        "general": {"project": "soak", "run": name, "seed": 1},
        "logging": {"log_level": "error", "log_level_replica": "error"},
        "model": {
            "dtype": "bfloat16",
            "init_method": {"std": 0.05},
            "model_config": model | {"vocab_size": 64, "max_position_embeddings": 32, "tie_word_embeddings": True},
        },
        "optimizer": {
            "learning_rate_scheduler": {"learning_rate": 0.003, "lr_warmup_steps": 10},
            "optimizer_factory": {"torch_adam_is_fused": True},
            "zero_stage": 1,
        },
        "parallelism": {"dp": 2},
        "tokenizer": {"tokenizer_name_or_path": "tok"},
        "tokens": {"sequence_length": 32, "micro_batch_size": 2, "train_steps": train_steps},
        "zagreus": {
            "max_source_epochs": 1e6,
            "checkpoints": {"keep_last": 3},
            "guards": {"hang_timeout_seconds": 3.0},
        },
    }
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def start(config: Path, *, limit_files: bool = False) -> subprocess.Popen[bytes]:
    """Launch two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    command += ["--rdzv_endpoint=127.0.0.1:0", "-m", "nanotron_zagreus.training", "--config-file", str(config)]

    def limit() -> None:
        if limit_files:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE_BYTES, LARGEST_FILE_BYTES))

    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=limit,
    )


def ranks_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the pids of the launch's ranks."""
    with contextlib.suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    return []


def kill_everything(process: subprocess.Popen[bytes]) -> None:
    """End the launch and its ranks, whatever state they are in."""
    for pid in [*ranks_of(process), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def num_lines(path: Path) -> int:
    """Return how many steps a run has logged, resumed ones counted again."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_progress(process: subprocess.Popen[bytes], log: Path, before: int) -> None:
    """Wait until the life has logged its first step, or is over."""
    while process.poll() is None and num_lines(log) <= before:
        time.sleep(0.02)


def live_and_die(config: Path, root: Path, fault: str, rng: random.Random) -> None:
    """Start a life, let it train for a moment, and end it by ``fault``."""
    log = root / "metrics.jsonl"
    before = num_lines(log)
    process = start(config, limit_files=fault == "full disk")
    if fault == "full disk":
        # It goes on until its next save, without a line in metrics.jsonl once that is larger than the limit.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=120)
        kill_everything(process)
        return
    # A third of the lives end before their first step, while starting or loading.
    if rng.random() < 1 / 3:
        time.sleep(rng.uniform(0.5, 5.0))
    else:
        wait_for_progress(process, log, before)
        time.sleep(rng.uniform(0.0, 1.0))
    if fault == "SIGTERM":
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    elif fault == "SIGSTOP":
        for rank in ranks_of(process)[:1]:
            os.kill(rank, signal.SIGSTOP)
    if fault != "SIGKILL":
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
    kill_everything(process)


def hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of a checkpoint's files, read from the disk."""
    return {record.path: record.sha256 for record in manifest.verify(folder) if record.path != layout.CONFIG_FILE}


def main() -> int:
    """Run the soak; see the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    train_steps = arguments.kills * STEPS_PER_LIFE
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="zagreus-soak-") as temporary:
        root = Path(temporary)
        source = write_random_shard(root / "data", vocab_size=64, num_tokens=30_000, token_size=2)
        configs = {name: write_config(root, name, source, train_steps) for name in ("untouched", "soaked")}
        if start(configs["untouched"]).wait() != 0:
            raise SystemExit("the uninterrupted run failed")
        for _ in range(arguments.kills):
            fault = rng.choices(FAULTS, WEIGHTS)[0]
            live_and_die(configs["soaked"], root / "soaked", fault, rng)
            counts[fault] += 1
            failed = read_outcome(root / "soaked")
            if fault == "full disk" and failed is not None and "failed, earlier checkpoints are" in failed.reason:
                counts["full disk met by a save"] += 1
            step = layout.read_latest(root / "soaked")
            if step is not None:
                manifest.verify(layout.step_folder(root / "soaked", step))
            print(f"{sum(counts[name] for name in FAULTS):3d} {fault:9s} newest checkpoint: {step}", flush=True)
        lives = 0
        while (outcome := read_outcome(root / "soaked")) is None or outcome.why != "finished":
            lives += 1
            if start(configs["soaked"]).wait() != 0 or lives > 3:
                raise SystemExit("the soaked run does not finish")
        expected, found = (hashes(root / name / str(train_steps)) for name in ("untouched", "soaked"))
        hidden = [p.name for p in (root / "soaked").iterdir() if p.name.startswith(".")]
        leftovers = [name for name in hidden if name != layout.CLAIM_FILE]
        result = {
            "kills": dict(counts),
            "steps": train_steps,
            "lines_logged": num_lines(root / "soaked" / "metrics.jsonl"),
            "files_compared": len(expected),
            "leftovers": leftovers,
            "bit_equal": expected == found,
        }
    print(json.dumps(result, indent=1))
    is_met = counts["full disk met by a save"] == counts["full disk"]
    return 0 if result["bit_equal"] and is_met and not leftovers else 3


if __name__ == "__main__":
    sys.exit(main())
