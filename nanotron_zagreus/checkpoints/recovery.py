"""Clean up after a run that was killed: bring back what was set aside, and remove what nobody will finish."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from nanotron_zagreus.checkpoints.layout import replaced_folder, step_folder, sync_folder

_SET_ASIDE = re.compile(r"\.replaced-([0-9]{1,12})")
_UNFINISHED_FOLDERS = (".saving-", ".replaced-", ".deleting-")
_UNFINISHED_FILES = (".latest.txt.", ".outcome.json.", ".probe-", ".node-")


def steps_set_aside(root: Path) -> list[int]:
    """Return the steps whose replacement never got their name, ascending: what :func:`restore_replaced` brings back."""
    entries = list(os.scandir(root)) if root.is_dir() else []
    matches = [_SET_ASIDE.fullmatch(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
    steps = sorted(int(match[1]) for match in matches if match)
    return [step for step in steps if not step_folder(root, step).exists()]


def restore_replaced(root: Path) -> list[int]:
    """Give steps their names back whose replacement never got them, and return these steps.

    A step that is saved again is set aside for the moment between two renames. Many processes may call this at once:
    a rename happens once, and the others find nothing to do.
    """
    restored = []
    for step in steps_set_aside(root):
        with contextlib.suppress(OSError):  # another process was faster
            replaced_folder(root, step).rename(step_folder(root, step))
            restored.append(step)
    if restored:
        sync_folder(root)
    return restored


def clear_leftovers(root: Path) -> None:
    """Remove what interrupted saves, deletions and launches left; for one process, while no save is under way."""
    restore_replaced(root)
    for entry in list(os.scandir(root)) if root.is_dir() else []:
        if entry.is_symlink():
            continue
        if entry.name.startswith(_UNFINISHED_FOLDERS):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif entry.name.startswith(_UNFINISHED_FILES) and entry.is_file():
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()
