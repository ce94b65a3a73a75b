"""The loader: the contract's samples for every topology, and a thread that never outlives its use."""

import gc
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanotron_zagreus.data import background
from nanotron_zagreus.data.background import BackgroundIterator
from nanotron_zagreus.data.batch import engine_batch
from nanotron_zagreus.data.loader import StepLoader
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
        windows = torch.stack([batch.tokens for batch in batches])
        per_rank.append(windows.reshape(-1, accumulation, micro, 9))
    got = torch.stack(per_rank, dim=2)  # [step, accumulation, rank, row, token]
    for index, step in enumerate(range(start, 7)):
        tokens = mixture.read(mixture.samples_of_step(step))
        assert np.array_equal(got[index].reshape(24, 9).numpy(), tokens)
    assert len(got) == 7 - start


def test_a_micro_batch_is_its_windows(folders):
    """Tokens of two bytes here: the shards' own type does not show."""
    mixture = make_mixture(folders)
    batch = next(make_loader(mixture).micro_batches(1))
    assert batch.tokens.dtype is torch.int32 and batch.tokens.is_contiguous() and batch.document_offsets is None
    assert np.array_equal(batch.tokens.numpy(), mixture.read(mixture.samples_of_step(1)))


def test_tokens_of_four_bytes_are_read_as_they_are(tmp_path):
    folder = write_source(tmp_path / "x", [50], token_size=4)
    mixture = open_mixture(make_config([{"dataset": {"dataset_folder": str(folder)}}]))
    assert mixture.token_dtype == np.uint32
    loader = make_loader(mixture, micro=4)
    batch = next(loader.micro_batches(1))
    loader.close()
    assert batch.tokens.dtype is torch.int32
    assert np.array_equal(batch.tokens.numpy(), mixture.read(mixture.samples_of_step(1))[:4])


def test_every_tensor_is_pinned_when_asked(folders, monkeypatch):
    empty, pinned = torch.empty, []

    def recording(shape, *, pin_memory, **options):
        memory = empty(shape, **options)
        pinned.extend(memory[row].data_ptr() for row in range(len(memory)) if pin_memory)
        return memory

    monkeypatch.setattr(torch, "empty", recording)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.data_ptr()) or tensor)
    options = {"pin_memory": True, "document_masking": True}
    loader = make_loader(make_mixture(folders, micro=4, accumulation=6), micro=4, accumulation=6, **options)
    batch = next(loader.micro_batches(1))
    loader.close()
    assert {batch.tokens.data_ptr(), batch.document_offsets.data_ptr()} <= set(pinned)


@pytest.mark.parametrize("micro", [24, 4])
def test_document_masking_resets_positions_at_the_index(folders, micro):
    mixture = make_mixture(folders, micro=micro, accumulation=24 // micro)
    loader = make_loader(mixture, micro=micro, accumulation=24 // micro, document_masking=True)
    samples = mixture.samples_of_step(1)
    for number, batch in zip(range(24 // micro), loader.micro_batches(1), strict=False):
        made = engine_batch(batch, torch.device("cpu"))
        for row, sample in enumerate(samples[number * micro : (number + 1) * micro]):
            first = sample.window * 9
            expected = [min((first + column) % 7, column) for column in range(8)]  # documents of seven tokens
            assert made["position_ids"][row].tolist() == expected
        offsets = made["document_offsets"]
        assert offsets.dtype == torch.int32 and offsets[0] == 0 and offsets[-1] == micro * 8
        assert torch.equal(made["position_ids"].ravel().eq(0).nonzero().ravel(), offsets[:-1].long())
    loader.close()


def test_a_batch_that_does_not_fit_the_mixture_is_refused(folders):
    with pytest.raises(ValueError, match="2 x 24 x 1"):
        make_loader(make_mixture(folders), dp=2)


def test_reading_stays_a_bounded_number_of_steps_ahead(folders, monkeypatch):
    monkeypatch.setattr("nanotron_zagreus.data.loader._CHUNK_SAMPLES", 24)  # a step
    loader = make_loader(make_mixture(folders, train_steps=500), prefetch_steps=3)
    batches = loader.micro_batches(1)
    next(batches)
    deadline = time.monotonic() + 20
    while len(loader._readers[0]) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(loader._readers[0]) == 3
    loader.close()


@pytest.mark.parametrize(("num_bytes", "num_micro_batches"), [(500, 3), (10, 1), (1 << 20, 32)])
def test_a_chunk_is_bounded_in_bytes_but_never_less_than_a_micro_batch(
    folders, num_bytes, num_micro_batches, monkeypatch
):
    monkeypatch.setattr("nanotron_zagreus.data.loader._CHUNK_BYTES", num_bytes)  # a window has 36
    mixture = make_mixture(folders, micro=4, accumulation=6, train_steps=500)
    chunk = next(make_loader(mixture, micro=4, accumulation=6)._produce(4))
    assert len(list(chunk.micro_batches(4))) == num_micro_batches


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
    assert torch.equal(next(one).tokens, second.tokens)
    assert not torch.equal(first.tokens, second.tokens)
    loader.close()


def test_what_ended_once_is_at_its_end_again():
    def failing():
        yield 1
        raise KeyError

    whole, broken = BackgroundIterator(iter([1, 2]), 3, "x"), BackgroundIterator(failing(), 3, "x")
    assert list(whole) == [1, 2] and list(whole) == []
    for _ in range(2):
        with pytest.raises(KeyError):
            list(broken)
    whole.close()
    broken.close()


def test_a_read_that_never_returns_holds_up_no_end(monkeypatch):
    returns = threading.Event()

    def hanging():
        yield 1
        returns.wait(60)

    monkeypatch.setattr(background, "_CLOSE_SECONDS", 0.1)
    reader = BackgroundIterator(hanging(), 2, "x")
    assert next(iter(reader)) == 1
    started = time.monotonic()
    reader.close()
    assert time.monotonic() - started < 30
    returns.set()
