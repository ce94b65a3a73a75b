"""The mixture: which windows make up each step, as a pure function, and their tokens.

Sample k of a stage is computed, never looked up: `interleave` says which source it comes from and how many
of that source came before, `permutation` turns that count into a window of the current epoch. What memory
there is holds the folders' file lists. See `stages` for steps, `resume` for what a checkpoint records.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.data.document_index import document_starts
from nanotron_zagreus.data.open_shards import OpenShards
from nanotron_zagreus.data.permutation import permute
from nanotron_zagreus.data.repetition import check_repetition
from nanotron_zagreus.data.resume import check_progress, record_state, stored_shares
from nanotron_zagreus.data.sources import Source, open_source
from nanotron_zagreus.data.stages import Stage, build_stages, shares_of
from nanotron_zagreus.data.tokenizer_identity import check_tokenizers
from nanotron_zagreus.data.windows import read_windows
from nanotron_zagreus.errors import InputError, WorkError

HELD_OUT = -1
_CHECKED_BYTES = 512 << 10
"""Tokens are checked in pieces that are still in a core's cache; a whole chunk would have left it."""


class SampleId(NamedTuple):
    """One sample, by where its window lies. Validation windows have stage and epoch HELD_OUT."""

    stage: int
    source: int
    epoch: int
    shard: int
    window: int


