"""Train several configurations in one process group; started by `tiny_runs.launch` under torchrun.

Arguments are `FILE` or `MODE:FILE`, or `MODE:OPTION:FILE`:
    resave           resume what the file says and save at once, without a step between
    kill-points      resume, then interrupt a save at each of its write points and check what is left
    nan:STEPS@RANK   make the loss of the steps (comma-separated) NaN on one rank
    drift:STEP@RANK  change a weight after a step on one rank
    uneven-masks     let each row count as many labels as its first token says, from 1 to all
    file-limit:BYTES let no file grow beyond so many bytes, as on a full disk
    slow-then-hung:STEP@RANK  write files and validate slowly, and let a rank's data not come from a step on
    slow-save:FLAG   a save takes two minutes while the file FLAG exists, as on an overloaded file system
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.config import load_config
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.engine.launch import start_process_group
from nanotron_zagreus.training.resume_point import find_resume_point
from nanotron_zagreus.training.run import run_training


class Interrupted(BaseException):
    """Ends a save where a SIGKILL would: no error handling of the saver sees it."""


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


def interrupt_at_every_write_point(config_file: str) -> None:
    """Save step 6 again and again, interrupted one write point later each time, until a save gets through."""
    loop = resumed_loop(config_file)
    root = loop.root
    loop.trainer.iteration_step = 6
    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "mkdir")}
    points = 0
    while True:
        left = [points]

        def interrupting(name: str, left: list[int] = left) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                if left[0] == 0:
                    raise Interrupted
                left[0] -= 1
                return real[name](*arguments, **options)

            return call

        try:
            for name in real:
                setattr(os, name, interrupting(name))
            loop.saver.begin()
            loop.saver.finish()
            finished = True
        except Interrupted:
            finished = False
        finally:
            for name, function in real.items():
                setattr(os, name, function)
        loop.saver._pending = None
        newest = layout.resolve_checkpoint(root)
        manifest.verify(newest)
        for step in layout.list_steps(root):
            manifest.verify(layout.step_folder(root, step))
        assert manifest.verify(layout.step_folder(root, 5))
        if finished:
            break
        points += 1
    assert newest.name == "6"
    loop.saver.clear_leftovers(root)
    assert not [entry for entry in root.iterdir() if entry.name.startswith(".") and entry.is_dir()]
    (root / "points").write_text(str(points))
    loop.loader.close()


def poison(option: str, config_file: str) -> None:
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
            out["loss"] = out["loss"] * float("nan")
        return out

    ZagreusForTraining.forward, ZagreusTrainer.run_step = poisoned, counted
    try:
        run_training(config_file)
    finally:
        ZagreusForTraining.forward, ZagreusTrainer.run_step = forward, run_step


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
    from nanotron_zagreus.data.loader import StepLoader

    original = StepLoader._collate

    def masked(self: Any, samples: Any, files: Any) -> Any:
        batches = original(self, samples, files)
        for batch in batches:
            length = batch["label_mask"].shape[1]
            num_kept = 1 + batch["input_ids"][:, :1] % 4 * ((length - 1) // 3)
            batch["label_mask"] = torch.arange(length)[None] < num_kept
        return batches

    StepLoader._collate = masked
    try:
        run_training(config_file)
    finally:
        StepLoader._collate = original


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
            interrupt_at_every_write_point(config_file)
        elif mode[0] == "uneven-masks":
            with_uneven_masks(config_file)
        else:
            bring_up()
            start_process_group()
            modes = {"nan": poison, "drift": drift, "file-limit": with_file_limit, "slow-save": with_slow_saves}
            modes["slow-then-hung"] = slow_then_hung
            modes[mode[0]](mode[1], config_file)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
