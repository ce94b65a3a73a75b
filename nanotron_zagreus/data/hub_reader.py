"""Read a dataset of the Hugging Face hub with datatrove's reader, reporting what has no text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.readers import HuggingFaceDatasetReader

from nanotron_zagreus.data.corpus import HubDataset
from nanotron_zagreus.data.failures import FailureList


class HubReader(HuggingFaceDatasetReader):
    """Yields the documents of a task's part of a dataset, streamed. Rows are counted within that part."""

    name = "🤗 Hub"

    def __init__(self, dataset: HubDataset, text_column: str, failures_folder: Path) -> None:
        """Read ``text_column`` of ``dataset``; what cannot be read is listed in ``failures_folder``."""
        options = {"split": dataset.split} | ({"name": dataset.config} if dataset.config else {})
        super().__init__(dataset.name, options, streaming=True, text_key=text_column)
        self.failures_folder = failures_folder
        self.num_failures = self.num_empty = 0
        self._row = -1
        self._failures: FailureList | None = None

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents of task ``rank``."""
        self.num_failures = self.num_empty = 0
        self._row = -1
        with FailureList(self.failures_folder, rank) as self._failures:
            yield from super().run(data, rank, world_size)
        self._failures = None

    def get_document_from_dict(self, data: dict[str, Any], source_file: str, id_in_file: int | str) -> Document | None:
        """Return the row's document; None when it is empty or a failure, which is counted."""
        self._row += 1
        text = data.get(self.text_key)
        if isinstance(text, str) and text:
            return Document(text=text, id=f"{source_file}/{id_in_file}")
        if self.text_key in data and not text:
            self.num_empty += 1
            self.stat_update("empty")
            return None
        reason = (
            f"column {self.text_key!r} holds {type(text).__name__}, not text"
            if self.text_key in data
            else f"no column {self.text_key!r}, it has {', '.join(data)}"
        )
        assert self._failures is not None
        self._failures.report(source_file, self._row, reason)
        self.num_failures = self._failures.count
        self.stat_update("failures")
        return None
