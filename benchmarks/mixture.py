"""Measure the stateless mixture against an index of all samples, and the loader against what GPUs need.

    python -m benchmarks.mixture --work /tmp/mixture [--rounds 7] [--nanoset CHECKOUT]

Start-up: the published Portuguese configuration on sparse files that stand for a trillion tokens, in fresh
processes. Speed: warm shards of the same ten folders, samples per second of CPU time (other load on the machine
moves wall clock more) on one core, every arm once per round, so that ratios compare neighbours in time. The peer is an
index of our own writing that holds what upstream's Nanoset holds (source and sample of every draw, the same shuffle
each epoch) over datatrove's own dataset class, which reads the same shards. That class finds the positions within
documents in two ways, and both are measured: from the EOS tokens of a window, as upstream builds its Nanoset, or from
the index, which is also right where no EOS was written. With a checkout of huggingface/nanotron upstream's own Nanoset
runs beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mixture_arms import (
    IndexedPeer,
    batches_of_loader,
    batches_of_nanoset,
    batches_of_peer,
    windows_by_memcpy,
    windows_of_mixture,
    windows_of_peer,
)
from benchmarks.mixture_sources import TRILLION, WARM_TOKENS, published_config, write_sources

INDEX_SAMPLES = 16_000_000
"""Samples of the peer's index in the start-up figure: 65.5B tokens."""
NODE_TOKENS_PER_SECOND = 8 * 150_000
"""Eight ranks of 150k tokens/s each."""
HEADROOM_SECONDS = 3.0
ARM_SECONDS = 0.4
TAKEN_PER_CLOCK = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the shards made for this; kept")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--nanoset", type=Path, help="a checkout of huggingface/nanotron, to run its Nanoset beside")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child](options.work)))
        return
    for shards in (10, 100, 1000):
        report_startup(f"{10 * shards:,} shards", write_sources(options.work, TRILLION, shards, sparse=True), "startup")
    warm = write_sources(options.work, WARM_TOKENS, 2, sparse=False)
    report_startup(f"peer's index, {INDEX_SAMPLES:,} samples", warm, "index")
    for ranks in (1, 2, 8):
        report_headroom(warm, ranks, options.rounds)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for shards in (2, 200):
        folder = write_sources(options.work, WARM_TOKENS, shards, sparse=False)
        print(f"samples per second of CPU, {10 * shards:,} shards")
        report_speed([measure_speed(folder, options.nanoset) for _ in range(options.rounds)])


# Start-up, in a fresh process


def child_startup(root: Path) -> dict[str, float]:
    """Open the mixture of 512M samples and locate a thousand steps all over it."""
    from nanotron_zagreus.data.mixture import open_mixture

    np.ma.empty(0)
    config = published_config(root)
    resident, start, cpu = resident_bytes(), time.perf_counter(), time.process_time()
    mixture = open_mixture(config)
    mixture.samples_of_step(1)
    ready, cpu = time.perf_counter() - start, time.process_time() - cpu
    for step in np.linspace(1, config.tokens.train_steps, 1000).astype(int):
        mixture.samples_of_step(int(step))
    return {"seconds": ready, "cpu_seconds": cpu, "bytes": resident_bytes() - resident}


def child_index(root: Path) -> dict[str, float]:
    """Open datatrove's datasets and build the peer's index over them."""
    import torch

    torch.empty(1)
    config = published_config(root)
    resident, start, cpu = resident_bytes(), time.perf_counter(), time.process_time()
    peer = IndexedPeer(config, INDEX_SAMPLES)
    peer[0]
    ready, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": ready, "cpu_seconds": cpu, "bytes": resident_bytes() - resident}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report_startup(name: str, root: Path, child: str) -> None:
    runs = [run_child(root, child) for _ in range(5)]
    seconds, cpu, added = (statistics.median(run[key] for run in runs) for key in ("seconds", "cpu_seconds", "bytes"))
    print(
        f"start-up, {name}: {seconds * 1e3:,.0f} ms ({cpu * 1e3:,.0f} ms of CPU), {added / 1e6:,.1f} MB added",
        flush=True,
    )


