"""Whether the fast paths learn as well as their plain references: same seed, same real text, the two losses compared.

    python -m benchmarks.convergence --work DIR                  600 steps, bf16
    python -m benchmarks.convergence --work DIR --steps 300 --dtype float32

Trains the demo's model on the demo's text (English, Portuguese, Python) on one process: once with every fast path
(chunked cross entropy, compiled blocks, documents attended one by one), once with the plain reference of each, and once
more plain from another seed, as the measure of how far apart two equally good runs are. Prints the mean training
loss of the last tenth and the held-out loss of every source.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from examples.demo.run_demo import CONFIG_FILE, Demo

FAST = {"cross_entropy": "chunked", "attention": "auto", "compile_blocks": True}
PLAIN = {"cross_entropy": "plain", "attention": "sdpa", "compile_blocks": False}
RUNS = {"plain": (PLAIN, 0), "fast": (FAST, 0), "plain, another seed": (PLAIN, 1)}
"""Name -> (`zagreus:` choices, what is added to the seed)."""


def configuration(name: str, steps: int, dtype: str) -> dict[str, Any]:
    """Return the demo's configuration on one process for one of RUNS, with held-out windows to validate on."""
    choices, seed = RUNS[name]
    data = copy.deepcopy(yaml.safe_load(CONFIG_FILE.read_text(encoding="utf-8")))
    data["parallelism"]["dp"] = 1
    data["tokens"] |= {"batch_accumulation_per_replica": 2, "train_steps": steps}
    data["tokens"] |= {"val_check_interval": steps, "limit_val_batches": 12}
    data["general"]["seed"] += seed
    data["model"]["dtype"] = dtype
    data["optimizer"]["accumulate_grad_in_fp32"] = dtype == "bfloat16"
    data["optimizer"]["learning_rate_scheduler"] |= {
        "lr_decay_starting_step": steps * 4 // 5,
        "lr_decay_steps": steps // 5,
    }
    # One mixture throughout: the comparison is not about stages.
    data["data_stages"] = data["data_stages"][:1]
    data["checkpoints"] |= {
        "checkpoint_interval": 10 * steps,
        "save_final_state": False,
        "checkpoints_path": f"runs/{dtype}/{name.replace(', ', '-').replace(' ', '-')}",
        "resume_checkpoint_path": None,
    }
    data["logging"] |= {"log_level": "warning", "iteration_step_info_interval": 1}
    data["zagreus"] |= {**choices, "document_masking": True, "validation_windows_per_source": 16}
    return data


def read_run(root: Path) -> tuple[list[float], dict[str, float]]:
    """Return a run's training losses and its held-out loss by source."""
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [row["lm_loss"] for row in rows if "lm_loss" in row]
    held_out = {Path(row["source"]).name: row["loss"] for row in rows if row.get("event") == "validation"}
    return losses, held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for text, shards and runs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    demo = Demo(CONFIG_FILE, work, Console(stderr=True))
    if not (demo.output / "tokenized" / "code").exists():
        for make in (demo.collect, demo.train_tokenizer, demo.tokenize):
            make()
    results = {}
    for name in RUNS:
        data = configuration(name, arguments.steps, arguments.dtype)
        root = work / data["checkpoints"]["checkpoints_path"]
        if not (root / "metrics.jsonl").exists() or len(read_run(root)[0]) < arguments.steps:
            (root / "metrics.jsonl").unlink(missing_ok=True)
            file = work / f"{root.name}.yaml"
            file.write_text(yaml.safe_dump(data), encoding="utf-8")
            demo.commands.run("zagreus", "train", "--config-file", str(file), "--nproc", "1")
        results[name] = read_run(root)
    report(results, arguments.steps, arguments.dtype)


def report(results: dict[str, tuple[list[float], dict[str, float]]], steps: int, dtype: str) -> None:
    """Print each run's figures and its distance from the plain one."""
    reference, reference_held_out = results["plain"]
    last = max(1, steps // 10)
    sources = list(reference_held_out)
    print(f"{steps} steps, {dtype}")
    print(f"| run | loss of the last {last} steps | largest difference of a step | {' | '.join(sources)} held out |")
    print(f"|{'---|' * (3 + len(sources))}")
    for name, (losses, held_out) in results.items():
        mean = statistics.fmean(losses[-last:])
        gap = mean - statistics.fmean(reference[-last:])
        worst = max(abs(a - b) for a, b in zip(losses, reference, strict=True))
        cells = [f"{held_out[source]:.4f} ({held_out[source] - reference_held_out[source]:+.4f})" for source in sources]
        print(f"| {name} | {mean:.4f} ({gap:+.4f}) | {worst:.4f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
