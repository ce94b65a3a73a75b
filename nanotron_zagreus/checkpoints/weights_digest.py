"""What identifies a checkpoint's weights, wherever its folder lies: one hash over the hashes of their files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from nanotron_zagreus.checkpoints.layout import MANIFEST_FILE
from nanotron_zagreus.checkpoints.manifest import read_manifest
from nanotron_zagreus.file_hash import hash_file


def weights_digest(folder: Path) -> str:
    """Return the SHA-256 of the sorted lines that `sha256sum` prints of the files under ``model/``, in hexadecimal.

    In the folder of the step: `find model -name '*.safetensors' | xargs sha256sum | LC_ALL=C sort | sha256sum`.
    A file that the manifest names is not read: its hash stands there.
    """
    known = {}
    if (folder / MANIFEST_FILE).is_file():
        known = {record["path"]: record["sha256"] for record in read_manifest(folder)["files"]}
    lines = []
    for path in (folder / "model").rglob("*.safetensors"):
        name = path.relative_to(folder).as_posix()
        lines.append(f"{known.get(name) or hash_file(path)}  {name}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
