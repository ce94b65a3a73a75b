"""What the mixture's benchmark times: ours, a peer with its order in memory, and what the format allows.

Every arm is an iterator of the numbers of samples that it has read.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mixture_sources import EOS

MICRO_BATCH_SIZE = 4
_BLOCK_SAMPLES = 8192
"""Located at once, as the loader does."""
_NUM_SAMPLES = 1 << 20


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
    from nanotron_zagreus.data.open_shards import OpenShards, allow_open_files

    files = OpenShards(mixture.shards, allow_open_files(len(mixture.shards)))
    stage = mixture.stages[0]
    for first in range(0, stage.num_samples, _BLOCK_SAMPLES):
        samples = mixture.locate(stage, np.arange(first, first + _BLOCK_SAMPLES))
        for row in range(0, _BLOCK_SAMPLES, MICRO_BATCH_SIZE):
            mixture.read_samples(samples[row : row + MICRO_BATCH_SIZE], files)
            yield MICRO_BATCH_SIZE


def batches_of_loader(
    config: Any, mixture: Any, *, documents: bool = False, on_cpu: bool = False, one_gpu: bool = True
) -> Iterator[int]:
    """Take micro-batches from the loader, through its background thread.

    Args:
        config: the run.
        mixture: its mixture.
        documents: with where documents start, from the index.
        on_cpu: made into what the engine takes on the CPU; on a GPU that is the GPU's work.
        one_gpu: one rank takes the whole global batch; else, one of the published 64.
    """
    import torch

    from nanotron_zagreus.data.batch import engine_batch
    from nanotron_zagreus.data.loader import StepLoader

    dp = 1 if one_gpu else config.parallelism.dp
    loader = StepLoader(
        mixture,
        micro_batch_size=MICRO_BATCH_SIZE,
        batch_accumulation_per_replica=config.samples_per_step // MICRO_BATCH_SIZE // dp,
        dp=dp,
        dp_rank=0,
        document_masking=documents,
    )
    for batch in loader.micro_batches(1):
        if on_cpu:
            engine_batch(batch, torch.device("cpu"))
        yield MICRO_BATCH_SIZE


def windows_of_peer(config: Any, mixture: Any) -> Iterator[int]:
    """Read the peer's samples, int64 as datatrove's class gives them."""
    peer = IndexedPeer(config, _NUM_SAMPLES)
    for index in range(_NUM_SAMPLES):
        peer[index]
        yield 1


def batches_of_peer(config: Any, mixture: Any, *, documents: str | None = None, on_cpu: bool = False) -> Iterator[int]:
    """Collate the peer's samples as upstream's collator does."""
    for batch in _collated(IndexedPeer(config, _NUM_SAMPLES, positions=documents), documents):
        if on_cpu:
            as_tensors(batch)
        yield MICRO_BATCH_SIZE


def batches_of_nanoset(
    config: Any, mixture: Any, *, checkout: Path, positions: bool, on_cpu: bool = False
) -> Iterator[int]:
    """Take micro-batches of upstream's own Nanoset and collator."""
    from benchmarks import nanoset

    options = {"micro_batch_size": MICRO_BATCH_SIZE, "eos_token_id": EOS, "positions": positions}
    for batch in nanoset.batches_of_nanoset(checkout, config, **options):
        if on_cpu:
            as_tensors(batch)
        yield MICRO_BATCH_SIZE


def as_tensors(batch: dict[str, np.ndarray]) -> None:
    """Make the tensors that upstream's sanitizer hands to the engine on the CPU."""
    import torch

    for array in batch.values():
        torch.from_numpy(array).contiguous()


def _collated(peer: IndexedPeer, documents: str | None) -> Iterator[dict[str, np.ndarray]]:
    for first in range(0, _NUM_SAMPLES, MICRO_BATCH_SIZE):
        samples = [peer[index] for index in range(first, first + MICRO_BATCH_SIZE)]
        tokens = np.vstack([sample["input_ids"] for sample in samples])
        shape = (MICRO_BATCH_SIZE, tokens.shape[1] - 1)
        batch = {"input_ids": tokens[:, :-1], "label_ids": tokens[:, 1:], "label_mask": np.ones(shape, dtype=np.bool_)}
        if documents:
            batch["position_ids"] = np.vstack([sample["positions"] for sample in samples])[:, :-1]
        else:
            batch["input_mask"] = np.ones(shape, dtype=np.bool_)
        yield batch
