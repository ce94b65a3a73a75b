"""Survey the shards of a folder for the mixture, without opening files that have not changed since the last time.

What is learnt from a shard's files is kept beside them in `.shards.json`, each with size, times and inode of the
three files, as git keeps its index. A shard whose files still have them is not opened again, except a few drawn at
random each time: content that differs under the same size and times is damage, and refused. `zagreus shards verify`
reads every byte and uses none of this. A folder that cannot be written is surveyed in full each time.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Set
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple

from nanotron_zagreus.data.attempts import write_whole
from nanotron_zagreus.data.shards import Shard, ShardSummary, list_shards, map_all, read_shard, summarize_shards
from nanotron_zagreus.errors import InputError

RECORD_NAME = ".shards.json"
_FORMAT = 1
_NUM_REREAD = 16
"""Shards of each folder that are read although they are known: of a node's eight ranks each draws its own."""
_SETTLED_NANOSECONDS = 2 * 10**9
"""Files younger than this are not recorded: a write in the same tick of the file system's clock would not show."""

FileState = tuple[int, int, int, int]
_NOWHERE: FileState = (-1, 0, 0, 0)


class _Facts(NamedTuple):
    """What is kept of a shard."""

    stamp: int
    num_tokens: int
    num_documents: int
    token_size: int
    tokenizer: str
    digest: str
    largest_token: int


@dataclass(frozen=True)
class Survey:
    """What a folder holds."""

    names: Set[str]
    """Of all its files."""
    shards: list[Shard]
    summaries: list[ShardSummary]


def survey_shards(folder: Path) -> Survey:
    """Return the whole shards directly in ``folder``, ordered by file name, and their summaries.

    Raises:
        MissingInputError: the folder does not exist, or holds no `.ds` file.
        InputError: one of its shards is not whole, or its content changed though its files' times did not.
    """
    files = _scan(folder)
    names = sorted(name for name in files if name.endswith(".ds"))
    if not names:
        list_shards(folder)  # says what is wrong
    stamps = {name: _stamp(files, name) for name in names}
    known = _read_record(folder)
    found = {name: known[name] for name in names if name in known and known[name].stamp == stamps[name]}
    fresh = _read(folder, [name for name in names if name not in found])
    drawn = random.sample(list(found), min(_NUM_REREAD, len(found)))
    for name, now in _read(folder, drawn).items():
        if now != found[name]._replace(stamp=0):
            raise InputError(
                f"{folder / name}: its content changed, but neither its size nor its times: the file is damaged; run "
                f"`zagreus shards verify {folder}`, and restore the files that it names, or remove them and run their "
                "`zagreus tokenize` again"
            )
    if fresh:
        _write_record(folder, files, stamps, {**found, **fresh})
    facts = [found[name] if name in found else fresh[name] for name in names]
    shards = [
        Shard(folder, name, fact.num_tokens, fact.num_documents, fact.token_size, fact.tokenizer)
        for name, fact in zip(names, facts, strict=True)
    ]
    return Survey(files.keys(), shards, [ShardSummary(fact.digest, fact.largest_token) for fact in facts])


def _scan(folder: Path) -> dict[str, FileState]:
    """Return size, times and inode of every file in ``folder``; none where there is no such folder.

    Hidden files come and go while others write records, and are left out. What has a name and no file behind it, such
    as a link to nowhere, is there with a state of its own: reading it says what is wrong.
    """
    files = {}
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    for entry in entries:
        try:
            stat = entry.stat()
        except FileNotFoundError:
            files[entry.name] = _NOWHERE
        else:
            files[entry.name] = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    return files


def _stamp(files: dict[str, FileState], name: str) -> int:
    """Return a number that another state of a shard's three files would not have; hashes of integers are not salted."""
    return hash((files[name], files.get(f"{name}.index"), files.get(f"{name}.metadata")))


def _read(folder: Path, names: list[str]) -> dict[str, _Facts]:
    """Return what the files of the shards say, without stamps."""
    shards = map_all(read_shard, [folder / name for name in names])
    return {
        name: _Facts(0, shard.num_tokens, shard.num_documents, shard.token_size, shard.tokenizer, *astuple(summary))
        for name, shard, summary in zip(names, shards, summarize_shards(shards), strict=True)
    }


def _read_record(folder: Path) -> dict[str, _Facts]:
    """Return what is known of each shard; nothing where the record is missing or is none."""
    try:
        record = json.loads((folder / RECORD_NAME).read_bytes())
        if record["format"] != _FORMAT:
            return {}
        return dict(zip(record["names"], map(_Facts._make, zip(*record["facts"], strict=True)), strict=True))
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_record(folder: Path, files: dict[str, FileState], stamps: dict[str, int], facts: dict[str, _Facts]) -> None:
    """Write down ``facts``, where the folder can be written; without shards whose files are too new."""
    try:
        write_whole(folder / RECORD_NAME, "{}")
        settled = (folder / RECORD_NAME).stat().st_mtime_ns - _SETTLED_NANOSECONDS  # by the file system's own clock
        names = [
            name
            for name in sorted(facts)
            if all(max(files[name + suffix][1:3]) < settled for suffix in ("", ".index", ".metadata"))
        ]
        columns = list(zip(*(facts[name]._replace(stamp=stamps[name]) for name in names), strict=True))
        write_whole(folder / RECORD_NAME, json.dumps({"format": _FORMAT, "names": names, "facts": columns}))
    except OSError:  # read-only, or another user's: the next run reads the shards again
        pass
