"""A resumed run is the run that was never interrupted, bit for bit; at another topology, its state is the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import launch, read_losses, tiny_config, write_config

from nanotron_zagreus.checkpoints.manifest import read_manifest
from nanotron_zagreus.checkpoints.model_shards import open_model_shards
from nanotron_zagreus.checkpoints.optimizer_shards import OptimizerShards

pytestmark = pytest.mark.integration

BFLOAT16 = {"model__dtype": "bfloat16", "optimizer__accumulate_grad_in_fp32": True}
DP2 = {"parallelism__dp": 2, "tokens__batch_accumulation_per_replica": 2}
LAYOUTS = {
    "dp1-bf16": (1, BFLOAT16),
    "dp1-fused": (1, {"optimizer__optimizer_factory": {"torch_adam_is_fused": True}}),
    "dp2": (2, DP2),
    "dp2-bf16-zero1": (2, {**DP2, **BFLOAT16, "optimizer__zero_stage": 1}),
    "tp2-bf16": (2, {"parallelism__tp": 2, **BFLOAT16}),
    "tp2-padded": (2, {"parallelism__tp": 2, "model__make_vocab_size_divisible_by": 35, **BFLOAT16}),
    "pp2-bf16": (2, {"parallelism__pp": 2, **BFLOAT16}),
}
# A checkpoint of the left layout, resumed at the right one.
CHANGES = [
    ("dp1-bf16", "dp2-bf16-zero1"),
    ("dp1-bf16", "tp2-bf16"),
    ("dp1-bf16", "pp2-bf16"),
    ("dp2-bf16-zero1", "dp1-bf16"),
    ("tp2-bf16", "dp1-bf16"),
    ("tp2-bf16", "dp2-bf16-zero1"),
    ("tp2-padded", "dp1-bf16"),
    ("dp1-bf16", "tp2-padded"),
    ("pp2-bf16", "tp2-bf16"),
    ("pp2-bf16", "dp1-bf16"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uninterrupted runs, their continuations from step 5, and immediate saves at other topologies."""
    root = tmp_path_factory.mktemp("resume")
    whole, rest, changed = {1: [], 2: []}, {1: [], 2: []}, {1: [], 2: []}
    for name, (processes, overrides) in LAYOUTS.items():
        for kind, extra in (
            ("whole", {}),
            ("rest", {"checkpoints__resume_checkpoint_path": str(root / f"{name}-whole/5")}),
        ):
            folder = root / f"{name}-{kind}"
            config = tiny_config(root, **overrides, **extra, checkpoints__checkpoints_path=str(folder))
            (whole if kind == "whole" else rest)[processes].append(write_config(root / f"{name}-{kind}.yaml", config))
    for before, after in CHANGES:
        processes, overrides = LAYOUTS[after]
        extra = {
            "checkpoints__resume_checkpoint_path": str(root / f"{before}-whole/5"),
            "checkpoints__checkpoints_path": str(root / f"{before}-to-{after}"),
        }
        file = write_config(root / f"{before}-to-{after}.yaml", tiny_config(root, **overrides, **extra))
        changed[processes].append(f"resave:{file}")
    for processes in (1, 2):
        launch(whole[processes], num_processes=processes)
    for processes in (1, 2):
        launch([*rest[processes], *changed[processes]], num_processes=processes)
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_resumed_run_ends_bit_for_bit_as_the_uninterrupted_one(name: str, root: Path) -> None:
    whole, rest = (
        {r["path"]: r["sha256"] for r in read_manifest(root / f"{name}-{kind}" / "10")["files"]}
        for kind in ("whole", "rest")
    )
    compared = {path for path in whole if path != "config.yaml"}  # config.yaml names the folder
    assert any(path.startswith("optimizer/") for path in compared)
    assert any(path.startswith("random/") for path in compared)
    assert {p: whole[p] for p in compared} == {p: rest[p] for p in compared}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_losses_after_a_resume_are_identical(name: str, root: Path) -> None:
    whole, rest = read_losses(root / f"{name}-whole"), read_losses(root / f"{name}-rest")
    assert list(rest) == list(range(6, 13))
    assert rest == {step: whole[step] for step in rest}


def test_the_first_step_after_a_resume_trains_at_the_scheduled_rate(root: Path) -> None:
    rows = [json.loads(line) for line in (root / "dp2-rest" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["iteration"] == 6
    assert rows[0]["lr"] == 0.01


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_topology_change_keeps_weights_masters_and_moments_bitwise(before: str, after: str, root: Path) -> None:
    old, new = root / f"{before}-whole" / "5", root / f"{before}-to-{after}" / "5"
    weights_old, weights_new = open_model_shards(old).tensors, open_model_shards(new).tensors
    assert weights_old.keys() == weights_new.keys()
    for name, stored in weights_old.items():
        assert _equal_rows(stored.read(), weights_new[name].read()), name
    states_old, states_new = OptimizerShards(old), OptimizerShards(new)
    assert states_old.names() == states_new.names() == weights_old.keys()
    assert set(states_new.adam_steps.values()) == {5}
    for name in states_old.names():
        for kind in ("exp_avg", "exp_avg_sq", "master"):
            assert _equal_rows(states_old.read_whole(kind, name), states_new.read_whole(kind, name)), (kind, name)


def _equal_rows(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Compare the rows both have; a padded vocabulary has more, which must be zero."""
    rows = min(len(a), len(b))
    return torch.equal(a[:rows], b[:rows]) and not a[rows:].any() and not b[rows:].any()
