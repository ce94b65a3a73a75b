"""Ties a process's life to its parent's, so that a killed launcher or torchrun leaves no rank training unseen."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""linux/prctl.h."""


def end_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Let the kernel send this process ``number`` when its parent ends; does nothing where there is no Linux.

    Args:
        number: the signal.
        parent: the parent's process id where it is known: it may have ended before this call.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)
