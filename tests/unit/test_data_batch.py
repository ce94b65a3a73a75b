"""A micro-batch on the device: the tensors that the engine takes."""

import numpy as np
import pytest
import torch

from nanotron_zagreus.data.batch import MicroBatch, document_offsets, engine_batch

CPU = torch.device("cpu")
TOKENS = torch.tensor([[5, 6, 7, 8, 9], [1, 2, 3, 4, 128_255]], dtype=torch.int32)


@pytest.mark.parametrize("has_documents", [False, True])
def test_the_engine_gets_the_types_that_upstream_s_collator_gives(has_documents: bool) -> None:
    offsets = torch.tensor([0, 4, 8], dtype=torch.int32) if has_documents else None
    made = engine_batch(MicroBatch(TOKENS, offsets), CPU)
    types = {"input_ids": torch.int64, "label_ids": torch.int64, "input_mask": torch.bool, "label_mask": torch.bool}
    if has_documents:
        assert made.pop("document_offsets").dtype is torch.int32
        types["position_ids"] = torch.int64
    assert {name: tensor.dtype for name, tensor in made.items()} == types
    assert all(tensor.shape == (2, 4) and tensor.is_contiguous() for tensor in made.values())
    assert made["input_ids"].tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert made["label_ids"].tolist() == [[6, 7, 8, 9], [2, 3, 4, 128_255]]
    assert made["input_mask"].all() and made["label_mask"].all()


def test_documents_of_known_boundaries() -> None:
    rows, starts = np.array([0, 2, 2]), np.array([3, 1, 2])
    offsets = document_offsets(rows, starts, 3, 4)
    assert offsets.dtype is torch.int32 and offsets.tolist() == [0, 3, 4, 8, 9, 10, 12]
    made = engine_batch(MicroBatch(torch.zeros(3, 5, dtype=torch.int32), offsets), CPU)
    assert made["position_ids"].tolist() == [[0, 1, 2, 0], [0, 1, 2, 3], [0, 0, 0, 1]]
    assert document_offsets(rows[:0], starts[:0], 2, 4).tolist() == [0, 4, 8]
