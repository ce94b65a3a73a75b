"""The manifest of a checkpoint: what it must hold, byte for byte.

Written last, with a hash of itself; a folder without one is not ours or not whole. Upstream's checkpoints have
none, and are read without this protection. That of an import has no step: nothing was trained.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nanotron_zagreus.checkpoints.layout import (
    CONFIG_FILE,
    MANIFEST_FILE,
    METADATA_FILE,
    MODEL_CONFIG_FILE,
    replace_durably,
)
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError
from nanotron_zagreus.file_hash import hash_file

FORMAT = 2
WEIGHT_FILES = ("model/", CONFIG_FILE, MODEL_CONFIG_FILE, METADATA_FILE)
"""What a reader of the weights alone needs: for `only` of :func:`verify`."""
_MAX_MANIFEST_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file of a checkpoint."""

    path: str
    """Relative to the checkpoint's folder, with forward slashes."""
    bytes: int
    sha256: str


def records_of(folder: Path) -> list[FileRecord]:
    """Return a record of every file in ``folder``; each is read."""
    return [
        FileRecord(path=name, bytes=(folder / name).stat().st_size, sha256=hash_file(folder / name))
        for name in _files_under(folder)
    ]


def write_manifest(folder: Path, files: Iterable[FileRecord], facts: dict[str, Any]) -> None:
    """Write the manifest, durably and last.

    Args:
        folder: the checkpoint's folder.
        files: every file in it but the manifest.
        facts: step, samples, data state, topology, versions: JSON-able.
    """
    ordered = sorted((asdict(record) for record in files), key=lambda record: record["path"])
    content = {"format": FORMAT, **facts, "files": ordered}
    text = json.dumps({**content, "sha256": _own_hash(content)}, indent=1, sort_keys=True)
    replace_durably(folder / MANIFEST_FILE, text.encode())


def _own_hash(content: dict[str, Any]) -> str:
    """Return the hash of everything the manifest says but this hash, whatever the spaces and the order."""
    plain = json.loads(json.dumps({name: value for name, value in content.items() if name != "sha256"}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest's content, its paths checked.

    Raises:
        MissingInputError: there is none.
        InputError: it is no manifest, of another format, or names a path outside the folder.
        VerificationError: it was changed after it was written.
    """
    path = folder / MANIFEST_FILE
    if path.is_symlink() or not path.is_file():
        raise MissingInputError(
            f"{path}: no manifest there; the checkpoint is not whole, or it is not this project's: another Nanotron's "
            "has none"
        )
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes are too many for a manifest")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = [FileRecord(**record) for record in manifest["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable as a manifest ({error}); the checkpoint is damaged") from error
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{path}: format {manifest.get('format')!r}, this version reads {FORMAT}, whose manifest protects itself; "
            "go on with the version that wrote it, or from its weights with model.init_method.path"
        )
    for record in files:
        _refuse_outside(folder, record.path, path)
    if manifest.get("sha256") != _own_hash(manifest):
        raise VerificationError(f"checkpoint {folder} is damaged: {MANIFEST_FILE}: content differs from its own hash")
    return manifest


def verify(
    folder: Path, *, hashes: bool = True, part: tuple[int, int] = (0, 1), only: tuple[str, ...] | None = None
) -> list[FileRecord]:
    """Check the files of a checkpoint against its manifest and return the records.

    Args:
        folder: the checkpoint's folder.
        hashes: read every byte; otherwise compare sizes only.
        part: (index, count) when several processes share the reading: this one hashes every count-th file.
        only: check the recorded files whose paths start with one of these and let everything else be; None: all,
            and no file may be there that the manifest does not name.

    Raises:
        VerificationError: a file is missing, cut short, changed, or not in the manifest; all of them are named.
    """
    records = [FileRecord(**record) for record in read_manifest(folder)["files"]]
    records = [record for record in records if only is None or record.path.startswith(only)]
    index, count = part
    problems = [
        problem
        for number, record in enumerate(records)
        if (problem := _problem(folder, record, hashes and number % count == index))
    ]
    if only is None:
        known = {record.path for record in records} | {MANIFEST_FILE}
        problems += [f"{path}: not in the manifest" for path in _files_under(folder) if path not in known]
    if problems:
        raise VerificationError(f"checkpoint {folder} is damaged: {'; '.join(problems)}")
    return records


def _problem(folder: Path, record: FileRecord, hashes: bool) -> str | None:
    path = folder / record.path
    if path.is_symlink() or not path.is_file():
        return f"{record.path}: missing"
    size = path.stat().st_size
    if size != record.bytes:
        return f"{record.path}: {size} bytes, the manifest says {record.bytes}"
    try:
        is_same = not hashes or hash_file(path) == record.sha256
    except OSError as error:  # it names no file once one is open
        return f"{record.path}: cannot be read ({error.strerror})"
    return None if is_same else f"{record.path}: content differs from the manifest's hash"


def _refuse_outside(folder: Path, name: str, manifest: Path) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or "\0" in name:
        raise InputError(f"{manifest}: names {name!r}, outside the checkpoint; refused")
    # A link on the way would lead outside just the same.
    current = folder
    for part in path.parts[:-1]:
        current = current / part
        if current.is_symlink():
            raise InputError(f"{manifest}: {name!r} goes through the symbolic link {current}; refused")


def _files_under(folder: Path) -> Iterator[str]:
    for base, _, names in os.walk(folder):
        for name in names:
            yield (Path(base) / name).relative_to(folder).as_posix()
