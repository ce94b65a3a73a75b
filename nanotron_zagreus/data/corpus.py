"""Find the files that hold text, and divide them among tasks by bytes.

Inputs are files, folders (searched through, links followed), patterns with `*` unless something has that very name,
or URLs that fsspec knows such as `hf://datasets/HuggingFaceFW/fineweb-2/data/por_Latn/train`; or one dataset id on the
hub. Parquet, JSON lines (plain, gzip, zstd) and the Arrow files of a Hugging Face dataset folder are read. Reading is
`corpus_reader`.
"""

from __future__ import annotations

import heapq
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanotron_zagreus.data.tokenizer_identity import RECORD_NAME
from nanotron_zagreus.errors import InputError, MissingInputError

Format = Literal["parquet", "jsonl", "arrow"]

_SUFFIXES: dict[str, tuple[Format, str | None]] = {
    ".parquet": ("parquet", None),
    ".arrow": ("arrow", None),
    ".jsonl": ("jsonl", None),
    ".ndjson": ("jsonl", None),
    ".jsonl.gz": ("jsonl", "gzip"),
    ".json.gz": ("jsonl", "gzip"),
    ".jsonl.zst": ("jsonl", "zstd"),
    ".json.zst": ("jsonl", "zstd"),
}
_PLAIN_TEXT = 'plain text goes into a .jsonl, a line {"text": "…"} for each document'
_UNREAD = re.compile(r"\.(jsonl?|ndjson|parquet|arrow|txt|text|csv|tsv|warc|wet)(\.\w+)?$", re.IGNORECASE)
"""Ends of names that promise text; asked of what is not in :data:`_SUFFIXES`."""
_NO_TEXT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json", RECORD_NAME}
"""What lies beside a dataset's data, or beside shards."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]*){0,2}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusFile:
    """One file of documents."""

    path: str
    """An absolute path, or a URL."""
    num_bytes: int
    format: Format
    compression: str | None


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the Hugging Face hub, streamed through `datasets`."""

    name: str
    config: str | None
    split: str

    @classmethod
    def parse(cls, text: str) -> HubDataset | None:
        """Read `owner/name[:config[:split]]`; None when ``text`` is a path or URL, or of no such form.

        Below a folder that exists here a path is meant, also a mistyped one: the hub is not asked for it.
        """
        is_path = text.startswith((".", "/")) or Path(text).exists() or Path(text.partition("/")[0]).is_dir()
        if "://" in text or is_path or not _HUB_ID.fullmatch(text):
            return None
        name, _, rest = text.partition(":")
        config, _, split = rest.partition(":")
        return cls(name, config or None, split or "train")


def find_files(inputs: Sequence[str]) -> list[CorpusFile]:
    """Return the files that ``inputs`` name, each once, ordered by path.

    Raises:
        MissingInputError: an input does not exist, or holds no file in a known format.
        InputError: an input is a dataset of several splits, or a file in no known format.
    """
    files: dict[str, CorpusFile] = {}
    contents: set[str] = set()
    for name in inputs:
        found = _find(name)
        if not found:
            raise MissingInputError(
                f"--input: {name} holds no text, expected files ending in {', '.join(_SUFFIXES)}; check the path "
                f"({_PLAIN_TEXT})"
            )
        for file in sorted(found, key=lambda file: file.path):
            content = file.path if "://" in file.path else os.path.realpath(file.path)
            if content not in contents:
                contents.add(content)
                files[file.path] = file
    return [files[path] for path in sorted(files)]


def divide_files(files: Sequence[CorpusFile], num_tasks: int) -> list[list[CorpusFile]]:
    """Return ``files`` in ``num_tasks`` lists of about equal bytes: the largest first, each to the emptiest list.

    No list is heavier than 4/3 of the lightest possible division (Graham 1969). Within a list files stay in order.
    """
    tasks: list[list[CorpusFile]] = [[] for _ in range(num_tasks)]
    heap = [(0, 0, index) for index in range(num_tasks)]
    for file in sorted(files, key=lambda file: (-file.num_bytes, file.path)):
        num_bytes, num_files, index = heapq.heappop(heap)
        tasks[index].append(file)
        heapq.heappush(heap, (num_bytes + file.num_bytes, num_files + 1, index))
    return [sorted(task, key=lambda file: file.path) for task in tasks]


def check_text_column(file: CorpusFile, column: str) -> None:
    """Refuse a text column that ``file`` does not have, naming those it has.

    Raises:
        InputError: also when the file cannot be read at all.
    """
    try:
        columns = _columns(file)
    except Exception as error:  # any reader may complain in any way about a damaged file
        raise InputError(f"--input: {file.path} cannot be read ({error}); remove or replace it") from error
    if columns and column not in columns:
        raise InputError(f"--text-column: {file.path} has no {column!r}; it has {', '.join(columns)}")


