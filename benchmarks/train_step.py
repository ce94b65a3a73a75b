"""Speed and memory of a training step: ours, Nanotron's own Llama, transformers' compiled, and ours without each part.

    python -m benchmarks.train_step                    the published shape on a GPU, a tiny one on a CPU
    python -m benchmarks.train_step --rounds 5 --steps 4 --sides "stock nanotron" --attention flash

Each side lives in its own process. Our full side and one other take turns, `--steps` steps at a time; ratios are
medians over the rounds, so that a machine that slows down slows both. Tokens/s and MFU are medians too; on a CPU the
seconds are the processor's, not the wall's. MFU divides by the device's bf16 peak (`--peak-tflops` for a device not in
the table), once with causal attention counted and once by Nanotron's convention, which counts all of it. Peak memory is
each process's own, on a GPU since the warm-up. Every row says which attention ran and what was compiled. A side that
fails, or that is not compiled though it should be (unless `--allow-uncompiled`), has its reason for a row; the others
are measured all the same, and the run ends with exit code 1. Each round is told on stderr as it ends. Needs torch,
PyYAML, numpy and Nanotron 0.4's pure-Python dependencies; transformers only for its side; neither flash-attn nor a
network.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.train_step_sides import OURS, PEERS, configuration
from benchmarks.train_step_worker import Setup, Timing, serve
from nanotron_zagreus.arithmetic import count_flops_per_token, count_parameters
from nanotron_zagreus.units import human_bytes

PEAK_TFLOPS = {
    "MIG": None,  # a part of a device
    "H100 PCIe": 756.5,
    "H100 NVL": 835.5,
    "H200 NVL": 835.5,
    "H100 80GB HBM3": 989.5,  # SXM
    "H200": 989.5,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
}
"""bf16 tensor-core TFLOP/s without sparsity, half of what NVIDIA's data sheets state with it, by words of the name that
CUDA gives the device; the first that fits counts. Forms of one chip differ; what is not listed has no MFU."""


def peak_tflops(device: str) -> float | None:
    """Return the bf16 peak of a device by its name; None: unknown."""
    return next((peak for words, peak in PEAK_TFLOPS.items() if words in device), None)


class SideFailed(RuntimeError):
    """A side's process has ended, or measures something else than it should."""


class Worker:
    """A side's process, warmed up.

    Every method but `close` raises SideFailed where the process has ended.
    """

    def __init__(self, side: str, arguments: argparse.Namespace) -> None:
        self.side = side
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        shape = (arguments.tiny, arguments.micro_batch_size, arguments.accumulation)
        self._process = context.Process(target=serve, args=(theirs, side, *shape, arguments.attention))
        self._process.start()
        theirs.close()
        self.is_running = True
        self.setup: Setup = self._check(_receive(self._connection))
        if not (self.setup.is_as_meant or arguments.allow_uncompiled):
            self.close()
            raise SideFailed(
                f"{side}: {self.setup.compiled}, though all of it should be compiled; its warning above says why. "
                "Install what is missing (a C++ compiler on a CPU, Triton on a GPU), or pass --allow-uncompiled"
            )

    def run(self, num_steps: int, by_part: bool = False) -> Timing:
        """Return the timing of so many steps."""
        with contextlib.suppress(OSError):  # a process that has ended is told of by what it answers
            self._connection.send((num_steps, by_part))
        answer = self._check(_receive(self._connection))
        assert isinstance(answer, Timing)
        return answer

    def close(self) -> None:
        """End the process."""
        self.is_running = False
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join()

    def _check(self, answer: Any) -> Any:
        if isinstance(answer, str):
            self.is_running = False
            self._process.join()
            raise SideFailed(f"{self.side}: {answer}")
        return answer


def _receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, OSError):
        return "its process ended without a word (killed for memory?)"


