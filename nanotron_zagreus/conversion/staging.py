"""Write a folder aside and give it its name only when it is whole.

The unfinished folder stands beside the destination as `.<name>.unfinished-<host>-<pid>`. It is removed
when the work fails or is interrupted; one left by a killed process of this host is removed by the next
attempt at the same destination.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanotron_zagreus.errors import InputError


def check_destination(destination: Path) -> None:
    """Refuse a destination that exists and is not an empty folder."""
    if destination.is_dir() and not any(destination.iterdir()):
        return
    if destination.exists() or destination.is_symlink():
        raise InputError(
            f"{destination}: exists and is not empty; nothing is overwritten, choose another folder or remove it"
        )


def check_space(destination: Path, num_bytes: int) -> None:
    """Refuse to start when the destination's file system has less than ``num_bytes`` bytes free."""
    parent = _existing_parent(destination)
    free = shutil.disk_usage(parent).free
    if free < num_bytes:
        raise InputError(f"{parent}: {free:,} bytes free, {num_bytes:,} are needed; free space or choose another disk")


@contextmanager
def staged_folder(destination: Path) -> Iterator[Path]:
    """Give a fresh folder to fill; rename it to ``destination`` when the block ends without an error."""
    check_destination(destination)
    destination = destination.absolute()
    destination.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(destination)
    aside = destination.parent / f".{destination.name}.unfinished-{socket.gethostname()}-{os.getpid()}"
    aside.mkdir()
    try:
        yield aside
        _flush(aside)
        # Renaming onto an empty folder replaces it in one step; a folder filled meanwhile makes this fail.
        aside.rename(destination)
    finally:
        if aside.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Bring every file of ``folder`` to disk, so that the rename never shows a folder of empty files."""
    for path in (*(path for path in folder.rglob("*")), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_abandoned(destination: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(destination.name)}\.unfinished-{re.escape(socket.gethostname())}-(\d+)")
    for path in destination.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match and not Path(f"/proc/{match[1]}").exists() and Path("/proc/self").exists():
            shutil.rmtree(path, ignore_errors=True)


def _existing_parent(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
