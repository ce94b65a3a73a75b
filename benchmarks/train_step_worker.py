"""One side of benchmarks/train_step.py in a process of its own, so that its memory is its own too.

The worker warms up, says through a pipe what it runs, and then answers each request for steps with seconds, peak memory
and times by part. Set-up and warm-up are in none of them, except in a CPU's peak memory, which cannot be set back.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.train_step_sides import build, is_compiled
from nanotron_zagreus.model.compile_workers import end_workers_at_exit

WARM_UP_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a side turned out to run, once warmed up."""

    attention: str
    """The kernel, and for our sides its name in `zagreus.attention`."""
    compiled: str
    """`compiled`, `uncompiled`, or what of it is compiled."""
    is_as_meant: bool
    """False where something that should be compiled could not be."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What some steps of one side took."""

    seconds: float
    peak_bytes: int
    """GPU memory allocated at most since the warm-up; on a CPU the process's largest resident size."""
    loss: float
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds by part, where asked for; measured with the device stopped between parts."""


def serve(
    connection: Connection, side: str, tiny: bool, micro_batch_size: int, accumulation: int, attention: str
) -> None:
    """Build the side, warm it up, send its Setup or why there is none, then run steps on request until told to stop."""
    try:
        step, trainer, attention, config = build(side, tiny, micro_batch_size, accumulation, attention)
        _run(step, trainer, WARM_UP_STEPS, False)
        end_workers_at_exit()  # what the peers have had compiled, too
        compiled, is_as_meant = is_compiled(side, config)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        connection.send(Setup(attention=attention, compiled=compiled, is_as_meant=is_as_meant))
        while (request := _next_request(connection)) is not None:
            num_steps, by_part = request
            connection.send(_run(step, trainer, num_steps, by_part))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _next_request(connection: Connection) -> Any:
    """Return what the benchmark asks for; None when it needs no more, or was ended."""
    try:
        return connection.recv()
    except EOFError:
        return None


def _run(step: Any, trainer: Any, num_steps: int, by_part: bool) -> Timing:
    parts: dict[str, float] = defaultdict(float)
    loss = torch.zeros(())
    wait()
    started = now()
    with _timed_parts(trainer, parts) if by_part and trainer is not None else contextlib.nullcontext():
        for _ in range(num_steps):
            loss = step()
        wait()
    seconds = now() - started
    if parts:
        parts["rest"] = seconds - sum(parts.values())
    return Timing(seconds=seconds, peak_bytes=peak_bytes(), loss=float(loss), parts=dict(parts))


@contextlib.contextmanager
def _timed_parts(trainer: Any, parts: dict[str, float]) -> Iterator[None]:
    """Time the trainer's forward and backward passes and the optimizer's update."""
    engine = trainer.pipeline_engine
    places = [(engine, "forward"), (engine, "backward"), (trainer.optimizer, "step")]
    originals = [getattr(owner, name) for owner, name in places]
    for (owner, name), original in zip(places, originals, strict=True):
        setattr(owner, name, _timed(original, name if owner is engine else "optimizer", parts))
    try:
        yield
    finally:
        for (owner, name), original in zip(places, originals, strict=True):
            setattr(owner, name, original)


def _timed(function: Any, part: str, parts: dict[str, float]) -> Any:
    def timed(*arguments: Any, **options: Any) -> Any:
        wait()
        started = now()
        result = function(*arguments, **options)
        wait()
        parts[part] += now() - started
        return result

    return timed


def now() -> float:
    """Return a clock in seconds: on a GPU the wall's; on a CPU the processor's, which other programs do not stop."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def wait() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """Return the most memory this process has held: of the GPU's since the warm-up, where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
