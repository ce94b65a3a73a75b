"""How a rank's process ends: with a code, and with words about what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nanotron_zagreus.checkpoints.outcome import Outcome, Why
from nanotron_zagreus.errors import EXIT_FAILED, EXIT_STOPPED
from nanotron_zagreus.resources import find_config
from nanotron_zagreus.training import launcher, run
from nanotron_zagreus.training.agent import AGENT_VARIABLE

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


@pytest.mark.parametrize(
    ("why", "environment", "code"),
    [
        ("stopped", {AGENT_VARIABLE: "1", "TORCHELASTIC_MAX_RESTARTS": "0"}, EXIT_STOPPED),
        ("stopped", {AGENT_VARIABLE: "1", "TORCHELASTIC_MAX_RESTARTS": "1"}, 0),
        ("stopped", {"TORCHELASTIC_MAX_RESTARTS": "0"}, 0),
        ("finished", {AGENT_VARIABLE: "1", "TORCHELASTIC_MAX_RESTARTS": "0"}, 0),
    ],
)
def test_ranks_say_that_they_stopped_where_torchrun_starts_none_again(
    why: Why, environment: dict[str, str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = Outcome(why=why, step=5, checkpoint=None)
    monkeypatch.setattr(run, "run_training", lambda *arguments, **options: outcome)
    monkeypatch.setattr(launcher, "_leave_process_group", lambda: None)  # it is that of all tests
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launcher._run_rank("run.yaml", None, debug=False) == code
