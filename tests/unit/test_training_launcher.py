"""How a rank's process ends: with a code, and with words about what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nanotron_zagreus.errors import EXIT_FAILED
from nanotron_zagreus.resources import find_config
from nanotron_zagreus.training import launcher, run

HALVE, RECOMPUTE, SPREAD, DIVIDE = "micro_batch_size", "recompute_layer: true", "zero_stage: 1", "parallelism.tp"


@pytest.mark.parametrize(
    ("micro_batch_size", "recompute", "zero_stage", "expected"),
    [
        (4, False, 0, {HALVE, RECOMPUTE, SPREAD}),
        (1, False, 1, {RECOMPUTE}),
        (2, True, 1, {HALVE}),
        (1, True, 1, {DIVIDE}),
    ],
)
def test_a_full_gpu_is_told_which_settings_need_less(
    micro_batch_size: int,
    recompute: bool,
    zero_stage: int,
    expected: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fill(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(run, "run_training", fill)
    data = yaml.safe_load(find_config("zagreus_350M_por.yaml").read_text())
    data["tokens"]["micro_batch_size"] = micro_batch_size
    data["parallelism"]["recompute_layer"] = recompute
    data["optimizer"]["zero_stage"] = zero_stage
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(data))
    assert launcher._run_rank(str(tmp_path / "run.yaml"), None, debug=False) == EXIT_FAILED
    told = capsys.readouterr().err
    assert "Tried to allocate 2.00 GiB" in told
    last = told.splitlines()[-1]
    assert last.startswith("zagreus: rank 0: ")
    assert {way for way in (HALVE, RECOMPUTE, SPREAD, DIVIDE) if way in last} == expected