def start_child(root: Path, child: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.mixture", "--work", str(root), "--child", child]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run_child(root: Path, child: str) -> dict[str, float]:
    out, _ = start_child(root, child).communicate()
    return json.loads(out.splitlines()[-1])


# Speed

ARMS: dict[str, Callable[[Any, Any], Iterator[int]]] = {
    "memcpy": windows_by_memcpy,
    "mixture, windows": windows_of_mixture,
    "peer, windows": windows_of_peer,
    "loader": batches_of_loader,
    "peer": batches_of_peer,
    "loader, documents": partial(batches_of_loader, documents=True),
    "peer, positions from EOS": partial(batches_of_peer, documents="eos"),
    "peer, positions from the index": partial(batches_of_peer, documents="index"),
    "loader, on the CPU": partial(batches_of_loader, on_cpu=True),
    "peer, on the CPU": partial(batches_of_peer, on_cpu=True),
    "loader, documents, on the CPU": partial(batches_of_loader, documents=True, on_cpu=True),
    "peer, positions from EOS, on the CPU": partial(batches_of_peer, documents="eos", on_cpu=True),
}
PAIRS = [
    ("mixture, windows", "memcpy"),
    ("mixture, windows", "peer, windows"),
    ("loader", "peer"),
    ("loader", "Nanoset"),
    ("loader, documents", "peer, positions from EOS"),
    ("loader, documents", "Nanoset, positions"),
    ("loader, documents", "peer, positions from the index"),
    ("loader, on the CPU", "peer, on the CPU"),
    ("loader, on the CPU", "Nanoset, on the CPU"),
    ("loader, documents, on the CPU", "peer, positions from EOS, on the CPU"),
    ("loader, documents, on the CPU", "Nanoset, positions, on the CPU"),
]


def measure_speed(root: Path, nanoset: Path | None) -> dict[str, float]:
    """Return the samples per second of every arm, one after the other."""
    from nanotron_zagreus.data.mixture import open_mixture

    config = published_config(root)
    mixture, arms = open_mixture(config), dict(ARMS)
    if nanoset:
        arms["Nanoset"] = partial(batches_of_nanoset, checkout=nanoset, positions=False)
        arms["Nanoset, positions"] = partial(batches_of_nanoset, checkout=nanoset, positions=True)
        arms["Nanoset, on the CPU"] = partial(arms["Nanoset"], on_cpu=True)
        arms["Nanoset, positions, on the CPU"] = partial(arms["Nanoset, positions"], on_cpu=True)
    # Files are opened when they are first read: so many samples leave about one in fifty unopened.
    warm_samples = 4 * len(mixture.shards)
    return {name: rate_of(arm(config, mixture), warm_samples) for name, arm in arms.items()}


def rate_of(arm: Iterator[int], warm_samples: int) -> float:
    """Return samples per second of CPU time, of all threads, after building the arm and ``warm_samples`` at least."""
    num_samples = next(arm)
    while num_samples < warm_samples:
        num_samples += next(arm)
    _run_for(ARM_SECONDS / 4, arm)
    num_samples, seconds = _run_for(ARM_SECONDS, arm)
    arm.close()  # type: ignore[attr-defined]
    return num_samples / seconds


def _run_for(at_least: float, arm: Iterator[int]) -> tuple[int, float]:
    """Return the samples taken and the CPU seconds; the clock, a system call, is read once per a few takings."""
    num_samples, start = 0, time.process_time()
    while True:
        taken = sum(islice(arm, TAKEN_PER_CLOCK))
        assert taken, "the arm came to its end"
        num_samples += taken
        seconds = time.process_time() - start
        if seconds >= at_least:
            return num_samples, seconds


def report_speed(rounds: list[dict[str, float]]) -> None:
    for name in rounds[0]:
        rates = [one[name] for one in rounds]
        print(f"{name}: {statistics.median(rates):,.0f} samples/s (from {min(rates):,.0f} to {max(rates):,.0f})")
    for mine, other in PAIRS:
        if other in rounds[0]:
            ratios = [one[mine] / one[other] for one in rounds]
            print(f"{mine} / {other}: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


# Headroom


def child_headroom(root: Path) -> dict[str, float]:
    """Take batches as fast as they come; wall clock, since a GPU waits by the wall clock."""
    from nanotron_zagreus.data.mixture import open_mixture

    config = published_config(root)
    batches = batches_of_loader(config, open_mixture(config), one_gpu=False)
    next(batches)
    num_samples, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < start + HEADROOM_SECONDS:
        num_samples += next(batches)
    tokens = num_samples * config.tokens.sequence_length
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    batches.close()  # type: ignore[attr-defined]
    return {"tokens_per_second": tokens / seconds, "cpu_seconds_per_token": cpu_seconds / tokens}


def report_headroom(root: Path, ranks: int, rounds: int) -> None:
    """Say how much more than eight ranks of 150k tokens/s the loaders of ``ranks`` ranks at a time give."""
    runs = []
    for _ in range(rounds):
        children = [start_child(root, "headroom") for _ in range(ranks)]
        runs.append([json.loads(child.communicate()[0].splitlines()[-1]) for child in children])
    rate = statistics.median(sum(rank["tokens_per_second"] for rank in run) for run in runs)
    cpu = statistics.median(rank["cpu_seconds_per_token"] for run in runs for rank in run)
    print(
        f"loader, {ranks} at a time: {rate / 1e6:.0f}M tokens/s together, {rate / NODE_TOKENS_PER_SECOND:.0f} times a "
        f"node's need, which takes {cpu * NODE_TOKENS_PER_SECOND:.4f} of one core",
        flush=True,
    )


CHILDREN: dict[str, Callable[[Path], dict[str, float]]] = {
    "startup": child_startup,
    "index": child_index,
    "headroom": child_headroom,
}

if __name__ == "__main__":
    main()
