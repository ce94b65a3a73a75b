"""How a rank's process ends: with a code, and with words about what to do next."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nanotron_zagreus.errors import EXIT_FAILED
from nanotron_zagreus.training import launcher, run


def test_a_full_gpu_is_told_which_settings_need_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(run, "run_training", fill)
    assert launcher._run_rank("any.yaml", None, debug=False) == EXIT_FAILED
    told = capsys.readouterr().err
    assert "Tried to allocate 2.00 GiB" in told
    last = told.splitlines()[-1]
    assert last.startswith("zagreus: rank 0: ") and "micro_batch_size" in last and "recompute_layer: true" in last
