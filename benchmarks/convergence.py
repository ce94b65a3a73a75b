"""Whether the fast paths learn as well as their plain references: same seeds, same real text, the losses compared.

    python -m benchmarks.convergence --work DIR                  600 steps, bf16, three seeds
    python -m benchmarks.convergence --work DIR --steps 300 --dtype float32 --seeds 1

Trains the demo's model on the demo's text (English, Portuguese, Python) on one process, from every seed twice: with
every fast path (chunked cross entropy, compiled blocks, documents attended one by one) and with the plain reference of
each. Prints the mean training loss of the last tenth and the held-out loss of every source: the difference of the two
kinds' means beside twice the standard deviation between seeds, which is how far apart two equally good runs are.
Finished runs in DIR are kept; a difference beyond that bound ends with exit code 3.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from examples.demo.run_demo import CONFIG_FILE, Demo

Run = tuple[list[float], dict[str, float]]
"""A run's training losses, and its held-out loss by source."""

FAST = {"cross_entropy": "chunked", "attention": "auto", "compile_blocks": True}
PLAIN = {"cross_entropy": "plain", "attention": "sdpa", "compile_blocks": False}
KINDS = {"plain": PLAIN, "fast": FAST}


def configuration(kind: str, seed: int, steps: int, dtype: str) -> dict[str, Any]:
    """Return the demo's configuration on one process, with held-out windows to validate on.

    Args:
        kind: one of KINDS.
        seed: added to the demo's seed.
    """
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
        "checkpoints_path": f"runs/{dtype}/{steps}-{kind}-{seed}",
        "resume_checkpoint_path": None,
    }
    data["logging"] |= {"log_level": "warning", "iteration_step_info_interval": 1}
    data["zagreus"] |= {**KINDS[kind], "document_masking": True, "validation_windows_per_source": 16}
    return data


def read_run(root: Path) -> Run:
    """Return a run's training losses and its held-out loss by source."""
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [_number(row["lm_loss"]) for row in rows if "lm_loss" in row]
    held_out = {Path(row["source"]).name: _number(row["loss"]) for row in rows if row.get("event") == "validation"}
    return losses, held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for text, shards and runs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    demo = Demo(CONFIG_FILE, work, Console(stderr=True))
    if not (demo.output / "tokenized" / "code").exists():
        for make in (demo.collect, demo.train_tokenizer, demo.tokenize):
            make()
    results: dict[str, list[Run]] = {kind: [] for kind in KINDS}
    for seed in range(arguments.seeds):
        for kind in KINDS:
            results[kind].append(trained(demo, work, configuration(kind, seed, arguments.steps, arguments.dtype)))
    print(f"{arguments.steps} steps, {arguments.dtype}, {arguments.seeds} seeds")
    sys.exit(0 if report(results["plain"], results["fast"]) else 3)


def trained(demo: Demo, work: Path, data: dict[str, Any]) -> Run:
    """Train one run in ``work``, unless it is there, and return its figures."""
    steps, root = data["tokens"]["train_steps"], work / data["checkpoints"]["checkpoints_path"]
    if not (root / "metrics.jsonl").exists() or len(read_run(root)[0]) < steps:
        (root / "metrics.jsonl").unlink(missing_ok=True)
        file = work / f"{root.name}.yaml"
        file.write_text(yaml.safe_dump(data), encoding="utf-8")
        demo.commands.run("zagreus", "train", "--config-file", str(file), "--nproc", "1")
    return read_run(root)


def report(plain: list[Run], fast: list[Run]) -> bool:
    """Print both kinds' figures; return whether every difference is within two standard deviations between seeds."""
    print("| figure | plain, mean | fast, mean | difference | 2 standard deviations | same seed, differences |")
    print(f"|{'---|' * 6}")
    figures = [figures_of(run) for run in plain], [figures_of(run) for run in fast]
    all_within = True
    for name in figures[0][0]:
        ours, theirs = [run[name] for run in figures[1]], [run[name] for run in figures[0]]
        gap = statistics.fmean(ours) - statistics.fmean(theirs)
        pairs = ", ".join(f"{a - b:+.4f}" for a, b in zip(ours, theirs, strict=True))
        bound = "one seed says nothing"
        if len(ours) > 1:
            # Both kinds have as many runs, so the pooled variance is the mean of the two.
            twice = 2 * math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / 2)
            all_within &= abs(gap) <= twice
            bound = f"{twice:.4f}"
        means = f"{statistics.fmean(theirs):.4f} | {statistics.fmean(ours):.4f}"
        print(f"| {name} | {means} | {gap:+.4f} | {bound} | {pairs} |")
    steps = [max(abs(a - b) for a, b in zip(f[0], p[0], strict=True)) for f, p in zip(fast, plain, strict=True)]
    print(f"largest difference of a step at the same seed: {max(steps):.4f}")
    return all_within


def figures_of(run: Run) -> dict[str, float]:
    """Return a run's figures by name, in nats per token."""
    losses, held_out = run
    last = max(1, len(losses) // 10)
    return {f"training, last {last} steps": statistics.fmean(losses[-last:])} | {
        f"{source}, held out": loss for source, loss in held_out.items()
    }


def _number(figure: float | None) -> float:
    """Return a figure of metrics.jsonl, where null stands for NaN and infinity."""
    return math.nan if figure is None else figure


if __name__ == "__main__":
    main()
