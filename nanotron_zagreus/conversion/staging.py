"""Write a folder aside and give it its name only when it is whole.

The unfinished folder stands beside the destination as `.<name>.unfinished-<host>-<pid>`. It is removed
when the work fails or is interrupted, also by SIGTERM. What processes of this host left that are dead is removed by
the next work beside it; what another host left more than a day ago is named, for only a person knows of that host.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanotron_zagreus.checkpoints.layout import sync_folder
from nanotron_zagreus.errors import InputError

_UNFINISHED = re.compile(r"\..+\.unfinished-(?P<host>.+)-(?P<pid>\d+)")
_OLD_SECONDS = 24 * 60 * 60

_log = logging.getLogger(__name__)


def check_destination(destination: Path) -> None:
    """Refuse a destination that exists and is not an empty folder."""
    if destination.is_dir() and not any(destination.iterdir()):
        return
    if destination.exists() or destination.is_symlink():
        raise InputError(
            f"{destination}: exists and is not empty; nothing is overwritten, choose another folder or remove it"
        )


def check_outside(destination: Path, source: Path) -> None:
    """Refuse a destination inside the folder that is read: what it holds must stay as it was saved."""
    if destination.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{destination}: lies inside {source}, which is being read; choose a folder outside it")


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
    # A link to an empty folder stays a link: renaming onto it would fail, after all the work.
    destination = destination.resolve()
    destination.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(destination.parent)
    aside = destination.parent / f".{destination.name}.unfinished-{socket.gethostname()}-{os.getpid()}"
    with sigterm_raised():
        aside.mkdir()
        try:
            yield aside
            _flush(aside)
            # Renaming onto an empty folder replaces it in one step; a folder filled meanwhile makes this fail.
            aside.rename(destination)
        finally:
            if aside.exists():
                shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def sigterm_raised() -> Iterator[None]:
    """Let SIGTERM raise SystemExit in the block, so that what it was writing is cleared away.

    Without this the process just ends. Whoever handles or ignores the signal already goes on doing so, and only a
    process's main thread can be told of signals.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, _: object) -> None:
        # A second one must not interrupt the clearing.
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _flush(folder: Path) -> None:
    """Bring every file of ``folder`` to disk, so that the rename never shows a folder of empty files."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _clear_leftovers(parent: Path) -> None:
    """Remove what dead processes of this host left in ``parent``, and name what other hosts left long ago."""
    can_tell = Path("/proc/self").exists()
    for path in parent.iterdir():
        match = _UNFINISHED.fullmatch(path.name)
        if not match:
            continue
        if match["host"] == socket.gethostname():
            if can_tell and not Path(f"/proc/{match['pid']}").exists():
                shutil.rmtree(path, ignore_errors=True)
        elif time.time() - path.stat().st_mtime > _OLD_SECONDS:
            _log.warning("%s: begun on %s more than a day ago; remove it if nothing runs there", path, match["host"])


def _existing_parent(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