def _find(name: str) -> list[CorpusFile]:
    from fsspec.core import url_to_fs

    is_pattern = _has_magic(name) and ("://" in name or not Path(name).exists())
    if "://" not in name and not is_pattern:
        if not Path(name).exists():
            raise MissingInputError(f"--input: {name} does not exist; give a file, a folder, a pattern, or a URL")
        name = _resolve_folder(name)
        if (Path(name) / "dataset_dict.json").is_file():
            splits = ", ".join(sorted(entry.name for entry in Path(name).iterdir() if entry.is_dir()))
            raise InputError(f"--input: {name} is a dataset of the splits {splits}; name one of its folders")
        if Path(name).is_file() and _kind(name) is None:
            raise InputError(
                f"--input: {name} is in no known format, expected one of {', '.join(_SUFFIXES)}; {_PLAIN_TEXT}"
            )
    fs, path = url_to_fs(name)
    try:
        listed = _list(fs, fs.glob(path) if is_pattern else [path])
    except Exception as error:  # every file system has its own; the hub's are those of its HTTP library
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MissingInputError(
            f"--input: {name} cannot be listed ({reason}); check the name, the network, and access to a gated dataset"
        ) from error
    files = [
        CorpusFile(_address(fs, path, name), int(size), *kind)
        for path, size in listed
        if (kind := _kind(path)) is not None
    ]
    unread = sorted(path for path, _ in listed if _is_unread(path))
    if files and unread:
        some = f"{len(unread)} files in no known format, first {unread[0]}"
        _log.warning("--input: %s: %s, are left out; read are %s", name, some, ", ".join(_SUFFIXES))
    return files


def _list(fs: Any, roots: Sequence[str]) -> list[tuple[str, int]]:
    """Return path and bytes of every file at or under ``roots``."""
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(fs, LocalFileSystem):
        return [(str(found), found.stat().st_size) for root in roots for found in _walk(Path(root))]
    found = []
    for root in roots:
        entries = fs.find(root, detail=True)
        found += [(entry["name"], entry["size"]) for entry in entries.values() if entry["type"] == "file"]
    return found


def _walk(root: Path) -> Iterator[Path]:
    """Yield the files of documents at or below ``root``; links are followed, each folder is entered once."""
    if not root.is_dir():
        yield root
        return
    entered = {root.resolve()}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if RECORD_NAME in names and "logs" in subfolders:
            subfolders.remove("logs")  # of shards made here: their tasks' lists of failures are no text
        new = {name: Path(folder, name).resolve() for name in sorted(subfolders)}
        subfolders[:] = {place: name for name, place in new.items() if place not in entered}.values()
        entered.update(new.values())
        for path in (Path(folder, name) for name in names):
            if _is_unread(path.name) and path.exists():
                yield path
        for path in (Path(folder, name) for name in names if _kind(name) is not None):
            if not path.exists():
                raise FileNotFoundError(f"{path} is a link to nothing; fetch its file again, or remove the link")
            yield path


def _resolve_folder(name: str) -> str:
    """Return an absolute path in which links to folders are resolved; a file keeps its name, which tells its format."""
    path = Path(name)
    return str(path.resolve() if path.is_dir() else path.parent.resolve() / path.name)


def _kind(path: str) -> tuple[Format, str | None] | None:
    """Return a file's format and compression by its name; None: not a file of documents."""
    name = path.rsplit("/", 1)[-1]
    if name.startswith("."):
        return None
    if name.startswith(("cache-", "tmp")) and name.endswith(".arrow"):  # what `datasets` keeps beside a dataset's data
        return None
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)


def _is_unread(path: str) -> bool:
    """Tell whether a file holds text by its name, in a format that is not read."""
    name = path.rsplit("/", 1)[-1]
    is_other = name.startswith((".", "cache-", "tmp")) or name in _NO_TEXT or _kind(name) is not None
    return not is_other and _UNREAD.search(name) is not None


def _address(fs: Any, path: str, name: str) -> str:
    return fs.unstrip_protocol(path) if "://" in name else _resolve_folder(path)


def _has_magic(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _columns(file: CorpusFile) -> list[str]:
    """Return the names of a file's columns; of JSON lines those of the first line, none if it is empty."""
    from nanotron_zagreus.data.corpus_reader import open_arrow, open_bytes, open_lines

    with open_bytes(file.path) as raw:
        if file.format == "parquet":
            import pyarrow.parquet as pq

            return list(pq.ParquetFile(raw).schema_arrow.names)
        if file.format == "arrow":
            return list(open_arrow(raw).schema.names)
        import orjson

        with open_lines(raw, file.compression) as lines:
            first = next((line for line in lines if line.strip()), None)
        record = orjson.loads(first) if first else {}
        if not isinstance(record, dict):
            raise ValueError("its first line is no JSON object, but " + type(record).__name__)
        return list(record)
