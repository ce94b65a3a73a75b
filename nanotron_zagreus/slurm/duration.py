"""Estimate how long a run takes, how often it requeues, and how early it must be told to save."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from nanotron_zagreus.arithmetic import (
    A100_PEAK_FLOPS,
    count_flops_per_token,
    tokens_per_second_per_gpu,
    training_seconds,
)
from nanotron_zagreus.checkpoints.layout import MANIFEST_FILE, METRICS_FILE, list_steps, step_folder
from nanotron_zagreus.config import Config
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.memory import checkpoint_bytes
from nanotron_zagreus.units import human_count, human_duration

_ASSUMED_UTILISATION = 0.3
"""Share of an A100's peak that a run without measurements is taken to reach: what Nanotron runs of this size report
(SmolLM3-3B: 29.4 % of an H100)."""
_ASSUMED_WRITE_BYTES_PER_SECOND = 200e6
_SAVES_IN_LEAD = 3
_LEAST_LEAD_SECONDS = 300
"""Slurm looks at time limits about once a minute, and sends the signal up to a minute early or late."""
_ROWS_FOR_RATE = 100
_TAIL_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """What is left of a run, and what it takes under a time limit."""

    num_steps: int
    """Steps still to train."""
    num_tokens: int
    tokens_per_second_per_gpu: float
    rate_source: str
    """Where the rate comes from: measured, given, or assumed."""
    seconds: float
    time_limit_seconds: int
    lead_seconds: int
    """How long before the limit the run is asked to save."""

    @property
    def num_requeues(self) -> int:
        """How often the job runs into its time limit."""
        return max(0, math.ceil(self.seconds / (self.time_limit_seconds - self.lead_seconds)) - 1)

    def text(self) -> str:
        """Return the estimate in one line."""
        return (
            f"{self.num_steps:,} steps, {human_count(self.num_tokens)} tokens: about {human_duration(self.seconds)} at "
            f"{self.tokens_per_second_per_gpu:,.0f} tokens/s per GPU ({self.rate_source}); time limit "
            f"{human_duration(self.time_limit_seconds)}, asked to save {human_duration(self.lead_seconds)} before it: "
            f"{self.num_requeues} requeues"
        )


def estimate_run(
    config: Config, *, time_limit_seconds: int, given_rate: float | None = None, given_lead: int | None = None
) -> RunEstimate:
    """Return the estimate for what is left of a run.

    Args:
        config: the run; figures in its checkpoints folder are used.
        time_limit_seconds: of one job.
        given_rate: tokens per second and GPU; None: the run's own metrics, else an assumption.
        given_lead: seconds; None: three saves, at least five minutes.

    Raises:
        InputError: the lead leaves no time to train.
    """
    root = config.checkpoints.checkpoints_path
    done = max(list_steps(root), default=0)
    num_steps = max(0, config.tokens.train_steps - done)
    num_tokens = num_steps * config.tokens_per_step
    rate, source = _rate(config, given_rate)
    lead = lead_seconds(config) if given_lead is None else given_lead
    if lead * 2 > time_limit_seconds:
        raise InputError(
            f"time_limit: got {human_duration(time_limit_seconds)}, and the run must be asked to save "
            f"{human_duration(lead)} before its end; give the job more than twice that"
        )
    return RunEstimate(
        num_steps=num_steps,
        num_tokens=num_tokens,
        tokens_per_second_per_gpu=rate,
        rate_source=source,
        seconds=training_seconds(num_tokens, rate, config.parallelism.world_size),
        time_limit_seconds=time_limit_seconds,
        lead_seconds=lead,
    )


def lead_seconds(config: Config) -> int:
    """Return how long before the time limit to ask for a save: three saves, whole minutes, at least five."""
    measured = slowest_save_seconds(config.checkpoints.checkpoints_path)
    save = checkpoint_bytes(config) / _ASSUMED_WRITE_BYTES_PER_SECOND if measured is None else measured
    return max(_LEAST_LEAD_SECONDS, 60 * math.ceil(_SAVES_IN_LEAD * save / 60))


def slowest_save_seconds(root: Path) -> float | None:
    """Return the longest time from a checkpoint's first file to its manifest, the last one; None without any."""
    seconds = []
    for step in list_steps(root):
        folder = step_folder(root, step)
        manifest = folder / MANIFEST_FILE
        if manifest.is_file():
            first = min(file.stat().st_mtime for file in folder.rglob("*") if file.is_file())
            seconds.append(manifest.stat().st_mtime - first)
    return max(seconds, default=None)


def measured_rate(root: Path) -> float | None:
    """Return the median tokens per second and GPU of the last logged steps; None without any."""
    path = root / METRICS_FILE
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().splitlines()
    rates = [rate for line in lines if (rate := _rate_of(line)) is not None]
    return statistics.median(rates[-_ROWS_FOR_RATE:]) if rates else None


def checked_rate(given: float) -> float:
    """Return the user's tokens per second and GPU; refuse what is not positive."""
    if not given > 0:
        raise InputError(f"--tokens-per-second-per-gpu: got {given}, expected a positive number")
    return given


def assumed_rate(config: Config) -> float:
    """Return tokens per second and GPU of a run without measurements."""
    flops = count_flops_per_token(config.model.model_config, config.tokens.sequence_length).causal
    return tokens_per_second_per_gpu(flops, _ASSUMED_UTILISATION)


def _rate(config: Config, given: float | None) -> tuple[float, str]:
    if given is not None:
        return checked_rate(given), "given"
    measured = measured_rate(config.checkpoints.checkpoints_path)
    if measured is not None:
        return measured, "measured in this run"
    source = f"assumed: {_ASSUMED_UTILISATION:.0%} of an A100's {A100_PEAK_FLOPS / 1e12:.0f} TFLOP/s"
    return assumed_rate(config), source


def _rate_of(line: bytes) -> float | None:
    """Return the rate in one line of metrics.jsonl; None for other events and for a line cut in two."""
    try:
        rate = json.loads(line).get("tokens_per_sec_per_gpu")
    except (ValueError, AttributeError):
        return None
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None
