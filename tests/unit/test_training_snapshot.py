"""A snapshot holds a rank's state as it was, and what a rank writes follows from its duties."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanotron_zagreus.checkpoints.manifest import hash_file
from nanotron_zagreus.checkpoints.optimizer_shards import OptimizerShards
from tests.unit.config_fixtures import edited
from tests.unit.test_gradients import build


def make_state(zero_stage: int = 0) -> Any:
    """Return the live state of a small model after one step of Adam."""
    model, _ = build(torch.float32)
    base = torch.optim.AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    base.step()
    optimizer = SimpleNamespace(
        get_base_optimizer=lambda: base, id_to_name={id(p): name for name, p in model.named_parameters()}
    )
    config = edited(optimizer__zero_stage=zero_stage)
    return SimpleNamespace(config=config, model=model, optimizer=optimizer, grad_accumulator=None)


def make_ranks(**duties: Any) -> Any:
    from nanotron_zagreus.training.ranks import RankLayout

    place = {"rank": 1, "dp": 1, "tp": 0, "pp": 0, "dp_size": 2, "tp_size": 1, "pp_size": 1, "node": 0}
    return RankLayout(**{**place, "is_leader": False, "writes_model": True, **duties})


def test_what_is_written_is_the_state_when_the_snapshot_was_taken(engine: Any, tmp_path: Path) -> None:
    from nanotron_zagreus.training.snapshot import SnapshotTaker

    state, taker = make_state(), SnapshotTaker(make_ranks())
    adam = state.optimizer.get_base_optimizer().state
    before = {
        name: (parameter.detach().clone(), adam[parameter]["exp_avg"].clone())
        for name, parameter in state.model.named_parameters()
    }
    snapshot = taker.take(state)
    for parameter in state.model.parameters():
        adam[parameter]["exp_avg"] += 1
        parameter.data += 1
    records = snapshot.write(tmp_path, lambda: None)
    assert {r.path: (r.bytes, r.sha256) for r in records} == {
        str(path.relative_to(tmp_path)): (path.stat().st_size, hash_file(path))
        for path in tmp_path.rglob("*.safetensors")
    }
    shards = OptimizerShards(tmp_path)
    assert shards.names() == before.keys() and set(shards.adam_steps.values()) == {1}
    for weight, (name, (value, moment)) in zip(snapshot.weights, before.items(), strict=True):
        assert torch.equal(weight.tensor, value), name
        assert torch.equal(shards.read_whole("exp_avg", name), moment), name
    again = taker.take(state)
    assert [w.tensor.data_ptr() for w in again.weights] == [w.tensor.data_ptr() for w in snapshot.weights]


@pytest.mark.parametrize(
    ("writes_model", "zero_stage", "optimizer"),
    [
        (True, 0, "optimizer_pp-0-of-1_tp-0-of-1"),
        (True, 1, "optimizer_pp-0-of-1_dp-1-of-2_tp-0-of-1"),
        (False, 0, None),
        (False, 1, "optimizer_pp-0-of-1_dp-1-of-2_tp-0-of-1"),
    ],
)
def test_a_replica_writes_no_weights_twice_and_its_optimizer_where_that_is_divided(
    writes_model: bool, zero_stage: int, optimizer: str | None, engine: Any
) -> None:
    from nanotron_zagreus.training.snapshot import SnapshotTaker

    snapshot = SnapshotTaker(make_ranks(writes_model=writes_model)).take(make_state(zero_stage))
    assert len(snapshot.weights) == (4 if writes_model else 0)
    assert (None if snapshot.optimizer is None else snapshot.optimizer.path.stem) == optimizer
    assert snapshot.random_path == Path("random/pp-0-of-1_dp-1-of-2_tp-0-of-1.safetensors")
