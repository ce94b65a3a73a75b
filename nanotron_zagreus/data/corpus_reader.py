"""Read documents as a datatrove pipeline step that reports what it cannot read and goes on.

datatrove's readers make a dictionary of every column of every row and end the task at the first damaged
file. This one is a datatrove reader too, but reads the text column alone and writes failures, with file and
row, into `failures/` beside datatrove's logs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseReader
from datatrove.utils.logging import logger

from nanotron_zagreus.data.corpus import CorpusFile
from nanotron_zagreus.data.failures import FailureList
from nanotron_zagreus.data.plan_file import read_plan

_BATCH_BYTES = 4 * 1024 * 1024
_MAX_BATCH_ROWS = 10_000
_LINE_BUFFER_BYTES = 128 * 1024


class CorpusReader(BaseReader):
    """Yields the documents of the files that the plan gives to this task."""

    name = "📚 Corpus"
    _requires_dependencies = ["pyarrow", "orjson"]  # noqa: RUF012 - datatrove reads it from the class

    def __init__(self, plan_path: Path, text_column: str, failures_folder: Path) -> None:
        """Read the task's files from the plan at ``plan_path`` when the task runs."""
        super().__init__(text_key=text_column)
        self.plan_path = plan_path
        self.failures_folder = failures_folder
        self.num_bytes_read = 0
        self.num_bytes_total = 0
        self.num_failures = 0
        self.num_cut = 0
        """Failures that left out more than one document, and nobody knows how many."""
        self.num_empty = 0
        """Documents without text, which leave nothing in a shard."""

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents of task ``rank``."""
        if data:
            yield from data
        plan = read_plan(self.plan_path)
        assert plan is not None  # it was read before the task was started
        files = [CorpusFile(*entry) for entry in plan["tasks"][rank]]
        self.num_bytes_total = sum(file.num_bytes for file in files)
        self.num_bytes_read = self.num_failures = self.num_cut = self.num_empty = 0
        with FailureList(self.failures_folder, rank) as failures:
            for number, file in enumerate(files, start=1):
                logger.info(f"Reading {file.path}, {number}/{len(files)}")
                self.stat_update("input_files")
                done_before = self.num_bytes_read
                yield from self._read_file(file, failures)
                self.num_bytes_read = done_before + file.num_bytes

    def _read_file(self, file: CorpusFile, failures: FailureList) -> Iterator[Document]:
        """Yield the documents of one file; what cannot be read is reported and left out."""
        done_before, row = self.num_bytes_read, -1

        def report(where: int, reason: str, *, is_cut: bool = False) -> None:
            failures.report(file.path, where, reason)
            self.num_failures = failures.count
            self.num_cut += is_cut
            self.stat_update("failures")

        try:
            for row, text, fraction in _rows(file, self.text_key):
                self.num_bytes_read = done_before + int(fraction * file.num_bytes)
                if isinstance(text, str) and text:
                    document = Document(text=text, id=f"{file.path}/{row}")
                    self.update_doc_stats(document)
                    yield document
                elif isinstance(text, Exception):
                    report(row, str(text), is_cut=isinstance(text, OSError))  # rows of a damaged part of a file
                elif not text:
                    self.num_empty += 1
                    self.stat_update("empty")
                else:
                    report(row, f"column {self.text_key!r} holds {type(text).__name__}, not text")
        except GeneratorExit:
            raise
        except Exception as error:  # a damaged file may fail anywhere; the rest of the task is still good
            report(row + 1, f"{type(error).__name__}: {error}; the rest of the file is left out", is_cut=True)


@contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """Open a local path or a URL for reading."""
    if "://" not in path:
        with Path(path).open("rb") as file:
            yield file
        return
    from nanotron_zagreus.data.remote_file import open_remote

    with open_remote(path) as remote:
        yield remote


def open_arrow(raw: IO[bytes]) -> Any:
    """Return the reader of an Arrow file in either of its formats; `datasets` writes the streaming one."""
    import pyarrow as pa

    is_file = raw.read(6) == b"ARROW1"
    raw.seek(0)
    return pa.ipc.open_file(raw) if is_file else pa.ipc.open_stream(raw)


@contextmanager
def open_lines(raw: IO[bytes], compression: str | None) -> Iterator[Iterator[bytes]]:
    """Open the lines of a file, decompressed."""
    if compression is None:
        yield raw
        return
    unpacked: Any
    if compression == "gzip":
        import gzip

        unpacked = gzip.GzipFile(fileobj=raw)
    else:
        import pyarrow as pa

        unpacked = pa.CompressedInputStream(raw, "zstd")  # zstandard's reader takes a cut file for a shorter one
    with io.BufferedReader(unpacked, _LINE_BUFFER_BYTES) as lines:
        yield lines


def _rows(file: CorpusFile, column: str) -> Iterator[tuple[int, Any, float]]:
    """Yield row number, text (or the exception that stands for it), and the share of the file read so far."""
    with open_bytes(file.path) as raw:
        if file.format == "parquet":
            yield from _parquet_rows(raw, column)
        elif file.format == "arrow":
            yield from _arrow_rows(raw, column, file.num_bytes)
        else:
            yield from _json_rows(raw, column, file)


def _parquet_rows(raw: IO[bytes], column: str) -> Iterator[tuple[int, Any, float]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = 0
    with pq.ParquetFile(raw) as parquet:
        if column not in parquet.schema_arrow.names:
            raise KeyError(f"no column {column!r}, it has {', '.join(parquet.schema_arrow.names)}")
        total = max(1, parquet.metadata.num_rows)
        for group in range(parquet.num_row_groups):
            row = first
            first += parquet.metadata.row_group(group).num_rows
            num_rows = _rows_per_batch(parquet.metadata.row_group(group), column)
            batches = parquet.iter_batches(num_rows, row_groups=[group], columns=[column], use_threads=False)
            try:
                for batch in batches:
                    for text in _texts(batch.column(0)):
                        yield row, text, row / total
                        row += 1
            except (OSError, pa.ArrowException) as error:
                yield row, OSError(f"{error}; rows {row} to {first - 1} are left out"), row / total


def _texts(column: Any) -> list[Any]:
    """Return a column's values; one that is not UTF-8 becomes the exception that says so."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_text(value) for value in column]


