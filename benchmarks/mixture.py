"""Measure the stateless mixture against an index of all samples, and the loader against what GPUs need.

    python -m benchmarks.mixture --work /tmp/mixture [--rounds 7]

Start-up: the published Portuguese configuration on sparse files that stand for a trillion tokens, in fresh
processes. Speed: warm shards of the same ten folders, samples per second of CPU time (other load on the machine
moves wall clock more), every arm once per round, so that ratios compare neighbours in time. The peer is an index
of our own writing that holds what upstream's Nanoset holds (source and sample of every draw, the same shuffle
each epoch) over datatrove's own dataset class, which reads the same shards. That class finds the positions within
documents in two ways, and both are measured: from the EOS tokens of a window, as upstream builds its Nanoset, or from
the index, which is also right where no EOS was written.
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
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

TRILLION = 10**12
WARM_TOKENS = 4 * 10**8
PUBLISHED = "smollm2/zagreus_350M_por.yaml"
PUBLISHED_ROOT = "/training/pretraining"
TOKENIZER = "meta-llama/Llama-3.2-1B"
MICRO_BATCH_SIZE = 4
BLOCK_SAMPLES = 8192
"""Located at once, as the loader does."""
INDEX_SAMPLES = 16_000_000
"""Samples of the peer's index in the start-up figure: 65.5B tokens."""
NODE_TOKENS_PER_SECOND = 8 * 150_000
"""Eight ranks of 150k tokens/s each."""
HEADROOM_SECONDS = 3.0
DOCUMENT_TOKENS = 600
EOS = 128_001
ARM_SECONDS = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the shards made for this; kept")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child](options.work)))
        return
    for shards in (10, 100, 1000):
        report_startup(f"{10 * shards:,} shards", write_sources(options.work, TRILLION, shards, sparse=True), "startup")
    warm = write_sources(options.work, WARM_TOKENS, 2, sparse=False)
    report_startup(f"peer's index, {INDEX_SAMPLES:,} samples", warm, "index")
    for shards in (2, 200):
        folder = write_sources(options.work, WARM_TOKENS, shards, sparse=False)
        print(f"samples per second of CPU, {10 * shards:,} shards")
        report_speed([measure_speed(folder) for _ in range(options.rounds)])
    for ranks in (1, 2, 8):
        report_headroom(warm, ranks, options.rounds)


def write_sources(work: Path, num_tokens: int, shards: int, *, sparse: bool) -> Path:
    """Return the parent of the published configuration's ten folders, each with ``shards`` shards; made once."""
    root = work / f"{'sparse' if sparse else 'warm'}_{shards}"
    if not root.is_dir():
        aside = root.with_suffix(".partial")
        folders = published_config(aside).data_stages[0].data.dataset.folders
        tokens = num_tokens // len(folders) // shards // DOCUMENT_TOKENS * DOCUMENT_TOKENS
        for number, folder in enumerate(folders):
            folder.mkdir(parents=True)
            for rank in range(shards):
                write_shard(folder / f"{rank:05d}_unshuffled.ds", tokens, None if sparse else number * shards + rank)
        aside.rename(root)
    return root


