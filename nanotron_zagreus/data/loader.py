"""Serve one data-parallel rank's micro-batches, read ahead by a background thread.

The engine gets what upstream's collator gives it: input_ids, label_ids (int64), input_mask, label_mask (bool, one
tensor for all: nothing writes into it), all [micro_batch_size, sequence_length]; with document masking also
position_ids and document_offsets. Which samples these are is the mixture's business; this file only slices and copies.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import numpy as np
import torch

from nanotron_zagreus.data.mixture import Mixture, Samples
from nanotron_zagreus.data.windows import WindowReader, allow_open_files

_BLOCK_SAMPLES = 8192
"""Located at once: with ten sources a sample then costs under 1 µs, in 0.6 MB and 6 ms a block."""
_CHUNK_SAMPLES = 32
"""Samples that are read, converted and handed over together."""
_POLL_SECONDS = 0.05

MicroBatch = dict[str, torch.Tensor]


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
        self._num_micro_batches = batch_accumulation_per_replica
        self._document_masking = document_masking
        self._pin_memory = pin_memory
        self._micro_batches_per_chunk = max(1, _CHUNK_SAMPLES // micro_batch_size)
        self._prefetch_chunks = -(-prefetch_steps * batch_accumulation_per_replica // self._micro_batches_per_chunk)
        starts = np.arange(batch_accumulation_per_replica) * dp * micro_batch_size + dp_rank * micro_batch_size
        self._rows = (starts[:, None] + np.arange(micro_batch_size)).ravel()
        mask = torch.ones(micro_batch_size, mixture.sequence_length, dtype=torch.bool)
        self._mask = self._placed(mask)
        """Of every micro-batch: windows are never padded."""
        self._readers: list[_BackgroundReader] = []

    def micro_batches(self, start_step: int) -> Iterator[MicroBatch]:
        """Yield this rank's micro-batches from the first of ``start_step`` through the run's last step.

        Closing the iterator, exhausting it, an error in it, or :meth:`close` ends its thread.
        """
        reader = _BackgroundReader(self._produce(start_step), self._prefetch_chunks)
        self._readers.append(reader)
        try:
            yield from reader
        finally:
            reader.close()
            self._readers.remove(reader)

    def close(self) -> None:
        """End all reading; iterators that are still held stop."""
        for reader in list(self._readers):
            reader.close()

    def _produce(self, start_step: int) -> Iterator[list[MicroBatch]]:
        num_shards = sum(len(source.shards) for source in self._mixture.sources)
        files = WindowReader(allow_open_files(num_shards * (2 if self._document_masking else 1)))
        chunk = self._micro_batches_per_chunk * self._micro_batch_size
        try:
            for samples in self._blocks(start_step):
                for first in range(0, len(samples), chunk):
                    yield self._collate(samples[first : first + chunk], files)
        finally:
            files.close()

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

    def _collate(self, samples: Samples, files: WindowReader) -> list[MicroBatch]:
        """Return the micro-batches of ``samples``; they share memory, no row of ids belongs to two."""
        tokens = self._mixture.read_samples(samples, files)
        inputs, labels = self._placed(to_int64(tokens[:, :-1])), self._placed(to_int64(tokens[:, 1:]))
        mask = self._mask
        size = self._micro_batch_size
        rows = [slice(first, first + size) for first in range(0, len(samples), size)]
        batches = [
            {"input_ids": inputs[part], "input_mask": mask, "label_ids": labels[part], "label_mask": mask}
            for part in rows
        ]
        if self._document_masking:
            starts = self._mixture.document_starts(samples, files)
            for batch, part in zip(batches, rows, strict=True):
                documents = document_tensors(starts[part], inputs.shape[1])
                batch.update({name: self._placed(tensor) for name, tensor in documents.items()})
        return batches

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self._pin_memory else tensor


def to_int64(tokens: np.ndarray) -> torch.Tensor:
    """Return ``tokens`` `[rows, sequence]` as contiguous int64, converted by this thread alone.

    numpy converts, twice as fast as torch, which for more than 32,768 elements would divide the work over
    OMP_NUM_THREADS threads that spin against the training they should feed. torch gives the memory, since it keeps
    pages that were mapped before.
    """
    out = torch.empty(tokens.shape, dtype=torch.int64)
    np.copyto(out.numpy(), tokens)
    return out


def document_tensors(starts: list[np.ndarray], sequence_length: int) -> dict[str, torch.Tensor]:
    """Return what attention needs to keep documents apart.

    Args:
        starts: per row, where documents start inside it, increasing, in (0, sequence_length). A row's first
            token always starts one, since attention cannot see past the window.

    Returns:
        position_ids, int64 [rows, sequence_length], counted from each document's first token in the row;
        document_offsets, int32 [documents + 1], the boundaries in the flattened [rows x sequence_length]
        micro-batch from 0 to its end, as variable-length attention kernels take them.
    """
    first_tokens = np.arange(len(starts) + 1) * sequence_length
    inside = np.repeat(first_tokens[:-1], [row.size for row in starts]) + np.concatenate(starts)
    offsets = np.sort(np.concatenate([first_tokens, inside]))
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    return {
        "position_ids": torch.from_numpy(positions.reshape(len(starts), sequence_length)),
        "document_offsets": torch.from_numpy(offsets.astype(np.int32)),
    }


class _BackgroundReader:
    """Runs an iterator of chunks in a thread, at most ``capacity`` chunks ahead; iterate to consume its parts."""

    def __init__(self, items: Iterator[list[MicroBatch]], capacity: int) -> None:
        self._queue: queue.Queue[list[MicroBatch] | BaseException | None] = queue.Queue(capacity)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_fill, args=(items, self._queue, self._stop), name="zagreus-data-reader", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[MicroBatch]:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield from item

    def close(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()


def _fill(
    items: Iterator[list[MicroBatch]],
    target: queue.Queue[list[MicroBatch] | BaseException | None],
    stop: threading.Event,
) -> None:
    """Move ``items`` into ``target``, then None; an error goes there in their place."""
    end: BaseException | None = None
    try:
        for item in items:
            if not _put(target, item, stop):
                break
    except BaseException as error:  # also what is no Exception must reach the consumer, or it would wait forever
        end = error
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
    _put(target, end, stop)


def _put(
    target: queue.Queue[list[MicroBatch] | BaseException | None],
    item: list[MicroBatch] | BaseException | None,
    stop: threading.Event,
) -> bool:
    """Put ``item`` unless told to stop; return whether it was put."""
    while not stop.is_set():
        try:
            target.put(item, timeout=_POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False
