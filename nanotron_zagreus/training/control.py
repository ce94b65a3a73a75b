"""What the ranks decide together at every step: go on, save, or save and leave.

Requests come as files in the checkpoints folder (STOP, SAVE) or as signals to any rank; one small
all-reduce per step, on a CPU group, turns whatever reached one rank into the same decision on all.
"""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from nanotron_zagreus.checkpoints.layout import SAVE_FILE, STOP_FILE
from nanotron_zagreus.engine import launch
from nanotron_zagreus.training.one_warning import OneWarning
from nanotron_zagreus.training.signals import LAUNCHER_REASONS, SignalRequests


class Request(enum.IntEnum):
    """What is asked of all ranks; the strongest wins."""

    NONE = 0
    SAVE = 1
    STOP = 2


class StepControl:
    """Agrees on one request per step."""

    def __init__(self, root: Path, signals: SignalRequests, *, looks_at_files: bool) -> None:
        """Prepare; every rank calls it.

        Args:
            root: the checkpoints folder.
            signals: this rank's signal requests.
            looks_at_files: whether this rank checks the folder (one per file system does).
        """
        self._root = root
        self._signals = signals
        self._looks_at_files = looks_at_files
        self.group = distributed.new_group(backend="gloo", timeout=launch.timeout_of_groups())
        self.reason = ""
        self._carried_out: set[str] = set()
        """Request files that are still to be removed; they ask for nothing more."""
        # Where the folder is out of reach for a moment, no save has failed yet.
        self._only_warning = OneWarning(root, "request files cannot be looked for or removed")

    def agree(self, *, is_writing: bool = False) -> tuple[Request, bool]:
        """Return what all ranks do after this step, and whether any of them is still writing a checkpoint.

        Sets ``reason`` where the request came in.
        """
        request, self.reason = Request.NONE, ""
        if self._looks_at_files:
            request = self._requested_by_file()
        if self._signals.received is not None:
            request, self.reason = Request.STOP, f"{self._signals.received} on rank {distributed.get_rank()}"
        decision = torch.tensor([int(request), int(is_writing)])
        distributed.all_reduce(decision, op=distributed.ReduceOp.MAX, group=self.group)
        if int(decision[0]) != request:
            self.reason = ""  # another rank asked for more
        return Request(int(decision[0])), bool(decision[1])

    def shared_reason(self) -> str:
        """Return the first rank's reason, on every rank."""
        reasons: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(reasons, self.reason, group=self.group)
        return next((reason for reason in reasons if reason), "")

    def clear_files(self, *names: str) -> None:
        """Remove request files, once they are carried out."""
        if self._looks_at_files:
            self._carried_out.update(names or (STOP_FILE, SAVE_FILE))
            self._remove_carried_out()

    def clear_stale_files(self) -> None:
        """Remove request files that were meant for an earlier run; those written while this one started stay."""
        if not self._looks_at_files:
            return
        started_at = launch.launch_started_at()
        for name in (STOP_FILE, SAVE_FILE):
            path = self._root / name
            with self._only_warning:
                if path.exists() and path.stat().st_mtime < started_at:
                    self.clear_files(name)
                    if name not in self._carried_out:
                        print(f"zagreus: {path}: older than this run, removed", file=sys.stderr)

    def _remove_carried_out(self) -> None:
        for name in sorted(self._carried_out):
            with self._only_warning:
                (self._root / name).unlink(missing_ok=True)
                self._carried_out.remove(name)

    def _requested_by_file(self) -> Request:
        self._remove_carried_out()
        for name, request in ((STOP_FILE, Request.STOP), (SAVE_FILE, Request.SAVE)):
            with self._only_warning:
                if name not in self._carried_out and (self._root / name).exists():
                    self.reason = _launchers_reason(self._root / name) or f"file {self._root / name}"
                    return request
        return Request.NONE


def _launchers_reason(path: Path) -> str | None:
    """Return the signal that the launcher has passed on by this file, or None: somebody else made it."""
    try:
        with path.open("rb") as file:
            text = file.read(64).decode("ascii", errors="replace")
    except OSError:
        return None
    return text if text in LAUNCHER_REASONS.values() else None
