"""One run at a time writes a checkpoints folder: two would take each other's half-written steps away.

By a lock of the operating system, which a process that dies gives back whatever killed it. Where a file system has
no locks (Lustre mounted without them, some network shares) there is no such protection, and the run says so.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

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
    path = root / CLAIM_FILE
    with contextlib.ExitStack() as files:
        file = files.enter_context(_open(path))
        found = _lock(root, file, fcntl.LOCK_EX)
        if found is _Lock.LEFT_BEHIND:
            path.unlink(missing_ok=True)
            file = files.enter_context(_open(path))
            found = _lock(root, file, fcntl.LOCK_EX)
        if found is _Lock.MINE and file.writable():
            facts = {"process": os.getpid(), "host": os.uname().nodename, "since": time.time(), **_this_start()}
            with contextlib.suppress(OSError):  # it is the lock that counts; a full disk will be found by others
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), json.dumps(facts).encode())
        elif found is _Lock.NO_LOCKS:
            print(f"zagreus: {root}: no locks on this file system; see that no other run writes there", file=sys.stderr)
        yield


def check_unclaimed(root: Path) -> None:
    """Refuse a folder that a run is writing; it need not exist.

    Raises:
        InputError: as of :func:`claimed`.
    """
    try:
        file = (root / CLAIM_FILE).open(encoding="utf-8")
    except OSError:  # there is none, or the folder is one that will be refused for what it is
        return
    with file:
        _lock(root, file, fcntl.LOCK_SH)  # shared: all ranks of a launch look at the same moment


def current_holder(root: Path) -> str | None:
    """Describe the run that is writing ``root`` at this moment, without waiting; None where none is known of."""
    try:
        file = (root / CLAIM_FILE).open(encoding="utf-8")
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _described(_facts(file))
        except OSError:
            return None
    return None


def _open(path: Path) -> IO[str]:
    try:
        return path.open("a+", encoding="utf-8")
    except PermissionError:  # another user's of the same group: it can be locked all the same
        return path.open(encoding="utf-8")


class _Lock(enum.Enum):
    MINE = enum.auto()
    NO_LOCKS = enum.auto()
    """The file system has none."""
    LEFT_BEHIND = enum.auto()
    """By an earlier start of this Slurm job, which is over: a server may go on holding what a dead node had locked.
    Runs of one start, as in an interactive allocation, are two runs."""


def _lock(root: Path, file: IO[str], kind: int) -> _Lock:
    """Lock ``file``, waiting for half a minute.

    Raises:
        InputError: another process holds it.
    """
    deadline, has_said = time.monotonic() + _WAIT_SECONDS, False
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return _Lock.MINE
        except BlockingIOError:
            pass
        except OSError:
            return _Lock.NO_LOCKS
        holder = _facts(file)
        if time.monotonic() > deadline:
            mine = _this_start()
            if mine["job"] and holder.get("job") == mine["job"] and holder.get("start", 0) < mine["start"]:
                return _Lock.LEFT_BEHIND
            raise InputError(
                f"checkpoints.checkpoints_path: {root} is being written by another run ({_described(holder)}); stop "
                f"that one with `touch {root}/STOP`, wait for its end, or name another folder. If its node died and "
                f"the file system does not know, remove {root / CLAIM_FILE}"
            )
        if not has_said:
            text = f"waiting for the run that writes there ({_described(holder)}) to end"
            print(f"zagreus: {root}: {text}", file=sys.stderr)
            has_said = True
        time.sleep(_POLL_SECONDS)


def _this_start() -> dict[str, Any]:
    """Return the Slurm job that this is, None outside of one, and how often it was started before."""
    return {"job": os.environ.get("SLURM_JOB_ID"), "start": int(os.environ.get("SLURM_RESTART_COUNT") or 0)}


def _facts(file: IO[str]) -> dict[str, Any]:
    """Return who holds the lock, as the file says; it may be in the middle of saying it."""
    file.seek(0)
    try:
        facts = json.loads(file.read())
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _described(holder: dict[str, Any]) -> str:
    since = holder.get("since")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since)) if isinstance(since, float) else "an unknown time"
    job = f", job {holder['job']}" if holder.get("job") else ""
    return f"process {holder.get('process', 'unknown')} on {holder.get('host', 'an unknown host')}{job}, since {when}"
