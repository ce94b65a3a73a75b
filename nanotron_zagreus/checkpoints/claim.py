"""One run at a time writes a checkpoints folder: two would take each other's half-written steps away.

By a lock of the operating system, which a process that dies gives back whatever killed it. Where a file system has
no locks (Lustre mounted without them, some network shares) there is no such protection, and the run says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nanotron_zagreus.checkpoints.layout import CLAIM_FILE
from nanotron_zagreus.errors import InputError

_WAIT_SECONDS = 30.0
"""For the ranks of a launch that was just killed, which end a moment after it."""
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def claimed(root: Path) -> Iterator[None]:
    """Hold ``root``, which exists, while the context is open; for one process of a run and folder.

    Raises:
        InputError: another run holds it, and goes on holding it for half a minute.
    """
    with (root / CLAIM_FILE).open("a+", encoding="utf-8") as file:
        if _lock(root, file, fcntl.LOCK_EX):
            file.truncate(0)
            file.write(json.dumps({"process": os.getpid(), "host": os.uname().nodename, "since": time.time()}))
            file.flush()
        else:
            print(f"zagreus: {root}: no locks on this file system; see that no other run writes there", file=sys.stderr)
        yield


def check_unclaimed(root: Path) -> None:
    """Refuse a folder that a run is writing; it need not exist.

    Raises:
        InputError: as of :func:`claimed`.
    """
    with contextlib.suppress(FileNotFoundError), (root / CLAIM_FILE).open(encoding="utf-8") as file:
        _lock(root, file, fcntl.LOCK_SH)  # shared: all ranks of a launch look at the same moment


def _lock(root: Path, file: IO[str], kind: int) -> bool:
    """Lock ``file``; False where the file system has no locks.

    Raises:
        InputError: another process holds it.
    """
    deadline, has_said = time.monotonic() + _WAIT_SECONDS, False
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InputError(
                    f"checkpoints.checkpoints_path: {root} is being written by another run ({_holder(file)}); stop "
                    f"that one with `touch {root}/STOP`, wait for its end, or name another folder"
                ) from None
        except OSError:
            return False
        if not has_said:
            print(f"zagreus: {root}: waiting for the run that writes there ({_holder(file)}) to end", file=sys.stderr)
            has_said = True
        time.sleep(_POLL_SECONDS)


def _holder(file: IO[str]) -> str:
    """Return who holds the lock, as the file says."""
    file.seek(0)
    try:
        facts = json.loads(file.read())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["since"]))
        return f"process {facts['process']} on {facts['host']}, since {since}"
    except (ValueError, KeyError, TypeError):
        return "it has not said who it is"