def _text(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return error


def _rows_per_batch(group: Any, column: str) -> int:
    """Return how many rows of a row group make about 4 MiB of text, so that long documents do not pile up."""
    sizes = [group.column(index) for index in range(group.num_columns)]
    num_bytes = next((c.total_uncompressed_size for c in sizes if c.path_in_schema.split(".")[0] == column), 0)
    rows = max(1, group.num_rows)
    return int(min(_MAX_BATCH_ROWS, max(1, _BATCH_BYTES * rows // max(1, num_bytes))))


def _arrow_rows(raw: IO[bytes], column: str, num_bytes: int) -> Iterator[tuple[int, Any, float]]:
    reader = open_arrow(raw)
    if column not in reader.schema.names:
        raise KeyError(f"no column {column!r}, it has {', '.join(reader.schema.names)}")
    is_file = hasattr(reader, "num_record_batches")
    batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
    row = 0
    for batch in batches:
        texts = batch.column(reader.schema.get_field_index(column))
        for first in range(0, len(texts), 1000):
            for text in _texts(texts.slice(first, 1000)):
                yield row, text, raw.tell() / max(1, num_bytes)
                row += 1


def _json_rows(raw: IO[bytes], column: str, file: CorpusFile) -> Iterator[tuple[int, Any, float]]:
    import orjson

    with open_lines(raw, file.compression) as lines:
        for row, line in enumerate(lines):
            if line.isspace():
                continue
            text: Any
            try:
                record = orjson.loads(line)
                text = _value(record, column)
            except orjson.JSONDecodeError as error:
                text = error
            yield row, text, raw.tell() / max(1, file.num_bytes)


def _value(record: Any, column: str) -> Any:
    """Return a line's text, or the exception that says why it has none."""
    if not isinstance(record, dict):
        return ValueError("the line is no JSON object")
    return record[column] if column in record else ValueError(f"no key {column!r}, it has {', '.join(record)}")
