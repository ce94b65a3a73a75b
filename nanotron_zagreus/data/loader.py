"""Serve one data-parallel rank's micro-batches, read ahead by a background thread.

Which samples these are is the mixture's business, and what the engine gets of them `batch`'s; this file only reads and
slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise, repeat
from typing import NamedTuple

import numpy as np
import torch

from nanotron_zagreus.data.background import BackgroundIterator
from nanotron_zagreus.data.batch import MicroBatch, document_offsets
from nanotron_zagreus.data.mixture import Mixture, Samples
from nanotron_zagreus.data.open_shards import OpenShards, allow_open_files

_BLOCK_SAMPLES = 8192
"""Located at once: with ten sources a sample then costs under 1 µs, in 0.3 MB and some 2 ms a block."""
_TOKEN_BYTES = 4
_CHUNK_SAMPLES = 128
_CHUNK_BYTES = 2 << 20
"""Most that is read and handed over together, above one micro-batch: less would wake the other thread more often. torch
rounds pinned memory up to a power of two."""


class StepLoader:
    """Micro-batches of one rank, step after step.

    Accumulation a, row j of dp rank r reads sample a x dp x m + r x m + j of the step, with m the
    micro-batch size: what a step trains on does not depend on how it is divided.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        micro_batch_size: int,
        batch_accumulation_per_replica: int,
        dp: int,
        dp_rank: int,
        document_masking: bool = False,
        pin_memory: bool = False,
        prefetch_steps: int = 2,
    ) -> None:
        if dp * micro_batch_size * batch_accumulation_per_replica != mixture.samples_per_step:
            raise ValueError(
                f"dp x micro_batch_size x batch_accumulation_per_replica = {dp} x {micro_batch_size} x "
                f"{batch_accumulation_per_replica} is not the mixture's {mixture.samples_per_step} samples a step"
            )
        if not 0 <= dp_rank < dp or prefetch_steps < 1:
            raise ValueError(f"dp_rank: got {dp_rank} of {dp}; prefetch_steps: got {prefetch_steps}, expected >= 1")
        self._mixture = mixture
        self._micro_batch_size = micro_batch_size
        self._document_masking = document_masking
        self._pin_memory = pin_memory
        chunk_samples = min(_CHUNK_SAMPLES, _CHUNK_BYTES // (_TOKEN_BYTES * (mixture.sequence_length + 1)))
        self._micro_batches_per_chunk = max(1, chunk_samples // micro_batch_size)
        self._prefetch_chunks = -(-prefetch_steps * batch_accumulation_per_replica // self._micro_batches_per_chunk)
        starts = np.arange(batch_accumulation_per_replica) * dp * micro_batch_size + dp_rank * micro_batch_size
        self._rows = (starts[:, None] + np.arange(micro_batch_size)).ravel()
        self._readers: list[BackgroundIterator[_Chunk]] = []

    def micro_batches(self, start_step: int) -> Iterator[MicroBatch]:
        """Yield this rank's micro-batches from the first of ``start_step`` through the run's last step.

        Closing the iterator, exhausting it, an error in it, or :meth:`close` ends its thread.
        """
        reader = BackgroundIterator(self._produce(start_step), self._prefetch_chunks, "zagreus-data-reader")
        self._readers.append(reader)
        try:
            for chunk in reader:
                for batch in chunk.micro_batches(self._micro_batch_size):
                    if reader.is_closed:
                        return
                    yield batch
        finally:
            reader.close()
            self._readers.remove(reader)

    def close(self) -> None:
        """End all reading; iterators that are still held stop."""
        for reader in list(self._readers):
            reader.close()

    def _produce(self, start_step: int) -> Iterator[_Chunk]:
        shards = self._mixture.shards
        num_files = allow_open_files(len(shards) * (2 if self._document_masking else 1))
        chunk = self._micro_batches_per_chunk * self._micro_batch_size
        with closing(OpenShards(shards, num_files)) as files:
            for samples in self._blocks(start_step):
                for first in range(0, len(samples), chunk):
                    yield self._read(samples[first : first + chunk], files)

    def _blocks(self, start_step: int) -> Iterator[Samples]:
        """Yield this rank's samples, many steps at once: the arithmetic is per array, not per sample."""
        step = start_step
        steps_per_block = max(1, _BLOCK_SAMPLES // self._rows.size)
        while step <= self._mixture.train_steps:
            stage = self._mixture.stage_of(step)
            end = min(step + steps_per_block, stage.last_step + 1)
            leg = stage.leg_of(step)
            steps = np.arange(step, end, dtype=np.int64)
            numbers = leg.first_sample + (steps - leg.first_step)[:, None] * leg.samples_per_step + self._rows
            yield self._mixture.locate(stage, numbers.ravel())
            step = end

    def _read(self, samples: Samples, files: OpenShards) -> _Chunk:
        shape = (len(samples), self._mixture.sequence_length + 1)
        tokens = torch.empty(shape, dtype=torch.int32, pin_memory=self._pin_memory)
        memory = tokens.numpy().view(np.uint32)
        if self._mixture.token_dtype == memory.dtype:
            self._mixture.read_samples(samples, files, out=memory)
        else:
            np.copyto(memory, self._mixture.read_samples(samples, files))
        return _Chunk(tokens, self._offsets(samples, files) if self._document_masking else None)

    def _offsets(self, samples: Samples, files: OpenShards) -> list[torch.Tensor]:
        """Return the document offsets of the micro-batches of ``samples``."""
        size, made = self._micro_batch_size, []
        rows, starts = self._mixture.document_starts(samples, files)
        edges = np.searchsorted(rows, np.arange(0, len(samples) + size, size)).tolist()
        for number, (begin, end) in enumerate(pairwise(edges)):
            inside = rows[begin:end] - number * size
            offsets = document_offsets(inside, starts[begin:end], size, self._mixture.sequence_length)
            made.append(offsets.pin_memory() if self._pin_memory else offsets)
        return made


class _Chunk(NamedTuple):
    """Micro-batches that were read together: they share memory, no row of it belongs to two.

    The thread hands over a chunk undivided, since Python's garbage collector walks through all that waits.
    """

    tokens: torch.Tensor
    """int32 `[samples, sequence_length + 1]`."""
    document_offsets: list[torch.Tensor] | None
    """One per micro-batch."""

    def micro_batches(self, size: int) -> Iterator[MicroBatch]:
        """Return its micro-batches of ``size`` samples."""
        return map(MicroBatch, self.tokens.split(size), self.document_offsets or repeat(None))
