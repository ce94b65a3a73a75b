"""Documents are encoded a bounded number of characters at a time, and counted as datatrove counts them one by one."""

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.utils.stats import MetricStats

from nanotron_zagreus.data import shard_writer


def batches_of(lengths, batch_characters):
    documents = [Document(text="x" * length, id=str(number)) for number, length in enumerate(lengths)]
    return [[len(text) for text in texts] for texts in shard_writer._batches(documents, batch_characters)]


def test_a_batch_ends_with_the_document_that_fills_it(monkeypatch):
    assert batches_of([4, 4, 2, 30, 1, 9, 3], 10) == [[4, 4, 2], [30], [1, 9], [3]]
    assert batches_of([10], 10) == [[10]]  # and no empty one after it
    assert batches_of([], 10) == []
    monkeypatch.setattr(shard_writer, "_BATCH_DOCUMENTS", 2)
    assert batches_of([1, 1, 1], 10) == [[1, 1], [1]]


def test_a_batch_counts_as_its_documents_do_one_by_one():
    lengths = np.array([7, 3, 9, 3])
    single = MetricStats()
    for length in lengths.tolist():
        single.update(length)
    assert shard_writer._metric(lengths).to_dict() == pytest.approx(single.to_dict())
