"""Speed and memory of a training step: ours, Nanotron's own Llama, transformers' compiled, and ours without each part.

    python -m benchmarks.train_step                    the published shape on a GPU, a tiny one on a CPU
    python -m benchmarks.train_step --rounds 5 --steps 4 --sides "stock nanotron" --attention flash

Each side lives in its own process. Our full side and one other take turns, `--steps` steps at a time; ratios are
medians over the rounds, so that a machine that slows down slows both. Tokens/s and MFU are medians too; on a CPU the
seconds are the processor's, not the wall's. MFU divides by the device's bf16 peak (`--peak-tflops` for a device not in
the table), once with causal attention counted and once by Nanotron's convention, which counts all of it. Peak memory is
each process's own, on a GPU since the warm-up. Every row says which attention ran and what was compiled; where
something that should be compiled was not, the run ends with exit code 1, unless `--allow-uncompiled`. Needs torch,
PyYAML, numpy and Nanotron 0.4's pure-Python dependencies; transformers only for its side; neither flash-attn nor a
network.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
from collections.abc import Callable
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


class Uncompiled(RuntimeError):
    """A side that should be compiled is not: its figures would be another side's."""


class Worker:
    """A side's process, warmed up."""

    def __init__(self, side: str, arguments: argparse.Namespace) -> None:
        self.side = side
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        shape = (arguments.tiny, arguments.micro_batch_size, arguments.accumulation)
        self._process = context.Process(target=serve, args=(theirs, side, *shape, arguments.attention))
        self._process.start()
        theirs.close()
        self.setup: Setup = self._check(_receive(self._connection))
        if not (self.setup.is_as_meant or arguments.allow_uncompiled):
            self.stop()
            raise Uncompiled(
                f"{side}: {self.setup.compiled}, though all of it should be compiled; its warning above says why. "
                "Install what is missing (a C++ compiler on a CPU, Triton on a GPU), or pass --allow-uncompiled"
            )

    def run(self, num_steps: int, by_part: bool = False) -> Timing:
        """Return the timing of so many steps."""
        self._connection.send((num_steps, by_part))
        answer = self._check(_receive(self._connection))
        assert isinstance(answer, Timing)
        return answer

    def stop(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._connection.send(None)
        self._process.join()

    def _check(self, answer: Any) -> Any:
        if isinstance(answer, str):
            self._process.join()
            raise RuntimeError(f"{self.side}: {answer}")
        return answer


def _receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        return "its process ended without a word (killed for memory?)"


def compare(ours: Worker, side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a side's figures, and the median over rounds of our speed over its."""
    other = Worker(side, arguments)
    try:
        ours.run(1)  # what its process was pushed out of the caches by
        rounds = [(ours.run(arguments.steps), other.run(arguments.steps)) for _ in range(arguments.rounds)]
        return {
            "seconds": statistics.median(theirs.seconds for _, theirs in rounds) / arguments.steps,
            "ratios": [theirs.seconds / mine.seconds for mine, theirs in rounds],
            "last": other.run(arguments.steps, by_part=True),
            "setup": other.setup,
        }
    finally:
        other.stop()


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
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    ours = Worker("ours", arguments)
    try:
        alone = [ours.run(arguments.steps).seconds / arguments.steps for _ in range(arguments.rounds)]
        last = ours.run(arguments.steps, by_part=True)
        median = statistics.median(alone)
        print(table_row("ours", ours.setup, tokens, median, last, [], arguments.steps, mfu), flush=True)
        for side in arguments.sides:
            try:
                found = compare(ours, side, arguments)
            except Uncompiled:
                raise
            except RuntimeError as error:
                print(f"| {error} |", flush=True)
                continue
            figures = (found["seconds"], found["last"], found["ratios"])
            print(table_row(side, found["setup"], tokens, *figures, arguments.steps, mfu), flush=True)
    finally:
        ours.stop()


def table_row(
    side: str,
    setup: Setup,
    tokens: int,
    seconds: float,
    last: Timing,
    ratios: list[float],
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
    try:
        main()
    except Uncompiled as error:
        sys.exit(f"train_step: {error}")
