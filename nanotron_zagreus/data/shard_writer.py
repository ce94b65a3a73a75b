"""The tokenizing step of a datatrove pipeline: documents in, one whole shard out.

File names, statistics and bytes are those of datatrove's DocumentTokenizer without shuffling; what differs
is the encoder and that the shard appears only when it is whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.base import BaseReader
from datatrove.utils.logging import logger
from datatrove.utils.stats import MetricStats, Stats

from nanotron_zagreus.data.attempts import write_whole
from nanotron_zagreus.data.encoders import Encoder, EncoderMismatch, EncoderName, make_encoder
from nanotron_zagreus.data.shard_file import ShardFile, shard_name
from nanotron_zagreus.data.tokenizer_loading import TokenizerChoice

_BATCH_DOCUMENTS = 10_000
_REPORT_SECONDS = 0.5


class ShardWriter(PipelineStep):
    """Encodes the documents of a task and writes its shard."""

    name = "🧱 Shards"
    type = "🔢 - TOKENIZER"
    _requires_dependencies = ["tokenizers"]  # noqa: RUF012 - datatrove reads it from the class

    def __init__(
        self,
        output: Path,
        choice: TokenizerChoice,
        reader: BaseReader,
        *,
        token_size: int,
        encoder: EncoderName,
        results_folder: Path,
        parallel: bool = False,
    ) -> None:
        """Prepare the step.

        Args:
            output: folder of the shards.
            reader: the step before this one; asked again when the fast encoder proves wrong.
            token_size: bytes per token, 2 or 4.
            results_folder: where the task says how far it is, and in the end what it did.
            parallel: let one task use all cores.
        """
        super().__init__()
        self.output = output
        self.choice = choice
        self.reader = reader
        self.token_size = token_size
        self.encoder = encoder
        self.results_folder = results_folder
        self.parallel = parallel

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:  # type: ignore[override]
        """Write the shard of task ``rank``; a task without documents writes none."""
        try:
            encoder = make_encoder(self.choice, self.encoder, seed=rank, parallel=self.parallel)
            self.write(data, encoder, rank)
        except EncoderMismatch as mismatch:
            logger.warning(f"The fast encoder is wrong here, the task starts again with tokenizers: {mismatch}")
            self.stats, self.reader.stats = Stats(str(self)), Stats(str(self.reader))
            reference = make_encoder(self.choice, "tokenizers", seed=rank, parallel=self.parallel)
            self.write(self.reader.run(None, rank, world_size), reference, rank, str(mismatch))

    def write(self, data: Iterable[Document], encoder: Encoder, rank: int, mismatch: str | None = None) -> None:
        """Write the shard of task ``rank`` with ``encoder``; ``mismatch`` says why another one was given up."""
        name = shard_name(rank)
        logger.info(f'Tokenizing in "{name}" with {encoder.name}...')
        last_report = 0.0
        with ShardFile(self.output, name, tokenizer=self.choice.name, token_size=self.token_size) as shard:
            for texts in _batches(data, encoder.batch_characters):
                with self.track_time(unit="batch"):
                    tokens, lengths = encoder.encode(texts)
                    shard.write(tokens, lengths)
                    self.stats["tokens"] += _metric(lengths)
                if time.monotonic() - last_report > _REPORT_SECONDS:
                    last_report = time.monotonic()
                    self._report(rank, shard, encoder, mismatch, done=False)
            shard.finish()
            self._report(rank, shard, encoder, mismatch, done=True)

    def _report(self, rank: int, shard: ShardFile, encoder: Encoder, mismatch: str | None, *, done: bool) -> None:
        """Write the task's result so far, whole or not at all."""
        result: dict[str, Any] = {
            "done": done,
            "documents": shard.num_documents,
            "tokens": shard.num_tokens,
            "failures": getattr(self.reader, "num_failures", 0),
            "cut": getattr(self.reader, "num_cut", 0),
            "empty": getattr(self.reader, "num_empty", 0),
            "bytes_read": getattr(self.reader, "num_bytes_read", 0),
            "bytes_total": getattr(self.reader, "num_bytes_total", 0),
            "encoder": encoder.name,
            "documents_compared": getattr(encoder, "num_checked", 0),
            "mismatch": mismatch,
            "fallback": getattr(encoder, "fallback", None),
        }
        write_whole(self.results_folder / f"{rank:05d}.json", json.dumps(result))


def _batches(data: Iterable[Document], batch_characters: int) -> Iterator[list[str]]:
    """Yield texts in lists of about ``batch_characters``, so that memory does not depend on how many come."""
    texts: list[str] = []
    num_characters = 0
    for document in data:
        texts.append(document.text)
        num_characters += len(document.text)
        if num_characters >= batch_characters or len(texts) >= _BATCH_DOCUMENTS:
            yield texts
            texts, num_characters = [], 0
    if texts:
        yield texts


def _metric(lengths: np.ndarray) -> MetricStats:
    """Return datatrove's statistics of a whole batch at once."""
    return MetricStats(
        total=int(lengths.sum()),
        n=len(lengths),
        mean=float(lengths.mean()),
        min=int(lengths.min()),
        max=int(lengths.max()),
        _running_variance=float(lengths.var() * len(lengths)),
    )
