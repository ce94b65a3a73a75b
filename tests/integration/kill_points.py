"""Kills a save at its write points, one after another, and checks what is left; a mode of `run_configs.py`."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from torch import distributed

from nanotron_zagreus.checkpoints import layout, manifest, recovery
from nanotron_zagreus.training.resume_point import find_resume_point


def kill_at_write_points(loop: Any) -> None:
    """Save again and again in a child that is killed at another write point each time.

    The first checkpoint of a folder, one beside others, one that replaces itself, one after which others are pruned.
    """
    root, keeping = loop.root, loop.config.zagreus.checkpoints
    before = root.with_name("before")
    points = {}
    for name, steps, step, keep_last in (
        ("first", [], 5, None), ("beside", [5], 6, None), ("again", [5, 6], 6, None), ("pruning", [5, 6], 7, 1),
    ):  # fmt: skip
        object.__setattr__(keeping, "keep_last", keep_last)
        shutil.rmtree(before, ignore_errors=True)
        shutil.copytree(root, before)
        for number in layout.list_steps(before):
            if number not in steps:
                shutil.rmtree(before / str(number))
        (before / "latest.txt").unlink(missing_ok=True)
        if steps:
            layout.write_latest(before, steps[-1])
        loop.trainer.iteration_step = step
        loop.trainer.consumed_train_samples = 8 * step
        start_over(before, root)
        operations = save_in_a_child(loop, None)
        check_what_was_flushed(operations, layout.step_folder(root, step))
        points[name] = [point for point in range(len(operations)) if is_worth_a_kill(operations, point)]
        for point in points[name]:
            start_over(before, root)
            save_in_a_child(loop, point)
            check_what_is_left(loop, steps, step, was_killed=True)
        start_over(before, root)
        save_in_a_child(loop, None)
        check_what_is_left(loop, steps, step, was_killed=False)
    (root / "points").write_text(json.dumps(points))


def start_over(before: Path, root: Path) -> None:
    """Make the checkpoints folder what it was before the save."""
    shutil.rmtree(root)
    shutil.copytree(before, root)


def is_worth_a_kill(operations: list[list[str]], point: int) -> bool:
    """Whether a name changes here or beside; of making, flushing and deleting many files, every eleventh is enough."""
    near = [name for name, *_ in operations[max(0, point - 1) : point + 2]]
    return point % 11 == 0 or "rename" in near or "replace" in near


def check_what_was_flushed(operations: list[list[str]], folder: Path) -> None:
    """Check the order that a power cut asks for: files, their folders, the checkpoint's name, then latest.txt."""
    named = next(point for point, (_, *paths) in enumerate(operations) if paths[1:] == [str(folder)])
    flushed: dict[str, int] = {}
    for point, (name, *paths) in enumerate(operations[:named]):
        if name == "fsync":
            flushed[paths[0]] = point
        elif name == "replace":
            flushed[paths[1]] = flushed[paths[0]]
    aside = Path(operations[named][1])
    for path in (aside / path.relative_to(folder) for path in folder.rglob("*")):
        assert flushed[str(path)] < flushed[str(path.parent)], path
    root, latest = str(folder.parent), str(folder.parent / layout.LATEST_FILE)
    rest = [operation for operation in operations[named + 1 :] if operation[0] in ("fsync", "replace")]
    assert rest[0] == ["fsync", root]
    pointed = next(point for point, (_, *paths) in enumerate(rest) if paths[1:] == [latest])
    assert ["fsync", rest[pointed][1]] in rest[:pointed] and ["fsync", root] in rest[pointed:]


def save_in_a_child(loop: Any, fatal: int | None) -> list[list[str]]:
    """Save in a fork of this process, which SIGKILL ends at a write point; return the points it came to, with paths."""
    log = loop.root.with_name("operations")
    log.write_text("[]")
    child = os.fork()
    if child == 0:
        seen = []

        def killing(name: str, real: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                if len(seen) == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                paths = [Path(f"/proc/self/fd/{arguments[0]}").readlink()] if name == "fsync" else arguments
                seen.append([name, *map(str, paths)])
                return real(*arguments, **options)

            return call

        # The threads of the process group did not come along; a group of one needs none.
        distributed.all_gather_object = lambda found, mine, group: found.__setitem__(0, mine)
        try:
            for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
                setattr(os, name, killing(name, getattr(os, name)))
            loop.saver.begin()
            loop.saver.finish()
            loop.saver.wait_for_deletions()
            log.write_text(json.dumps(seen))
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status == (0 if fatal is None else signal.SIGKILL), status
    return json.loads(log.read_text())


def check_what_is_left(loop: Any, steps: list[int], step: int, *, was_killed: bool) -> None:
    """Start again as a run would, and check that nothing is lost, half there or left behind."""
    root = loop.root
    recovery.restore_replaced(root)
    config = dataclasses.replace(
        loop.config, checkpoints=dataclasses.replace(loop.config.checkpoints, resume_checkpoint_path=Path("auto"))
    )
    point = find_resume_point(config)
    loop.saver.clear_leftovers(root)
    assert was_killed or (point is not None and point.step == step)
    assert point is None or point.step in {step, *steps[-1:]}
    assert point is not None or not steps
    assert {*layout.list_steps(root)} >= ({point.step} if point else set())
    if loop.config.zagreus.checkpoints.keep_last is None:
        assert {*layout.list_steps(root)} >= set(steps)
    for number in layout.list_steps(root):
        manifest.verify(layout.step_folder(root, number))
    assert not [entry.name for entry in root.iterdir() if entry.name.startswith(".")]
