"""Name the files that an attempt at a task is still writing, and remove those of attempts that are over.

Two attempts at one task may run at a time: a job array submitted again while the first one runs, or the same
command on two machines. Each writes files of its own and renames them when they are complete.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path

_ABANDONED_SECONDS = 3 * 24 * 3600
"""A file that nothing was written to for so long belongs to nobody, wherever it was begun."""
_MARK = re.compile(r"~(?P<host>[^~]+)~(?P<pid>\d+)~[0-9a-f]{8}")


def attempt_mark() -> str:
    """Return a mark for file names that no other attempt has: host, process, and a random part."""
    return f"~{_this_host()}~{os.getpid()}~{os.urandom(4).hex()}"


def remove_abandoned(files: Iterable[Path]) -> None:
    """Remove those of ``files`` whose attempt is over: its process on this host is gone, or they are days old."""
    for path in files:
        if _is_over(path):
            path.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Make ``path`` hold ``text``, whole or not at all, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}{attempt_mark()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _is_over(path: Path) -> bool:
    mark = _MARK.search(path.name)
    if mark is not None and mark["host"] == _this_host():
        return not _is_running(int(mark["pid"]))
    try:
        return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
    except FileNotFoundError:
        return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def _this_host() -> str:
    """Return this host's name and its table of processes: in a container the same number is another process."""
    try:
        processes = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        processes = 0
    return f"{socket.gethostname().replace('~', '-').replace('/', '-')}+{processes}"
