"""Where documents begin inside windows, as the shards' index tells it."""

import numpy as np
import pytest

from nanotron_zagreus.data.document_index import document_starts, starts_by_bisection
from nanotron_zagreus.data.open_shards import OpenShards
from nanotron_zagreus.data.shard_file import ShardFile
from nanotron_zagreus.data.shards import read_shard
from nanotron_zagreus.errors import WorkError

KINDS_OF_DOCUMENTS = ["few", "many", "huge document between tiny ones", "tiny documents at the end", "a page"]


def shard_of_documents(folder, lengths):
    folder.mkdir(exist_ok=True)
    with ShardFile(folder, "0.ds", tokenizer="t", token_size=2) as writer:
        writer.write(np.zeros(lengths.sum(), dtype=np.uint16), lengths)
        writer.finish()
    return read_shard(folder / "0.ds")


def test_no_windows_have_no_document_starts(tmp_path):
    """Validation asks for them where a rank has none of a source's last windows."""
    files = OpenShards([shard_of_documents(tmp_path, np.full(3, 5))])
    windows, starts = document_starts(files, [], [], 9)
    assert windows.size == starts.size == 0


@pytest.mark.parametrize("kind", KINDS_OF_DOCUMENTS)
def test_document_starts_inside_windows_come_from_the_index(tmp_path, kind):
    tiny = np.random.default_rng(0).integers(0, 6, 3000)
    lengths = {
        "few": tiny[:3],
        "many": tiny,
        "huge document between tiny ones": np.concatenate([tiny, [40_000], tiny]),
        "tiny documents at the end": np.concatenate([np.full(20, 1000), tiny]),
        "a page": np.full(512, 3),
    }[kind]
    files = OpenShards([shard_of_documents(tmp_path, lengths)])
    ends, total = np.unique(np.cumsum(lengths)), int(lengths.sum())
    firsts = list(range(0, max(1, total - 9), max(1, total // 50)))
    wanted = [[end - first for end in ends.tolist() if 0 < end - first < 9] for first in firsts]
    windows, starts = document_starts(files, [0] * len(firsts), firsts, 9)
    assert [starts[windows == window].tolist() for window in range(len(firsts))] == wanted
    for window, first in enumerate(firsts):
        assert np.unique(starts_by_bisection(files, 0, first, 9)).tolist() == wanted[window]


@pytest.mark.parametrize("num_tokens", [9, 9000])
def test_document_starts_of_windows_of_many_shards_are_those_of_each(tmp_path, num_tokens):
    """A window of 9,000 tokens has more documents than a block of the index."""
    rng = np.random.default_rng(1)
    shards = [
        shard_of_documents(tmp_path / str(number), rng.geometric(1 / mean, 4000).astype(np.int64))
        for number, mean in enumerate((3, 50, 7))
    ]
    files, places = OpenShards(shards), rng.integers(0, 3, 64).tolist()
    firsts = [int(rng.integers(0, max(1, shards[place].num_tokens - num_tokens))) for place in places]
    windows, starts = document_starts(files, places, firsts, num_tokens)
    assert (np.diff(windows) >= 0).all()
    for window, (place, first) in enumerate(zip(places, firsts, strict=True)):
        found = starts_by_bisection(files, place, first, num_tokens)
        assert np.array_equal(starts[windows == window], np.unique(found))


@pytest.mark.parametrize("num_tokens", [9, 3000, 4900])
def test_windows_that_a_block_holds_are_found_without_bisection(tmp_path, num_tokens, monkeypatch):
    """Up to 490 of the 512 documents of a block; in a file whose documents grow, so that the first guess is wrong."""
    monkeypatch.setattr("nanotron_zagreus.data.document_index.starts_by_bisection", None)
    lengths = np.repeat([10, 40], 10_000)
    shard, firsts = shard_of_documents(tmp_path, lengths), list(range(0, 90_000, 7_001))
    windows, starts = document_starts(OpenShards([shard]), [0] * len(firsts), firsts, num_tokens)
    ends = np.cumsum(lengths)
    for window, first in enumerate(firsts):
        wanted = ends[(ends > first) & (ends < first + num_tokens)] - first
        assert np.array_equal(starts[windows == window], wanted)


def test_an_index_shortened_while_in_use_is_named(tmp_path):
    shard = shard_of_documents(tmp_path, np.full(2000, 5))
    shard.index_path.write_bytes(shard.index_path.read_bytes()[:-2])
    with pytest.raises(WorkError, match=r"index: ends before entry .* shortened"):
        document_starts(OpenShards([shard]), [0], [9_000], 9)
