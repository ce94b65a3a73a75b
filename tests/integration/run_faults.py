"""What can go wrong in a run, put into it before it trains; the modes of `run_configs.py`."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.training.run import run_training


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