@dataclass(frozen=True)
class Samples:
    """Many samples, one int64 array [n] per part of their ids."""

    stage: np.ndarray
    source: np.ndarray
    epoch: np.ndarray
    shard: np.ndarray
    window: np.ndarray

    def __len__(self) -> int:
        return len(self.stage)

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(self.stage[rows], self.source[rows], self.epoch[rows], self.shard[rows], self.window[rows])

    def ids(self) -> list[SampleId]:
        """Return one SampleId per sample."""
        columns = (self.stage, self.source, self.epoch, self.shard, self.window)
        return [SampleId(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    @classmethod
    def from_ids(cls, ids: Sequence[SampleId]) -> Samples:
        """Return the inverse of :meth:`ids`."""
        table = np.array(ids, dtype=np.int64).reshape(len(ids), len(SampleId._fields))
        return cls(*(np.ascontiguousarray(column) for column in table.T))


class Mixture:
    """The samples of a whole run. Safe to share between threads."""

    def __init__(self, config: Config, sources: tuple[Source, ...], stages: tuple[Stage, ...]) -> None:
        self.sources = sources
        self.stages = stages
        self.sequence_length = config.tokens.sequence_length
        self.samples_per_step = config.samples_per_step
        self.train_steps = config.tokens.train_steps
        self.token_dtype = sources[0].shards[0].dtype
        self._vocab_size = config.model.model_config.vocab_size
        self._permutation = lru_cache(maxsize=4 * len(sources) + 16)(
            lambda epoch, source: sources[source].permutation(epoch)
        )
        self.shards = tuple(shard for source in sources for shard in source.shards)
        self._num_windows = np.array([source.num_windows for source in sources], dtype=np.int64)
        self._first_shards = np.cumsum([0] + [len(source.shards) for source in sources], dtype=np.int64)
        self._files = OpenShards(self.shards)
        self._files_lock = threading.Lock()

    def stage_of(self, step: int) -> Stage:
        """Return the stage that ``step`` (1 to train_steps) belongs to."""
        if not 1 <= step <= self.train_steps:
            raise InputError(f"step: got {step}, this run has steps 1 to {self.train_steps}")
        return next(stage for stage in self.stages if step <= stage.last_step)

    def samples_of_step(self, step: int) -> list[SampleId]:
        """Return the ids of the samples of ``step`` in the order of the global batch."""
        stage = self.stage_of(step)
        leg = stage.leg_of(step)
        numbers = np.arange(leg.samples_per_step, dtype=np.int64) + leg.first_sample_of(step)
        return self.locate(stage, numbers).ids()

    def locate(self, stage: Stage, numbers: np.ndarray) -> Samples:
        """Return the samples with the given ``numbers`` (int64 [n], in any order) of ``stage``."""
        member, position = stage.interleave.locate(numbers)
        position += np.array(stage.start_positions, dtype=np.int64)[member]
        source = np.array(stage.sources, dtype=np.int64)[member]
        epoch, order = np.divmod(position, self._num_windows[source])
        passes, which = np.unique(epoch * len(self.sources) + source, return_inverse=True)
        orders = [self._permutation(*divmod(number, len(self.sources))) for number in passes.tolist()]
        order = permute(orders, which, order)
        shard, window = np.empty_like(source), np.empty_like(source)
        for index in np.unique(source).tolist():
            rows = np.flatnonzero(source == index)
            shard[rows], window[rows] = self.sources[index].locate(order[rows])
        return Samples(np.full_like(source, stage.index), source, epoch, shard, window)

    def held_out(self) -> list[SampleId]:
        """Return the validation windows, one of each source in turn, so that a prefix covers all sources."""
        ids: list[tuple[int, SampleId]] = []
        for index, source in enumerate(self.sources):
            numbers = np.arange(source.num_windows, source.num_windows + source.num_validation_windows)
            shards, windows = source.locate(numbers)
            for turn, (shard, window) in enumerate(zip(shards.tolist(), windows.tolist(), strict=True)):
                ids.append((turn, SampleId(HELD_OUT, index, HELD_OUT, shard, window)))
        return [sample for _, sample in sorted(ids)]

    def read(self, ids: Sequence[SampleId]) -> np.ndarray:
        """Return the tokens of ``ids``, unsigned [n, sequence_length + 1].

        Raises:
            WorkError: a file was shortened since it was opened, or holds a token outside the vocabulary.
        """
        with self._files_lock:
            return self.read_samples(Samples.from_ids(ids), self._files)

    def read_samples(self, samples: Samples, files: OpenShards, out: np.ndarray | None = None) -> np.ndarray:
        """Return the tokens of ``samples`` through the caller's ``files``, in ``out`` if given; see :meth:`read`."""
        if out is None:
            out = np.empty((len(samples), self.sequence_length + 1), dtype=self.token_dtype)
        numbers, first_tokens = self._places(samples)
        together = max(1, _CHECKED_BYTES // (out.itemsize * out.shape[1]))
        for begin in range(0, len(samples), together):
            end = begin + together
            read_windows(files, out[begin:end], numbers[begin:end], first_tokens[begin:end])
            if int(out[begin:end].max()) >= self._vocab_size:
                bad = begin + int(np.flatnonzero(out[begin:end].max(axis=1) >= self._vocab_size)[0])
                path = self.shards[numbers[bad]].path
                raise WorkError(
                    f"{path}: holds token {int(out[bad].max())} in window {samples.window[bad]}, the model's "
                    f"vocab_size is {self._vocab_size}; the file is damaged, run `zagreus shards verify {path.parent}`"
                )
        return out

    def document_starts(self, samples: Samples, files: OpenShards) -> tuple[np.ndarray, np.ndarray]:
        """Return where documents start inside the samples' inputs: see `document_index.document_starts`."""
        return document_starts(files, *self._places(samples), self.sequence_length)

    def _places(self, samples: Samples) -> tuple[list[int], list[int]]:
        """Return each sample's shard, by its number among all, and its first token there."""
        numbers = self._first_shards[samples.source] + samples.shard
        return numbers.tolist(), (samples.window * (self.sequence_length + 1)).tolist()

    def state(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint of ``step`` records, as JSON data: see `resume.record_state`."""
        return record_state(step, self.stages, self.sources, self.sequence_length)


def open_mixture(config: Config, *, progress: dict[str, Any] | None = None, limit_repetition: bool = True) -> Mixture:
    """Return the mixture that the data stages of ``config`` describe; reads file lists, not data.

    Args:
        config: the run; its folders must exist and hold whole shards of the run's tokenizer.
        progress: :meth:`Mixture.state` of the checkpoint being resumed.
        limit_repetition: refuse sources that are repeated too often; False only to show how often they are.

    Raises:
        MissingInputError: a folder does not exist or holds no shard.
        InputError: a shard is not whole or of another tokenizer; a source would be repeated too often; or,
            with ``progress``, the data, the stages or the global batch are not those of the checkpoint.
    """
    sources: list[Source] = []
    number_of: dict[Path, int] = {}
    stage_sources: list[tuple[int, ...]] = []
    for index, section in enumerate(config.data_stages):
        folders = section.data.dataset.folders
        _refuse_two_names(index, folders)
        for folder in folders:
            if folder.resolve() not in number_of:
                number_of[folder.resolve()] = len(sources)
                sources.append(_open(config, index, folder))
        stage_sources.append(tuple(number_of[folder.resolve()] for folder in folders))
    check_tokenizers(config, sources)
    configured = [
        shares_of(section.data.dataset, [sources[index] for index in members])
        for section, members in zip(config.data_stages, stage_sources, strict=True)
    ]
    if progress is not None:
        check_progress(progress, config, stage_sources, configured, sources)
    stages = build_stages(
        config.data_stages,
        stage_sources,
        configured if progress is None else stored_shares(progress, configured),
        configured,
        num_sources=len(sources),
        train_steps=config.tokens.train_steps,
        samples_per_step=config.samples_per_step,
        progress=progress,
    )
    if limit_repetition:
        check_repetition(config, sources, stages)
    return Mixture(config, tuple(sources), stages)


def _refuse_two_names(stage: int, folders: Sequence[Path]) -> None:
    """Refuse a folder that a stage lists under two names: it would be drawn from twice, beyond any limit."""
    names: dict[Path, Path] = {}
    for folder in folders:
        other = names.setdefault(folder.resolve(), folder)
        if other is not folder:
            raise InputError(
                f"data_stages[{stage}].data.dataset: {other} and {folder} are one folder (a link); list it once, or "
                "weigh it"
            )


def _open(config: Config, stage: int, folder: Any) -> Source:
    section = config.data_stages[stage]
    try:
        return open_source(
            folder,
            sequence_length=config.tokens.sequence_length,
            num_validation_windows=config.zagreus.validation_windows_per_source,
            seed=section.data.seed,
            vocab_size=config.model.model_config.vocab_size,
        )
    except InputError as error:
        raise type(error)(f"data_stages[{stage}].data.dataset: {error}") from error
