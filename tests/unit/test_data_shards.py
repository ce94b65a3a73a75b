"""The shard format: byte for byte datatrove's, and nothing that is not whole is taken for a shard."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from nanotron_zagreus.data.document_index import document_starts, starts_by_bisection
from nanotron_zagreus.data.open_shards import OpenShards, allow_open_files
from nanotron_zagreus.data.shard_file import PARTIAL_FOLDER, ShardFile
from nanotron_zagreus.data.shards import list_shards, read_shard, summarize_shards
from nanotron_zagreus.data.sources import open_source
from nanotron_zagreus.data.windows import read_windows
from nanotron_zagreus.errors import InputError, MissingInputError, WorkError
from tests.unit.data_fixtures import VOCAB_SIZE, write_shard


@pytest.mark.parametrize("token_size", [2, 4])
def test_files_are_those_datatrove_writes(tmp_path, token_size):
    from datatrove.pipeline.tokens.tokenizer import TokenizedFile

    documents = [[1, 2, 3], [4], [5, 6, 7, 8]]
    theirs = TokenizedFile(
        str(tmp_path / "theirs"),
        "00000_unshuffled.ds",
        tokenizer_name_or_path="org/name",
        save_final_metadata=True,
        token_size=token_size,
    )
    for document in documents:
        theirs.write(document, None)
    theirs.close()
    with ShardFile(tmp_path / "ours", "00000_unshuffled.ds", tokenizer="org/name", token_size=token_size) as ours:
        ours.write(np.array(documents[0] + documents[1], dtype=np.uint32), np.array([3, 1]))
        ours.write(np.array(documents[2], dtype=np.uint32), np.array([4]))
        ours.finish()
    for suffix in ("", ".index", ".metadata"):
        name = "00000_unshuffled.ds" + suffix
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_a_shard_is_invisible_until_it_is_finished(tmp_path):
    shard = ShardFile(tmp_path, "00000_unshuffled.ds", tokenizer="t", token_size=2)
    shard.write(np.arange(5, dtype=np.uint32), np.array([5]))
    assert not list(tmp_path.glob("*.ds*"))
    shard.finish()
    assert [path.name for path in sorted(tmp_path.glob("*.ds*"))] == [
        "00000_unshuffled.ds",
        "00000_unshuffled.ds.index",
        "00000_unshuffled.ds.metadata",
    ]
    assert not list((tmp_path / PARTIAL_FOLDER).iterdir())


def test_a_shard_is_flushed_before_its_files_have_their_names(tmp_path, monkeypatch):
    flushed, named = [], []
    flush, replace = os.fsync, Path.replace

    def watched_flush(descriptor):
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        flush(descriptor)

    def watched_replace(path, target):
        named.append((target.name, path in flushed))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_flush)
    monkeypatch.setattr(Path, "replace", watched_replace)
    path = write_shard(tmp_path, 0, 100)
    assert named == [(path.name + suffix, True) for suffix in (".index", ".metadata", "")]
    assert flushed[-1] == tmp_path


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), ShardFile(tmp_path, "0.ds", tokenizer="t", token_size=2) as shard:
        shard.write(np.arange(5, dtype=np.uint32), np.array([5]))
        raise RuntimeError
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_facts_come_from_the_three_files(tmp_path):
    shard = read_shard(write_shard(tmp_path, 0, 100, document_tokens=30))
    assert (shard.num_tokens, shard.num_documents, shard.token_size, shard.tokenizer) == (100, 4, 2, "test-tokenizer")


def _append(path):
    path.write_bytes(path.read_bytes() + b"\0\0")


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("suffix", "damage", "word"),
    [
        ("", _truncate, "bytes"),
        ("", _append, "bytes"),
        (".index", lambda path: path.unlink(), "index is missing"),
        (".index", _truncate, "multiple"),
        (".index", lambda path: path.write_bytes(path.read_bytes()[:-8]), "index ends"),
        (".metadata", lambda path: path.unlink(), "metadata is missing"),
        (".metadata", lambda path: path.write_text("nonsense"), "metadata starts"),
        (".metadata", lambda path: path.write_text("t|3\n100\nx"), "metadata starts"),
        (".metadata", lambda path: path.write_text("t|4\n100\nx"), "bytes"),
        (".metadata", lambda path: path.write_bytes(b"\xff\xfe"), "not text"),
    ],
)
def test_a_damaged_shard_is_refused_by_name(tmp_path, suffix, damage, word):
    path = write_shard(tmp_path, 0, 100)
    damage(path.with_name(path.name + suffix))
    with pytest.raises(InputError, match=word) as caught:
        list_shards(tmp_path)
    assert path.name in str(caught.value)


def test_a_missing_folder_an_empty_one_and_a_parent_are_told_apart(tmp_path):
    with pytest.raises(MissingInputError, match="no such folder"):
        list_shards(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match=r"no \.ds file"):
        list_shards(tmp_path)
    write_shard(tmp_path / "part_1", 0, 50)
    with pytest.raises(MissingInputError, match="part_1"):
        list_shards(tmp_path)


def test_many_shards_come_in_name_order(tmp_path):
    for rank in range(70):
        write_shard(tmp_path, rank, 20)
    assert [shard.name for shard in list_shards(tmp_path)] == [f"{rank:05d}_unshuffled.ds" for rank in range(70)]


def test_summaries_notice_another_content_and_another_name(tmp_path):
    write_shard(tmp_path / "a", 0, 50_000)
    write_shard(tmp_path / "b", 0, 50_000, first_token=1)
    write_shard(tmp_path / "c", 1, 50_000)
    digests = {summary.digest for folder in "abc" for summary in summarize_shards(list_shards(tmp_path / folder))}
    assert len(digests) == 3
    again = summarize_shards(list_shards(tmp_path / "a"))[0]
    assert again.digest in digests
    assert again.largest_token == VOCAB_SIZE - 1


def open_test_source(folder, **changes):
    options = {"sequence_length": 8, "num_validation_windows": 0, "seed": 1, "vocab_size": VOCAB_SIZE}
    return open_source(folder, **{**options, **changes})


def test_windows_do_not_cross_shards_and_the_last_are_held_out(tmp_path):
    for rank in range(3):
        write_shard(tmp_path, rank, 30)  # three windows of nine tokens, three tokens left over
    source = open_test_source(tmp_path, num_validation_windows=2)
    assert (source.num_windows, source.num_validation_windows, source.num_tokens) == (7, 2, 90)
    shard, window = source.locate(np.arange(9))
    assert list(zip(shard.tolist(), window.tolist(), strict=True)) == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)
    ]  # fmt: skip


def test_shards_too_short_for_a_window_are_skipped(tmp_path):
    for rank, num_tokens in enumerate([5, 18, 5, 9]):
        write_shard(tmp_path, rank, num_tokens)
    shard, window = open_test_source(tmp_path).locate(np.arange(3))
    assert shard.tolist() == [1, 1, 3]
    assert window.tolist() == [0, 1, 0]


def test_two_tokenizers_in_a_folder_are_refused(tmp_path):
    write_shard(tmp_path, 0, 50)
    write_shard(tmp_path, 1, 50, tokenizer="another")
    with pytest.raises(InputError, match="another"):
        open_test_source(tmp_path)


def test_a_token_outside_the_vocabulary_is_refused(tmp_path):
    path = write_shard(tmp_path, 0, 50)
    with pytest.raises(InputError, match=r"token 49.*vocab_size is 40") as caught:
        open_test_source(tmp_path, vocab_size=40)
    assert path.name in str(caught.value)


def test_no_window_left_to_train_on_is_refused(tmp_path):
    write_shard(tmp_path, 0, 50)
    with pytest.raises(InputError, match="none is left"):
        open_test_source(tmp_path, num_validation_windows=5)


def test_the_fingerprint_follows_content_not_place(tmp_path):
    write_shard(tmp_path / "a", 0, 50)
    write_shard(tmp_path / "b", 0, 50)
    here = open_test_source(tmp_path / "a")
    assert here.fingerprint == open_test_source(tmp_path / "b").fingerprint
    assert here.fingerprint != open_test_source(tmp_path / "a", num_validation_windows=1).fingerprint
    assert here.fingerprint != open_test_source(tmp_path / "a", sequence_length=7).fingerprint


def test_thousands_of_shards_need_few_open_files(tmp_path):
    for rank in range(40):
        write_shard(tmp_path, rank, 30)
    shards = list_shards(tmp_path)
    files, rows = OpenShards(shards, max_open_files=4), np.empty((40, 9), dtype=np.uint16)
    for first in (9, 18):
        read_windows(files, rows, range(40), [first] * 40)
        assert rows.tolist() == [list(range(first, first + 9))] * 40
        assert len(files) == 4
    files.close()


def test_a_file_shortened_while_in_use_is_named(tmp_path):
    path = write_shard(tmp_path, 0, 30)
    shard = read_shard(path)
    _truncate(path)
    with pytest.raises(WorkError, match="00000_unshuffled"):
        read_windows(OpenShards([shard]), np.empty((1, 9), dtype=np.uint16), [0], [21])


def test_a_file_that_its_disk_refuses_before_the_run_is_named(tmp_path, monkeypatch):
    shard = read_shard(write_shard(tmp_path, 0, 30))

    def refuse(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", refuse)
    for look, name in (
        (lambda: read_shard(shard.path), f"{shard.path}.metadata"),
        (lambda: summarize_shards([shard]), str(shard.path)),
    ):
        with pytest.raises(OSError, match="Input/output error") as caught:
            look()
        assert caught.value.filename == name


@pytest.mark.parametrize("call", ["open", "read"])
def test_a_file_that_its_disk_refuses_is_named(call, tmp_path, monkeypatch):
    """The system names no file where it refuses to read one that is open."""
    shard = read_shard(write_shard(tmp_path, 0, 2000, document_tokens=2))

    def refuse(*arguments):
        raise OSError(5, "Input/output error")

    for name in ["open"] if call == "open" else ["pread", "preadv"]:
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(WorkError, match=r"\.ds: cannot be read \(Input/output error\)"):
        read_windows(OpenShards([shard]), np.empty((1, 9), dtype=np.uint16), [0], [21])
    with pytest.raises(WorkError, match=r"\.index: cannot be read \(Input/output error\)"):
        document_starts(OpenShards([shard]), [0], [1000], 9)
    with pytest.raises(WorkError, match=r"\.index: cannot be read \(Input/output error\)"):
        starts_by_bisection(OpenShards([shard]), 0, 1000, 9)


def test_the_limit_of_open_files_is_raised_as_far_as_wanted(monkeypatch):
    limits = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, wanted: limits.update(now=wanted))
    assert allow_open_files(20) == 20
    assert limits["now"] == (1024, 4096)
    assert allow_open_files(1500) == 1500
    assert limits["now"] == (3000, 4096)
    assert allow_open_files(100_000) == 2048
    assert limits["now"] == (4096, 4096)
    limits["now"] = (1024, resource.RLIM_INFINITY)
    assert allow_open_files(10**6) == 2**15
    assert limits["now"][0] == 2**16


def test_reads_that_give_less_than_asked_go_on(tmp_path, monkeypatch):
    """A network file system may; only the end of the file means that it was shortened."""
    preadv, pread = os.preadv, os.pread
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0].cast("B")[:7]], offset))
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 5), offset))
    shard = read_shard(write_shard(tmp_path, 0, 100, document_tokens=30))
    rows = np.empty((1, 50), dtype=np.uint16)
    files = OpenShards([shard])
    read_windows(files, rows, [0], [10])
    assert rows[0].tolist() == list(range(10, 60))
    assert document_starts(files, [0], [10], 60)[1].tolist() == [20, 50]
    with pytest.raises(WorkError, match="shortened"):
        read_windows(files, rows, [0], [60])


@pytest.mark.parametrize("slow_seconds", [0, float("inf")])
def test_a_slow_file_system_changes_nothing_but_the_way(slow_seconds, tmp_path, monkeypatch):
    """Many shards are opened one after the other on a fast disk and by threads on a slow one."""
    monkeypatch.setattr("nanotron_zagreus.data.shards._SLOW_SECONDS", slow_seconds)
    paths = [write_shard(tmp_path, rank, 20 + rank) for rank in range(40)]
    shards = list_shards(tmp_path)
    assert [(shard.path, shard.num_tokens) for shard in shards] == [(p, 20 + r) for r, p in enumerate(paths)]
    (tmp_path / "00039_unshuffled.ds.index").unlink()
    with pytest.raises(InputError, match=r"00039_unshuffled\.ds.*missing"):
        list_shards(tmp_path)