def write_shard(path: Path, num_tokens: int, seed: int | None) -> None:
    """Write a shard of random tokens, or one of holes only when ``seed`` is None."""
    path.with_name(path.name + ".metadata").write_text(f"{TOKENIZER}|4\n{num_tokens}\nbenchmark")
    index = path.with_name(path.name + ".index")
    if seed is None:
        for file, num_bytes in ((path, num_tokens * 4), (index, num_tokens // DOCUMENT_TOKENS * 8)):
            file.touch()
            os.truncate(file, num_bytes)
        with index.open("r+b") as out:
            out.seek(-8, os.SEEK_END)
            out.write(num_tokens.to_bytes(8, "little"))
        return
    tokens = np.random.default_rng(seed).integers(0, 128_000, num_tokens, dtype=np.uint32)
    tokens[DOCUMENT_TOKENS - 1 :: DOCUMENT_TOKENS] = EOS
    tokens.tofile(path)
    np.arange(DOCUMENT_TOKENS, num_tokens + 1, DOCUMENT_TOKENS, dtype="<u8").tofile(index)


def published_config(root: Path) -> Any:
    """Return the published configuration with its folders under ``root``; repetition is not what is measured."""
    from nanotron_zagreus.config import load_config_text
    from nanotron_zagreus.resources import find_config

    text = find_config(PUBLISHED).read_text().replace(PUBLISHED_ROOT, str(root))
    config = load_config_text(text, origin=PUBLISHED)
    return replace(config, zagreus=replace(config.zagreus, max_source_epochs=float("inf")))


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
    command = [sys.executable, __file__, "--work", str(root), "--child", child]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run_child(root: Path, child: str) -> dict[str, float]:
    out, _ = start_child(root, child).communicate()
    return json.loads(out.splitlines()[-1])


# Speed


class IndexedPeer:
    """A dataset with its whole order in memory: two int64 per sample, drawn in proportion to size."""

    def __init__(self, config: Any, num_samples: int, *, positions: str | None = None) -> None:
        from datatrove.utils.dataset import DatatroveFolderDataset

        length = config.tokens.sequence_length
        folders = config.data_stages[0].data.dataset.folders
        options = {"token_size": 4, "return_positions": positions is not None}
        options |= {"positions_from_eos_token_id": EOS} if positions == "eos" else {}
        self.sets = [DatatroveFolderDataset(str(folder), length, **options) for folder in folders]
        sizes = np.array([len(part) for part in self.sets])
        counts = np.diff(np.round(np.cumsum(sizes / sizes.sum() * num_samples)).astype(np.int64), prepend=0)
        places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        order = np.argsort(places, kind="stable")
        self.source = np.repeat(np.arange(len(counts)), counts)[order]
        rng = np.random.default_rng(config.data_stages[0].data.seed)
        epochs = [np.resize(rng.permutation(size), count) for size, count in zip(sizes, counts, strict=True)]
        self.sample = np.concatenate(epochs)[order]

    def __getitem__(self, index: int) -> Any:
        return self.sets[self.source[index]][int(self.sample[index])]


def windows_by_memcpy(config: Any, mixture: Any) -> Iterator[int]:
    """Copy windows from mapped files whose pages are in the process already: what no reader of the format can beat."""
    size = config.tokens.sequence_length + 1
    paths = [shard.path for source in mixture.sources for shard in source.shards]
    maps = [np.asarray(np.memmap(path, "<u4", "r")) for path in paths]
    for tokens in maps:
        tokens[::1024].max()
    rng = np.random.default_rng(0)
    files = rng.integers(len(maps), size=1 << 16).tolist()
    starts = [int(rng.random() * (maps[file].size // size)) * size for file in files]
    windows = [maps[file][start : start + size] for file, start in zip(files, starts, strict=True)]
    batch = np.empty((MICRO_BATCH_SIZE, size), dtype=np.uint32)
    for row, window in zip(cycle(range(MICRO_BATCH_SIZE)), cycle(windows), strict=False):
        batch[row] = window
        yield 1


def windows_of_mixture(config: Any, mixture: Any) -> Iterator[int]:
    """Locate blocks of samples and read their windows as stored."""
    from nanotron_zagreus.data.windows import WindowReader, allow_open_files

    files = WindowReader(allow_open_files(sum(len(source.shards) for source in mixture.sources)))
    stage = mixture.stages[0]
    for first in range(0, stage.num_samples, BLOCK_SAMPLES):
        samples = mixture.locate(stage, np.arange(first, first + BLOCK_SAMPLES))
        for row in range(0, BLOCK_SAMPLES, MICRO_BATCH_SIZE):
            mixture.read_samples(samples[row : row + MICRO_BATCH_SIZE], files)
            yield MICRO_BATCH_SIZE


def batches_of_loader(config: Any, mixture: Any, *, documents: bool = False) -> Iterator[int]:
    """Take one rank's micro-batches as the engine gets them, through the background thread."""
    from nanotron_zagreus.data.loader import StepLoader

    tokens = config.tokens
    loader = StepLoader(
        mixture,
        micro_batch_size=tokens.micro_batch_size,
        batch_accumulation_per_replica=tokens.batch_accumulation_per_replica,
        dp=config.parallelism.dp,
        dp_rank=0,
        document_masking=documents,
    )
    for batch in loader.micro_batches(1):
        yield len(batch["input_ids"])


def windows_of_peer(config: Any, mixture: Any) -> Iterator[int]:
    """Read the peer's samples, int64 as datatrove's class gives them."""
    peer = IndexedPeer(config, 1 << 20)
    for index in range(1 << 20):
        peer[index]
        yield 1


def batches_of_peer(config: Any, mixture: Any, *, documents: str | None = None) -> Iterator[int]:
    """Collate the peer's samples into the same tensors."""
    import torch

    peer = IndexedPeer(config, 1 << 20, positions=documents)
    for first in range(0, 1 << 20, MICRO_BATCH_SIZE):
        samples = [peer[index] for index in range(first, first + MICRO_BATCH_SIZE)]
        tokens = torch.stack([sample["input_ids"] for sample in samples])
        ones = torch.ones(MICRO_BATCH_SIZE, tokens.shape[1] - 1, dtype=torch.bool)
        _ = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), ones, ones.clone()
        if documents:
            _ = torch.stack([sample["positions"] for sample in samples])[:, :-1].contiguous()
        yield MICRO_BATCH_SIZE


ARMS: dict[str, Callable[[Any, Any], Iterator[int]]] = {
    "memcpy": windows_by_memcpy,
    "mixture windows": windows_of_mixture,
    "peer windows": windows_of_peer,
    "loader batches": batches_of_loader,
    "peer batches": batches_of_peer,
    "loader batches with documents": partial(batches_of_loader, documents=True),
    "peer batches, positions from EOS": partial(batches_of_peer, documents="eos"),
    "peer batches, positions from the index": partial(batches_of_peer, documents="index"),
}


def measure_speed(root: Path) -> dict[str, float]:
    """Return the samples per second of every arm, one after the other."""
    from nanotron_zagreus.data.mixture import open_mixture

    config = published_config(root)
    mixture = open_mixture(config)
    return {name: rate_of(arm(config, mixture)) for name, arm in ARMS.items()}


def rate_of(arm: Iterator[int]) -> float:
    """Return samples per second of CPU time, of all threads, after a warm-up."""
    num_samples, end = 0, time.process_time() + ARM_SECONDS / 4
    while time.process_time() < end:
        next(arm)
    start = time.process_time()
    while time.process_time() < start + ARM_SECONDS:
        num_samples += next(arm)
    seconds = time.process_time() - start
    arm.close()  # type: ignore[attr-defined]
    return num_samples / seconds


def report_speed(rounds: list[dict[str, float]]) -> None:
    for name in ARMS:
        rates = [one[name] for one in rounds]
        print(f"{name}: {statistics.median(rates):,.0f} samples/s (from {min(rates):,.0f} to {max(rates):,.0f})")
    for mine, other in (
        ("mixture windows", "peer windows"),
        ("loader batches", "peer batches"),
        ("loader batches with documents", "peer batches, positions from EOS"),
        ("loader batches with documents", "peer batches, positions from the index"),
        ("mixture windows", "memcpy"),
    ):
        ratios = [one[mine] / one[other] for one in rounds]
        print(f"{mine} / {other}: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


# Headroom


def child_headroom(root: Path) -> dict[str, float]:
    """Take batches as fast as they come; wall clock, since a GPU waits by the wall clock."""
    from nanotron_zagreus.data.mixture import open_mixture

    config = published_config(root)
    batches = batches_of_loader(config, open_mixture(config))
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
