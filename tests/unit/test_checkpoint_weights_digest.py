"""One hash identifies a checkpoint's weights: the same with and without a manifest, another for other weights."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from nanotron_zagreus.checkpoints import weights_digest as module
from nanotron_zagreus.checkpoints.manifest import FileRecord, write_manifest
from nanotron_zagreus.checkpoints.weights_digest import weights_digest
from nanotron_zagreus.file_hash import hash_file
from tests.unit.conversion_fixtures import write_checkpoint


def test_it_is_what_sha256sum_makes_of_the_weight_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "20", tp=5)
    files = sorted(path for path in (tmp_path / "20/model").rglob("*.safetensors"))
    lines = sorted(f"{hash_file(path)}  {path.relative_to(tmp_path / '20').as_posix()}\n" for path in files)
    assert weights_digest(tmp_path / "20") == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_it_does_not_depend_on_the_folder_and_differs_for_other_weights(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "20")
    shutil.copytree(tmp_path / "20", tmp_path / "elsewhere/40")
    write_checkpoint(tmp_path / "other", seed=1)
    assert weights_digest(tmp_path / "20") == weights_digest(tmp_path / "elsewhere/40")
    assert weights_digest(tmp_path / "20") != weights_digest(tmp_path / "other")


def test_what_a_manifest_names_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "20"
    write_checkpoint(folder)
    without = weights_digest(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    records = [
        FileRecord(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=hash_file(path))
        for path in files
    ]
    # A file of another node, copied here, which this node's manifest does not name.
    last = max(record.path for record in records if record.path.endswith(".safetensors"))
    write_manifest(folder, [record for record in records if record.path != last], {})
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr(module, "hash_file", counted)
    assert weights_digest(folder) == without
    assert read == [folder / last]
