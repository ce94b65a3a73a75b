"""Train several configurations in one process group; started by `tiny_runs.launch` under torchrun.

Arguments are `FILE` or `MODE:FILE`, or `MODE:OPTION:FILE`:
    resave           resume what the file says and save at once, without a step between
    kill-points      resume, then kill a save at its write points and check what is left
    nan:STEPS@RANK   make the loss of the steps (comma-separated) NaN on one rank
    inf:STEPS@RANK   make the loss infinite and leave its gradients as they are
    drift:STEP@RANK  change a weight after a step on one rank
    fused-loss       take the loss as on a GPU, a chunk's elementwise work compiled
    uneven-masks     let each row count as many labels as its first token says, from 1 to all
    file-limit:BYTES let no file grow beyond so many bytes, as on a full disk
    bad-data:STEP@RANK  let one rank find a bad token while a save is written
    slow-then-hung:STEP@RANK  write files and validate slowly, and let a rank's data not come from a step on
    slow-save:FLAG   a save takes two minutes while the file FLAG exists, as on an overloaded file system
    late-nan:STEPS@RANK   as nan, with figures read one step late, as on a GPU
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from nanotron_zagreus.checkpoints import layout, manifest, recovery
from nanotron_zagreus.config import load_config
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.engine.launch import start_process_group
from nanotron_zagreus.training.resume_point import find_resume_point
from nanotron_zagreus.training.run import run_training


def resumed_loop(config_file: str) -> Any:
    """Return the training loop of a configuration, resumed and ready for its first step."""
    bring_up()
    start_process_group()
    from nanotron_zagreus.training.loop import TrainingLoop

    config = load_config(config_file)
    resume = find_resume_point(config)
    assert resume is not None
    return TrainingLoop(config, open_mixture(config, progress=resume.data_state), resume)


def resave(config_file: str) -> None:
    loop = resumed_loop(config_file)
    loop.saver.begin()
    loop.saver.finish()
    loop.loader.close()


def kill_at_write_points(config_file: str) -> None:
    """Save again and again in a child that is killed at another write point each time.

    The first checkpoint of a folder, one beside others, one that replaces itself, one after which others are pruned.
    """
    loop = resumed_loop(config_file)
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
        points[name] = [point for point in range(len(operations)) if is_worth_a_kill(operations, point)]
        for point in points[name]:
            start_over(before, root)
            save_in_a_child(loop, point)
            check_what_is_left(loop, steps, step, was_killed=True)
        start_over(before, root)
        save_in_a_child(loop, None)
        check_what_is_left(loop, steps, step, was_killed=False)
    (root / "points").write_text(json.dumps(points))
    loop.loader.close()


def start_over(before: Path, root: Path) -> None:
    """Make the checkpoints folder what it was before the save."""
    shutil.rmtree(root)
    shutil.copytree(before, root)


def is_worth_a_kill(operations: list[str], point: int) -> bool:
    """Whether a name changes here or beside; of making, flushing and deleting many files, every eleventh is enough."""
    near = operations[max(0, point - 1) : point + 2]
    return point % 11 == 0 or "rename" in near or "replace" in near


def save_in_a_child(loop: Any, fatal: int | None) -> list[str]:
    """Save in a fork of this process, which SIGKILL ends at a write point; return the points it came to."""
    log = loop.root.with_name("operations")
    log.write_text("")
    child = os.fork()
    if child == 0:
        seen = []

        def killing(name: str, real: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                if len(seen) == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen.append(name)
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
            log.write_text(" ".join(seen))
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status == (0 if fatal is None else signal.SIGKILL), status
    return log.read_text().split()


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


def poison(option: str, config_file: str, damage: Callable[[Any], Any] = lambda loss: loss * float("nan")) -> None:
    from nanotron_zagreus.model.zagreus import ZagreusForTraining
    from nanotron_zagreus.training.loop import ZagreusTrainer

    steps, rank = option.split("@")
    forward, run_step = ZagreusForTraining.forward, ZagreusTrainer.run_step
    current = [0]

    def counted(self: Any, step: int, batches: Any) -> Any:
        current[0] = step
        return run_step(self, step, batches)

    def poisoned(self: Any, *arguments: Any, **options: Any) -> Any:
        out = forward(self, *arguments, **options)
        if distributed.get_rank() == int(rank) and str(current[0]) in steps.split(","):
            out["loss"] = damage(out["loss"])
        return out

    ZagreusForTraining.forward, ZagreusTrainer.run_step = poisoned, counted
    try:
        run_training(config_file)
    finally:
        ZagreusForTraining.forward, ZagreusTrainer.run_step = forward, run_step


def poison_loss_alone(option: str, config_file: str) -> None:
    poison(option, config_file, lambda loss: loss + float("inf"))


def poison_late(option: str, config_file: str) -> None:
    from nanotron_zagreus.training import reports

    original = reports.reads_late
    reports.reads_late = lambda device: True
    try:
        poison(option, config_file)
    finally:
        reports.reads_late = original


def drift(option: str, config_file: str) -> None:
    from nanotron_zagreus.training.loop import ZagreusTrainer

    step, rank = option.split("@")
    original = ZagreusTrainer.run_step

    def drifting(self: Any, number: int, batches: Any) -> Any:
        result = original(self, number, batches)
        if number == int(step) and distributed.get_rank() == int(rank):
            next(self.unwrapped_model.parameters()).data.view(-1)[3] += 1e-3
        return result

    ZagreusTrainer.run_step = drifting
    run_training(config_file)


def with_uneven_masks(config_file: str) -> None:
    bring_up()
    from nanotron_zagreus.training.loop import ZagreusTrainer

    original = ZagreusTrainer.batches_on_device

    def masked(self: Any, batches: Any) -> Any:
        for batch in original(self, batches):
            length = batch["label_mask"].shape[1]
            num_kept = 1 + batch["input_ids"][:, :1] % 4 * ((length - 1) // 3)
            yield batch | {"label_mask": torch.arange(length)[None] < num_kept}

    ZagreusTrainer.batches_on_device = masked
    try:
        run_training(config_file)
    finally:
        ZagreusTrainer.batches_on_device = original


def with_fused_loss(config_file: str) -> None:
    from nanotron_zagreus.model import linear_cross_entropy, logits_chunk

    original = linear_cross_entropy.fuses_on
    linear_cross_entropy.fuses_on = lambda device: True
    try:
        run_training(config_file)
    finally:
        linear_cross_entropy.fuses_on = original
    assert not any(region.is_eager for region in logits_chunk.compiled_regions())


def with_file_limit(num_bytes: str, config_file: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(num_bytes), resource.RLIM_INFINITY))
    run_training(config_file)


def with_slow_saves(flag: str, config_file: str) -> None:
    from nanotron_zagreus.training.snapshot import Snapshot

    write = Snapshot.write

    def slow(self: Any, folder: Path, beat: Any) -> Any:
        if Path(flag).exists():
            time.sleep(120)
        return write(self, folder, beat)

    Snapshot.write = slow
    run_training(config_file)


def find_bad_data(option: str, config_file: str) -> None:
    from nanotron_zagreus.errors import WorkError
    from nanotron_zagreus.training.loop import ZagreusTrainer

    step, rank = option.split("@")
    sync, run_step = os.fsync, ZagreusTrainer.run_step

    def slow_sync(descriptor: int) -> None:
        time.sleep(0.2)
        sync(descriptor)

    def bad_token() -> Any:
        raise WorkError("x.ds: holds token 65535 in window 300")
        yield

    def checked(self: Any, number: int, batches: Any) -> Any:
        is_bad = number == int(step) and distributed.get_rank() == int(rank)
        return run_step(self, number, bad_token() if is_bad else batches)

    os.fsync, ZagreusTrainer.run_step = slow_sync, checked
    run_training(config_file)


def slow_then_hung(option: str, config_file: str) -> None:
    from nanotron_zagreus.training import validation
    from nanotron_zagreus.training.loop import ZagreusTrainer

    step, rank = option.split("@")
    sync, score, run_step = os.fsync, validation._loss_sum, ZagreusTrainer.run_step

    def slow_sync(descriptor: int) -> None:
        if distributed.get_rank() == 0:
            time.sleep(0.2)
        sync(descriptor)

    def slow_score(*arguments: Any) -> Any:
        time.sleep(1.0)
        return score(*arguments)

    def hung(self: Any, number: int, batches: Any) -> Any:
        is_hung = number == int(step) and distributed.get_rank() == int(rank)
        return run_step(self, number, (time.sleep(600) for _ in range(1)) if is_hung else batches)

    os.fsync, validation._loss_sum, ZagreusTrainer.run_step = slow_sync, slow_score, hung
    run_training(config_file)


def main() -> None:
    for argument in sys.argv[1:]:
        *mode, config_file = argument.split(":")
        if not mode:
            run_training(config_file)
        elif mode[0] == "resave":
            resave(config_file)
        elif mode[0] == "kill-points":
            kill_at_write_points(config_file)
        elif mode[0] == "uneven-masks":
            with_uneven_masks(config_file)
        elif mode[0] == "fused-loss":
            with_fused_loss(config_file)
        else:
            bring_up()
            start_process_group()
            modes = {
                "nan": poison,
                "inf": poison_loss_alone,
                "late-nan": poison_late,
                "drift": drift,
                "bad-data": find_bad_data,
                "file-limit": with_file_limit,
                "slow-save": with_slow_saves,
                "slow-then-hung": slow_then_hung,
            }
            modes[mode[0]](mode[1], config_file)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
