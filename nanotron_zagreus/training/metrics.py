"""What a step reports: the log line upstream's users know, one JSON line per step, and the trackers.

Only one rank writes: the first that holds the loss.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.layout import METRICS_FILE
from nanotron_zagreus.config import Config
from nanotron_zagreus.training.line_file import LineFile

_UNITS = ("", "K", "M", "B", "T", "P", "E")
_LOGGED = (
    "consumed_tokens", "time_per_iteration_ms", "tokens_per_sec", "tokens_per_sec_per_gpu", "global_batch_size",
    "grad_norm", "lm_loss", "lr", "model_tflops_per_gpu",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """The figures of one finished step; field names are upstream main's."""

    iteration: int
    consumed_samples: int
    consumed_tokens: int
    time_per_iteration_ms: float
    tokens_per_sec: float
    tokens_per_sec_per_gpu: float
    global_batch_size: int
    """Tokens per step."""
    grad_norm: float
    """Global gradient norm before clipping."""
    lm_loss: float
    """Mean cross entropy per token in nats, over the global batch."""
    lr: float
    """The learning rate this step used."""
    model_tflops_per_gpu: float
    """By Nanotron's convention, which counts full instead of causal attention."""
    eta_seconds: int


def log_line(metrics: StepMetrics, train_steps: int) -> str:
    """Return the line upstream main prints for a step."""
    figures = dataclasses.asdict(metrics)
    entries = [f"iteration: {metrics.iteration} / {train_steps}"]
    entries += [f"{name}: {human_format(figures[name])}" for name in _LOGGED]
    return " | ".join([*entries, f"eta: {timedelta(seconds=metrics.eta_seconds)}"])


def human_format(number: float) -> str:
    """Return a number with three significant digits and a unit of thousands: 480B, 8.79K, 0.00123."""
    if not abs(number) >= 1 or math.isinf(number):
        return f"{number:.3g}"
    number, unit = float(f"{number:.3g}"), 0
    while abs(number) >= 1000 and unit < len(_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:f}".rstrip("0").rstrip(".") + _UNITS[unit]


class MetricsWriter:
    """Appends each step's figures to metrics.jsonl and hands them to the trackers that are switched on."""

    def __init__(self, config: Config) -> None:
        root = config.checkpoints.checkpoints_path
        root.mkdir(parents=True, exist_ok=True)
        self._file = LineFile(root / METRICS_FILE)
        tracking = config.zagreus.tracking
        self._tensorboard = _started("tensorboard", lambda: _open_tensorboard(root)) if tracking.tensorboard else None
        self._wandb = _started("wandb", lambda: _open_wandb(config)) if tracking.wandb else None

    def write(self, metrics: StepMetrics) -> None:
        """Record one step; a resumed run appends, the last line of a step counts."""
        figures = dataclasses.asdict(metrics)
        self.write_event(figures)
        numbers = {name: value for name, value in figures.items() if name != "iteration"}
        try:
            self._track(numbers, metrics.iteration)
        except Exception as error:  # whatever a tracker raises: a full disk, a server out of reach
            print(f"zagreus: trackers failed and are off from here on: {error}", file=sys.stderr)
            self._tensorboard = self._wandb = None

    def _track(self, numbers: dict[str, Any], step: int) -> None:
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({**numbers, "iteration_step": step})

    def write_event(self, event: dict[str, Any]) -> None:
        """Append one line of JSON, on disk when this returns as far as the process is concerned.

        JSON has no NaN and no infinity: such a figure is null there.
        """
        plain = {key: value if _is_json(value) else None for key, value in event.items()}
        self._file.append(json.dumps(plain, allow_nan=False))

    def close(self) -> None:
        """Flush and close everything."""
        self._file.close()
        ends = [self._tensorboard.close] if self._tensorboard is not None else []
        ends += [self._wandb.finish] if self._wandb is not None else []
        for end in ends:
            try:
                end()
            except Exception as error:
                print(f"zagreus: a tracker failed at the end: {error}", file=sys.stderr)


def _is_json(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _started(name: str, open_tracker: Callable[[], Any]) -> Any:
    """Return a tracker, or None where it fails: a server out of reach must not keep a run from going on."""
    try:
        return open_tracker()
    except Exception as error:
        print(f"zagreus: {name} did not start, this run goes on without it: {error}", file=sys.stderr)
        return None


def _open_tensorboard(root: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(root / "tensorboard"))


def _open_wandb(config: Config) -> Any:
    import wandb

    from nanotron_zagreus.config.parsing import to_plain

    return wandb.init(
        project=config.general.project,
        name=f"{config.general.project}_{config.general.run}",
        config={"nanotron_config": to_plain(config)},
    )
