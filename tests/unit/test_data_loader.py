"""The loader: the contract's samples for every topology, and a thread that never outlives its use."""

import gc
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanotron_zagreus.data import loader
from nanotron_zagreus.data.loader import StepLoader, document_tensors
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.errors import WorkError
from tests.unit.data_fixtures import make_config, write_source


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    return [str(write_source(root / name, windows)) for name, windows in (("a", [40, 27]), ("b", [90]))]


def make_mixture(folders, dp=1, micro=24, accumulation=1, train_steps=6):
    stages = [
        {"dataset": {"dataset_folder": folders, "dataset_weights": [1, 2]}},
        {"start": 4, "dataset": {"dataset_folder": folders[1]}},
    ]
    tokens = {
        "micro_batch_size": micro,
        "batch_accumulation_per_replica": accumulation,
        "train_steps": train_steps,
    }
    return open_mixture(make_config(stages, tokens=tokens, parallelism={"dp": dp}))


def make_loader(mixture, dp=1, dp_rank=0, micro=24, accumulation=1, **options):
    return StepLoader(
        mixture,
        micro_batch_size=micro,
        batch_accumulation_per_replica=accumulation,
        dp=dp,
        dp_rank=dp_rank,
        **options,
    )


def reader_threads():
    return [thread for thread in threading.enumerate() if thread.name == "zagreus-data-reader" and thread.is_alive()]


@settings(max_examples=20, deadline=None)
@given(topology=st.sampled_from([(1, 24, 1), (2, 3, 4), (4, 6, 1), (3, 2, 4), (8, 1, 3)]), start=st.integers(1, 6))
def test_a_step_trains_on_the_same_samples_in_every_topology(folders, topology, start):
    dp, micro, accumulation = topology
    mixture = make_mixture(folders, dp, micro, accumulation)
    per_rank = []
    for rank in range(dp):
        batches = list(make_loader(mixture, dp, rank, micro, accumulation).micro_batches(start))
        inputs = torch.stack([batch["input_ids"] for batch in batches])
        per_rank.append(inputs.reshape(-1, accumulation, micro, 8))
    got = torch.stack(per_rank, dim=2)  # [step, accumulation, rank, row, token]
    for index, step in enumerate(range(start, 7)):
        tokens = mixture.read(mixture.samples_of_step(step))
        assert np.array_equal(got[index].reshape(24, 8).numpy(), tokens[:, :-1])
    assert len(got) == 7 - start


def test_a_micro_batch_has_the_engine_s_types(folders):
    batch = next(make_loader(make_mixture(folders)).micro_batches(1))
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "input_ids": torch.int64,
        "input_mask": torch.bool,
        "label_ids": torch.int64,
        "label_mask": torch.bool,
    }
    assert all(tensor.shape == (24, 8) and tensor.is_contiguous() for tensor in batch.values())
    assert torch.equal(batch["input_ids"][:, 1:], batch["label_ids"][:, :-1])
    assert batch["input_mask"].all() and batch["label_mask"].all()


def test_every_tensor_is_pinned_when_asked(folders, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.data_ptr()) or tensor)
    loader = make_loader(make_mixture(folders, micro=4, accumulation=6), micro=4, accumulation=6, pin_memory=True)
    batch = next(loader.micro_batches(1))
    loader.close()
    assert {tensor.data_ptr() for tensor in batch.values()} <= set(pinned)


def test_document_masking_resets_positions_at_the_index(folders):
    mixture = make_mixture(folders)
    loader = make_loader(mixture, document_masking=True)
    batch = next(loader.micro_batches(1))
    for row, sample in enumerate(mixture.samples_of_step(1)):
        first = sample.window * 9
        expected = [min((first + column) % 7, column) for column in range(8)]  # documents of seven tokens
        assert batch["position_ids"][row].tolist() == expected
    offsets = batch["document_offsets"]
    assert offsets.dtype == torch.int32 and offsets[0] == 0 and offsets[-1] == 24 * 8
    assert torch.equal(batch["position_ids"].ravel().eq(0).nonzero().ravel(), offsets[:-1].long())
    loader.close()


def test_document_tensors_of_known_boundaries():
    tensors = document_tensors([np.array([3]), np.array([], dtype=np.int64), np.array([1, 2])], 4)
    assert tensors["position_ids"].tolist() == [[0, 1, 2, 0], [0, 1, 2, 3], [0, 0, 0, 1]]
    assert tensors["document_offsets"].tolist() == [0, 3, 4, 8, 9, 10, 12]


def test_a_batch_that_does_not_fit_the_mixture_is_refused(folders):
    with pytest.raises(ValueError, match="2 x 24 x 1"):
        make_loader(make_mixture(folders), dp=2)


def test_reading_stays_a_bounded_number_of_steps_ahead(folders):
    loader = make_loader(make_mixture(folders, train_steps=500), prefetch_steps=3)  # a step fills a chunk
    batches = loader.micro_batches(1)
    next(batches)
    deadline = time.monotonic() + 20
    while loader._readers[0]._queue.qsize() < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert loader._readers[0]._queue.qsize() == 3
    loader.close()


def test_no_thread_is_left_however_the_reading_ends(folders):
    mixture = make_mixture(folders, train_steps=500)
    before = len(reader_threads())
    exhausted = list(make_loader(make_mixture(folders)).micro_batches(5))
    assert len(exhausted) == 2
    dropped = make_loader(mixture).micro_batches(1)
    next(dropped)
    del dropped
    gc.collect()
    closed = make_loader(mixture)
    batches = closed.micro_batches(1)
    next(batches)
    closed.close()
    assert list(batches) == []
    with pytest.raises(KeyError):
        for _ in make_loader(mixture).micro_batches(1):
            raise KeyError
    gc.collect()
    assert len(reader_threads()) == before


def test_an_error_of_the_reader_reaches_the_consumer(tmp_path):
    folder = write_source(tmp_path / "x", [50])
    mixture = open_mixture(make_config([{"dataset": {"dataset_folder": str(folder)}}], tokens={"train_steps": 40}))
    (folder / "00000_unshuffled.ds").write_bytes(b"")
    before = len(reader_threads())
    loader = make_loader(mixture, micro=4)
    with pytest.raises(WorkError, match=r"00000_unshuffled\.ds"):
        next(loader.micro_batches(1))
    assert len(reader_threads()) == before


def test_two_iterations_do_not_disturb_each_other(folders):
    loader = make_loader(make_mixture(folders))
    one, two = loader.micro_batches(1), loader.micro_batches(2)
    first = next(one)
    second = next(two)
    assert torch.equal(next(one)["input_ids"], second["input_ids"])
    assert not torch.equal(first["input_ids"], second["input_ids"])
    loader.close()


@pytest.mark.parametrize("shape", [(1, 40_000), (3, 8), (20, 4097)])
def test_tokens_are_converted_whole_however_many_there_are(shape: tuple[int, int]) -> None:
    tokens = np.random.default_rng(0).integers(0, 128_256, shape, dtype=np.uint32)
    converted = loader.to_int64(tokens[:, 1:])
    assert converted.dtype is torch.int64 and converted.is_contiguous()
    assert np.array_equal(converted.numpy(), tokens[:, 1:])