class Session:
    """Our full side, the others one after another beside it, and what became of them."""

    def __init__(self, arguments: argparse.Namespace, row: Callable[..., str]) -> None:
        """Prepare.

        Args:
            arguments: the command's.
            row: makes a side's row of its setup, seconds a step, the last timing, and ratios.
        """
        self._arguments = arguments
        self._row = row
        self._ours: Worker | None = None
        self.failures: list[str] = []

    def measure(self, sides: Sequence[str]) -> None:
        """Print the row of our side and of ``sides`` as they are measured, or why there is none."""
        try:
            self._start_ours()
            if self._ours is not None:
                with self._failures_told():
                    print(self._measure(self._ours), flush=True)
            for side in sides:
                if self._ours is not None and not self._ours.is_running:  # it ended beside the side before
                    self._start_ours()
                with self._failures_told(), contextlib.closing(Worker(side, self._arguments)) as other:
                    print(self._measure(other), flush=True)
        finally:
            if self._ours is not None:
                self._ours.close()

    def _start_ours(self) -> None:
        self._ours = None
        with self._failures_told():
            self._ours = Worker("ours", self._arguments)

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        """Go on behind the block where a side fails in it, after its reason stands in the table."""
        try:
            yield
        except SideFailed as error:
            self.failures.append(str(error))
            print(f"| {error} |", flush=True)

    def _measure(self, worker: Worker) -> str:
        """Return a side's row; another's has the median over rounds of our speed over its, while our side runs."""
        steps, seconds, ratios = self._arguments.steps, [], []
        is_other = worker is not self._ours
        if is_other:
            self._our_seconds(1)  # what its process was pushed out of the caches by
        for number in range(self._arguments.rounds):
            ours = self._our_seconds(steps) if is_other else None
            seconds.append(worker.run(steps).seconds / steps)
            ratios += [seconds[-1] / ours] if ours else []
            text = f"{worker.side}: round {number + 1} of {self._arguments.rounds}, {seconds[-1]:.4g} s a step"
            print(f"{text}, ours {ours:.4g}" if ours else text, file=sys.stderr, flush=True)
        return self._row(worker.side, worker.setup, statistics.median(seconds), worker.run(steps, by_part=True), ratios)

    def _our_seconds(self, num_steps: int) -> float | None:
        """Return the seconds that a step of ours takes beside another side; None where it does not run."""
        if self._ours is not None and self._ours.is_running:
            with self._failures_told():
                return self._ours.run(num_steps).seconds / num_steps
        return None


def main() -> None:
    arguments = _arguments()
    config = configuration(arguments.tiny, arguments.micro_batch_size, arguments.accumulation, {})
    tokens = config.tokens_per_step
    flops = count_flops_per_token(config.model.model_config, config.tokens.sequence_length)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    peak = arguments.peak_tflops or peak_tflops(device)
    model = config.model.model_config
    print(
        f"{device}, torch {torch.__version__}; {count_parameters(model).total:,} parameters, vocabulary "
        f"{model.vocab_size:,}, sequence {config.tokens.sequence_length}, micro-batch {arguments.micro_batch_size}; "
        f"{tokens:,} tokens a step, {arguments.rounds} rounds of {arguments.steps} steps\n"
    )

    def mfu(rate: float) -> str:
        if peak is None:
            return ""
        return " / ".join(f"{rate * f / (peak * 1e12):.1%}" for f in (flops.causal, flops.nanotron))

    columns = ("side", "attention", "compiled", "tokens/s", "MFU causal / Nanotron's", "peak memory")
    columns += ("ours / it, median (range)", "ms by part", "loss")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    session = Session(arguments, functools.partial(table_row, tokens=tokens, num_steps=arguments.steps, mfu=mfu))
    session.measure(arguments.sides)
    if session.failures:
        sys.exit(f"train_step: failed, the other rows stand: {'; '.join(session.failures)}")


def table_row(
    side: str,
    setup: Setup,
    seconds: float,
    last: Timing,
    ratios: list[float],
    *,
    tokens: int,
    num_steps: int,
    mfu: Callable[[float], str],
) -> str:
    """Return a side's row; ``seconds`` and ``tokens`` are of one step, ``last`` is of ``num_steps``."""
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
    parts = ", ".join(f"{part} {value / num_steps * 1e3:.1f}" for part, value in last.parts.items())
    rate = tokens / seconds
    cells = (
        side,
        setup.attention,
        setup.compiled,
        f"{rate:,.0f}",
        mfu(rate),
        human_bytes(last.peak_bytes),
        ratio,
        parts,
        f"{last.loss:.4f}",
    )
    return f"| {' | '.join(cells)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a side at a time")
    parser.add_argument("--micro-batch-size", type=int, default=4 if torch.cuda.is_available() else 2)
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of a step")
    parser.add_argument("--tiny", action="store_true", default=not torch.cuda.is_available(), help="a CPU's shape")
    parser.add_argument("--attention", default="auto", help="zagreus.attention of our sides (default: the fastest)")
    parser.add_argument("--allow-uncompiled", action="store_true", help="measure also what could not be compiled")
    parser.add_argument("--peak-tflops", type=float, help="bf16 peak of the device, for the MFU")
    others = [*PEERS, *(side for side in OURS if side != "ours")]
    parser.add_argument("--sides", nargs="*", default=others, choices=others, metavar="SIDE", help="; ".join(others))
    return parser.parse_args()


if __name__ == "__main__":
    main()
