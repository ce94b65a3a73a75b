"""Two attempts at one shard do not disturb each other, and what dead ones left goes away."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from nanotron_zagreus.data import attempts
from nanotron_zagreus.data.shard_file import PARTIAL_FOLDER, ShardFile, shard_name
from nanotron_zagreus.data.shards import list_shards, read_shard
from nanotron_zagreus.data.verification import verify_shard
from nanotron_zagreus.errors import InputError, WorkError

DOCUMENTS = [np.full(50_000, value, dtype=np.uint32) for value in (1, 2, 3, 4)]


def start(folder):
    return ShardFile(folder, shard_name(0), tokenizer="t", token_size=4)


def write(shard, documents):
    for tokens in documents:
        shard.write(tokens, np.array([tokens.size]))


def tokens_in(folder):
    return np.fromfile(folder / shard_name(0), "<u4")


def test_a_second_attempt_leaves_the_first_one_s_bytes_alone(tmp_path):
    first = start(tmp_path)
    write(first, DOCUMENTS[:3])
    second = start(tmp_path)
    write(first, DOCUMENTS[3:])
    first.finish()
    assert np.array_equal(tokens_in(tmp_path), np.concatenate(DOCUMENTS))
    second.discard()
    assert verify_shard(tmp_path / shard_name(0), 1000).problem is None


def test_two_attempts_that_finish_leave_one_whole_shard(tmp_path):
    first, second = start(tmp_path), start(tmp_path)
    for shard in (first, second):
        write(shard, DOCUMENTS)
        shard.finish()
    assert np.array_equal(tokens_in(tmp_path), np.concatenate(DOCUMENTS))
    assert not list((tmp_path / PARTIAL_FOLDER).iterdir())


def test_an_attempt_that_fails_at_its_end_keeps_the_finished_shard(tmp_path, monkeypatch):
    first, second = start(tmp_path), start(tmp_path)
    for shard in (first, second):
        write(shard, DOCUMENTS)
    first.finish()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"), second:
        second.finish()
    assert [shard.num_documents for shard in list_shards(tmp_path)] == [4]


def test_a_disk_that_is_full_until_the_end_keeps_no_partial_file(tmp_path):
    """What is still in memory cannot be written when the files are closed; that must not keep them on the disk."""
    shard = start(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(OSError), shard:
            for _ in range(10_000):
                shard.write(DOCUMENTS[0][:3], np.array([3]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / PARTIAL_FOLDER).iterdir())


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_between_two_renames_no_mixture_of_two_shards_is_taken_for_whole(stop_after, tmp_path, monkeypatch):
    """The same number of tokens in other documents: index, metadata and tokens of both would fit each other."""
    old = start(tmp_path)
    write(old, DOCUMENTS)
    old.finish()
    new = start(tmp_path)
    write(new, [tokens[:25_000] for tokens in DOCUMENTS for _ in range(2)])
    renamed, replace = [], attempts.Path.replace

    def stop(self, target):
        if len(renamed) == stop_after:
            raise KeyboardInterrupt
        renamed.append(target)
        return replace(self, target)

    monkeypatch.setattr(attempts.Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        new.finish()
    with pytest.raises(InputError, match="not a whole shard"):
        read_shard(tmp_path / shard_name(0))


def test_a_different_shard_published_at_the_same_moment_is_no_success(tmp_path, monkeypatch):
    first, second = start(tmp_path), start(tmp_path)
    write(first, DOCUMENTS)
    write(second, DOCUMENTS[:2])
    replace = attempts.Path.replace

    def intrude(self, target):
        if target.suffix == ".ds" and second.num_tokens:
            monkeypatch.setattr(attempts.Path, "replace", replace)
            second.finish()
        return replace(self, target)

    monkeypatch.setattr(attempts.Path, "replace", intrude)
    with pytest.raises(WorkError, match="another attempt"):
        first.finish()
    with pytest.raises(InputError, match="not a whole shard"):
        read_shard(tmp_path / shard_name(0))


def test_what_dead_attempts_left_is_removed_and_no_other(tmp_path, monkeypatch):
    dead = subprocess.run(
        [sys.executable, "-c", "from nanotron_zagreus.data.attempts import attempt_mark; print(attempt_mark())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    partial = tmp_path / PARTIAL_FOLDER
    alive = start(tmp_path)
    elsewhere = f"00000_unshuffled~another-host+1~{os.getpid()}~0123abcd.ds"
    for name in (f"00000_unshuffled{dead}.ds", f"00000_unshuffled{dead}.ds.index", elsewhere):
        (partial / name).write_bytes(b"x")
    mine = {path.name for path in partial.iterdir()} - {f"00000_unshuffled{dead}.ds{end}" for end in ("", ".index")}
    late = start(tmp_path)
    assert {path.name for path in partial.iterdir()} >= mine
    assert not list(partial.glob(f"*{dead}*"))
    late.discard()
    monkeypatch.setattr(attempts, "_ABANDONED_SECONDS", -1)
    os.utime(partial / elsewhere, (0, 0))
    start(tmp_path).discard()
    assert not (partial / elsewhere).exists()
    alive.discard()


def test_two_that_write_one_result_do_not_meet(tmp_path, monkeypatch):
    replace = attempts.Path.replace

    def both(self, target):
        monkeypatch.setattr(attempts.Path, "replace", replace)
        attempts.write_whole(tmp_path / "1.json", "theirs")
        return replace(self, target)

    monkeypatch.setattr(attempts.Path, "replace", both)
    attempts.write_whole(tmp_path / "1.json", "mine")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_an_attempt_killed_at_any_moment_leaves_a_whole_shard_or_none(tmp_path):
    """Writers in processes of their own, each killed a little later than the one before, over a standing shard too."""
    found = set()
    for number in range(24):
        writer = multiprocessing.get_context("fork").Process(target=write_in_pieces, args=(tmp_path, number))
        writer.start()
        while not list((tmp_path / PARTIAL_FOLDER).glob(f"*~{writer.pid}~*.ds")) and writer.is_alive():
            time.sleep(0.0002)
        time.sleep(number % 12 * 0.0015)
        writer.kill()
        writer.join()
        problem = verify_shard(tmp_path / shard_name(0)).problem if (tmp_path / shard_name(0)).exists() else None
        assert problem is None or ".metadata is missing" in problem, "of a replacement it may be seen that it broke off"
        found.add(writer.exitcode)
    assert -signal.SIGKILL in found
    write_in_pieces(tmp_path, 0)
    assert verify_shard(tmp_path / shard_name(0), 10).problem is None
    assert not list((tmp_path / PARTIAL_FOLDER).iterdir())


def write_in_pieces(folder, number):
    with start(folder) as shard:
        for first in range(0, 20_000, 1000):
            shard.write(DOCUMENTS[number % 4][first : first + 1000], np.array([400, 600]))
        shard.finish()
