"""Say what the demo made: the figures, each computed from the files of this run, and what to try next."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from examples.demo.entropy import unigram_bits_per_byte, unigram_entropy
from nanotron_zagreus.arithmetic import count_parameters
from nanotron_zagreus.config import Config
from nanotron_zagreus.errors import WorkError

LEAST_GAIN = 1.5
"""Nats per token by which the final loss must lie below the unigram entropy. No model without context gets below 0;
the shipped configuration gains 2.95 here, so half of that is far from both chance and today's figure."""
_NUM_LAST = 3
_TEXT_TASKS = {"english": "text_en", "portuguese": "text_pt", "code": "text_code"}
_PLACES = (
    ("demo_output/text, held_out", "the corpus, one JSON line per document"),
    ("demo_output/tokenized", "shards of tokens, one folder per source"),
    ("demo_output/checkpoints", "Nanotron checkpoints, and metrics.jsonl with the losses"),
    ("demo_output/hf", "the model, for transformers' AutoModelForCausalLM"),
    ("demo_output/results", "lm-eval's result files"),
    ("demo_output/progression.png", "the scores of every checkpoint over the training"),
)
_NEXT = (
    'zagreus generate demo_output/hf --prompt "Era uma vez"',
    "zagreus replay --config-file configs/smollm2/zagreus_tiny.yaml --step 100",
    "zagreus checkpoints list demo_output/checkpoints",
    "edit configs/smollm2/zagreus_tiny.yaml, then make demo: it sees the change and starts clean",
    "zagreus check --config-file configs/smollm2/zagreus_350M_por.yaml     the model this is a miniature of",
)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What training made of the corpus, in nats per token."""

    first: float
    """Loss of the first step."""
    final: float
    """Mean loss of the last steps."""
    unigram_entropy: float
    """The least that a model without context can reach on the last stage's mixture."""


def measure_losses(config: Config, folder: Path) -> Losses:
    """Return the losses of a finished run; final loss and entropy are both of the last stage's mixture.

    Args:
        config: what was trained.
        folder: the folder that the configuration's paths are relative to.
    """
    losses = read_losses(folder / config.checkpoints.checkpoints_path / "metrics.jsonl")
    steps = sorted(losses)
    last = steps[-_NUM_LAST:]
    dataset = config.data_stages[-1].data.dataset
    sources = [folder / source for source in dataset.folders]
    weights = list(dataset.weights or [1.0] * len(sources))
    return Losses(
        first=losses[steps[0]],
        final=sum(losses[step] for step in last) / len(last),
        unigram_entropy=unigram_entropy(sources, weights, config.model.model_config.vocab_size),
    )


def check_learnt(losses: Losses) -> None:
    """Refuse to call a demo done whose model has not learnt from context.

    Raises:
        WorkError: the final loss is not well below the unigram entropy, or is no number.
    """
    if not losses.final <= losses.unigram_entropy - LEAST_GAIN:
        raise WorkError(
            f"the model has not learnt: its final loss is {losses.final:.2f} nats per token, the unigram entropy of "
            f"its corpus {losses.unigram_entropy:.2f}; this demo's training ends at least {LEAST_GAIN:g} below that"
        )


def print_report(config: Config, folder: Path, seconds: dict[str, float], console: Console) -> None:
    """Print figures, places and next steps of a finished demo.

    Args:
        config: what was trained.
        folder: the folder that the configuration's paths are relative to.
        seconds: duration of each step.
    """
    console.rule("What was made", align="left")
    figures = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    time = f"{sum(seconds.values()):.0f} s in all, {seconds['train']:.0f} s of training"
    for name, value in (*_training_figures(config, folder), *_unseen_figures(folder), ("time", time)):
        figures.add_row(name, value)
    console.print(figures)
    console.print()
    for place, what in _PLACES:
        console.print(f"  {place:28} {what}", highlight=False)
    console.rule("What to try next", align="left")
    console.print("  (with .venv/bin on the PATH: source .venv/bin/activate)", highlight=False)
    for line in _NEXT:
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)


def _training_figures(config: Config, folder: Path) -> list[tuple[str, str]]:
    """Return rows about the training."""
    losses = measure_losses(config, folder)
    gain = losses.unigram_entropy - losses.final
    return [
        ("model", f"{count_parameters(config.model.model_config).total:,} parameters"),
        ("training", f"{config.tokens.train_steps:,} steps of {config.tokens_per_step:,} tokens"),
        ("loss", f"{losses.first:.2f} at first, {losses.final:.2f} at the end (nats per token)"),
        ("unigram entropy", f"{losses.unigram_entropy:.2f}, the least without looking at context"),
        ("gain from context", f"{gain:.2f} nats per token"),
    ]


def _unseen_figures(folder: Path) -> list[tuple[str, str]]:
    from tokenizers import Tokenizer

    output = folder / "demo_output"
    tokenizer = Tokenizer.from_file(str(output / "tokenizer" / "tokenizer.json"))
    scores = read_scores(output / "results")
    rows = []
    for language, task in _TEXT_TASKS.items():
        unigram = unigram_bits_per_byte(
            output / "tokenized" / language, output / "held_out" / f"{language}.jsonl", tokenizer
        )
        model = scores[task, "bits_per_byte"]
        rows.append((f"unseen {language}", f"{model:.2f} bits per byte, {unigram:.2f} without context"))
    return rows


def read_losses(metrics_file: Path) -> dict[int, float]:
    """Return the loss in nats per token of each step, NaN where it was no number; the last line of a step counts."""
    records = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    losses = {record["iteration"]: record["lm_loss"] for record in records if "lm_loss" in record}
    return {step: math.nan if loss is None else loss for step, loss in losses.items()}


def read_scores(results: Path) -> dict[tuple[str, str], float]:
    """Return the newest score per (task, metric) in lm-eval's files under ``results``."""
    scores: dict[tuple[str, str], float] = {}
    for file in sorted(results.rglob("results_*.json"), key=lambda path: path.name):
        for task, metrics in json.loads(file.read_text())["results"].items():
            for name, value in metrics.items():
                if isinstance(value, float):
                    scores[task, name.split(",")[0]] = value
    return scores
