"""The trainer's small parts: figures, guards, random states, weight decay, outcome."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nanotron_zagreus.checkpoints.outcome import Outcome, read_outcome, write_outcome
from nanotron_zagreus.errors import InputError, WorkError
from tests.unit.data_fixtures import make_config


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (480e9, "480B"),
        (8788, "8.79K"),
        (1_048_576, "1.05M"),
        (0.003, "0.003"),
        (0, "0"),
        (999.6, "1K"),
        (1, "1"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_read_as_upstream_prints_them(engine: Any, number: float, text: str) -> None:
    from nanotron_zagreus.training.metrics import human_format

    assert human_format(number) == text


def test_the_log_line_has_upstreams_fields_in_order(engine: Any) -> None:
    from nanotron_zagreus.training.metrics import StepMetrics, log_line

    metrics = StepMetrics(
        iteration=7,
        consumed_samples=1792,
        consumed_tokens=7_340_032,
        time_per_iteration_ms=932.5,
        tokens_per_sec=1_124_000,
        tokens_per_sec_per_gpu=17_560,
        global_batch_size=1_048_576,
        grad_norm=1.25,
        lm_loss=11.76,
        lr=4.5e-6,
        model_tflops_per_gpu=72.6,
        eta_seconds=90_061,
    )
    assert log_line(metrics, 2_000_000) == (
        "iteration: 7 / 2000000 | consumed_tokens: 7.34M | time_per_iteration_ms: 932 | tokens_per_sec: 1.12M | "
        "tokens_per_sec_per_gpu: 17.6K | global_batch_size: 1.05M | grad_norm: 1.25 | lm_loss: 11.8 | lr: 4.5e-06 | "
        "model_tflops_per_gpu: 72.6 | eta: 1 day, 1:01:01"
    )


class OneGroupOptimizer:
    """Stands for the engine's wrapper around a torch optimizer."""

    def __init__(self, parameter: torch.Tensor, *, fused: bool) -> None:
        self.base = torch.optim.AdamW([parameter], lr=0.1, fused=fused)
        self.id_to_name = {id(parameter): "model.norm.weight"}

    def get_base_optimizer(self) -> torch.optim.Optimizer:
        return self.base

    def step(self) -> None:
        self.base.step()


@pytest.mark.parametrize("fused", [True, False])
def test_a_non_finite_step_touches_neither_parameters_nor_moments(engine: Any, fused: bool) -> None:
    from nanotron_zagreus.training.guards import NonFiniteGuard

    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = OneGroupOptimizer(parameter, fused=fused)
    guard = NonFiniteGuard(1)
    parameter.grad = torch.full((4,), 0.5)
    guard.step(optimizer, torch.tensor(1.0))
    kept = {key: value.clone() for key, value in optimizer.base.state[parameter].items()}
    value = parameter.detach().clone()
    for _ in range(2):
        parameter.grad = torch.full((4,), float("nan"))
        guard.step(optimizer, torch.tensor(float("nan")))
    assert torch.equal(parameter, value)
    assert all(torch.equal(optimizer.base.state[parameter][key], kept[key]) for key in kept)
    skipped = [bool(flag) for flag in guard.take_unread()]
    assert skipped == [False, True, True] and guard.num_unread == 0
    with pytest.raises(WorkError, match=r"step 3: .*zagreus replay"):
        guard.check(3, skipped)
    parameter.grad = torch.full((4,), 0.5)
    guard.step(optimizer, torch.tensor(1.0))
    assert not bool(*guard.take_unread())
    assert not torch.equal(parameter, value)


def test_an_infinite_loss_does_not_blind_the_spike_notice(engine: Any) -> None:
    from nanotron_zagreus.training.guards import SpikeNotice

    notice = SpikeNotice(1.5)
    for loss in [2.0] * 5 + [float("inf")] + [2.0] * 20:
        assert notice.see(loss) is None
    assert notice.see(4.0) == pytest.approx(2.0)


def with_trackers(checkpoints_path: Path) -> Any:
    """Return a configuration whose trackers are both switched on."""
    from nanotron_zagreus.config import load_config

    config = load_config("zagreus_tiny.yaml")
    tracking = dataclasses.replace(config.zagreus.tracking, tensorboard=True, wandb=True)
    return dataclasses.replace(
        config,
        checkpoints=dataclasses.replace(config.checkpoints, checkpoints_path=checkpoints_path),
        zagreus=dataclasses.replace(config.zagreus, tracking=tracking),
    )


def test_a_tracker_that_fails_at_the_end_keeps_no_other_open(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training import metrics

    def fail() -> None:
        raise OSError(28, "No space left on device")

    finished = []
    monkeypatch.setattr(metrics, "_open_tensorboard", lambda root: SimpleNamespace(close=fail))
    monkeypatch.setattr(metrics, "_open_wandb", lambda config: SimpleNamespace(finish=lambda: finished.append(True)))
    metrics.MetricsWriter(with_trackers(tmp_path)).close()
    assert finished == [True] and "a tracker failed at the end" in capsys.readouterr().err


def test_a_tracker_that_fails_is_given_up_and_the_figures_go_on(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training import metrics

    class Full:
        def add_scalar(self, *arguments: Any) -> None:
            raise OSError(28, "No space left on device")

    def out_of_reach(config: Any) -> Any:
        raise TimeoutError("no server")

    monkeypatch.setattr(metrics, "_open_tensorboard", lambda root: Full())
    monkeypatch.setattr(metrics, "_open_wandb", out_of_reach)
    writer = metrics.MetricsWriter(with_trackers(tmp_path))
    values = dict.fromkeys((field.name for field in dataclasses.fields(metrics.StepMetrics)), 1)
    for _ in range(2):
        writer.write(metrics.StepMetrics(**values))
    writer.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    told = capsys.readouterr().err
    assert told.count("No space left") == 1 and "wandb did not start, this run goes on without it: no server" in told


def test_figures_that_are_no_numbers_leave_lines_that_any_reader_of_json_takes(engine: Any, tmp_path: Path) -> None:
    from nanotron_zagreus.training import metrics

    stages = [{"dataset": {"dataset_folder": "anywhere"}}]
    writer = metrics.MetricsWriter(make_config(stages, checkpoints={"checkpoints_path": str(tmp_path)}))
    values = dict.fromkeys((field.name for field in dataclasses.fields(metrics.StepMetrics)), 1)
    writer.write(metrics.StepMetrics(**{**values, "lm_loss": float("nan"), "grad_norm": float("inf"), "lr": 0.5}))
    writer.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    read = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (read["lm_loss"], read["grad_norm"], read["lr"]) == (None, None, 0.5)


def test_a_start_that_fails_is_recorded_in_place_of_the_run_before(tmp_path: Path) -> None:
    from nanotron_zagreus.training.outcomes import recorded_start

    write_outcome(tmp_path, Outcome(why="stopped", step=5, checkpoint="5"))
    with (
        pytest.raises(MemoryError),
        recorded_start(tmp_path, step=5, checkpoint=tmp_path / "5", rank=3, is_leader=True),
    ):
        assert read_outcome(tmp_path).why == "running"
        raise MemoryError("CUDA out of memory")
    outcome = read_outcome(tmp_path)
    assert (outcome.why, outcome.step) == ("failed", 5)
    assert outcome.reason == "rank 3: MemoryError: CUDA out of memory"


def test_a_spike_is_noticed_after_the_warmup_and_does_not_move_the_mean(engine: Any) -> None:
    from nanotron_zagreus.training.guards import SpikeNotice

    notice = SpikeNotice(1.5)
    assert notice.see(100.0) is None
    notice = SpikeNotice(1.5)
    assert [notice.see(2.0) for _ in range(30)] == [None] * 30
    assert notice.see(3.1) == pytest.approx(2.0)
    assert notice.see(3.1) == pytest.approx(2.0)
    assert notice.see(2.9) is None
    assert SpikeNotice(None).see(1e9) is None


def test_a_checksum_changes_with_any_bit_and_with_order(engine: Any) -> None:
    from nanotron_zagreus.training.guards import checksum

    first, second = torch.randn(5), torch.randn(3).bfloat16()
    base = checksum([first, second])
    changed = first.clone()
    changed.view(torch.int32)[2] ^= 1
    assert checksum([changed, second]) != base
    assert checksum([first.flip(0), second]) != base
    assert checksum([first.clone(), second.clone()]) == base


def test_a_checksum_does_not_depend_on_how_the_tensor_is_cut(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanotron_zagreus.training import guards

    tensors = [torch.randn(11, 7), torch.randn(5).bfloat16()]
    whole = guards.checksum(tensors)
    monkeypatch.setattr(guards, "_CHECKSUM_CHUNK", 3)
    assert guards.checksum(tensors) == whole


@pytest.mark.parametrize(("sums", "named"), [([7, 8], "[0, 1]"), ([7, 8, 7], "[1]"), ([7, 7, 8, 8], "[0, 1, 2, 3]")])
def test_replicas_that_differ_are_named_and_all_of_them_without_a_majority(
    sums: list[int], named: str, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.training import guards

    class Group:
        def size(self) -> int:
            return len(sums)

    def gather(found: list[Any], mine: Any, group: Any) -> None:
        found[:] = sums if isinstance(mine, int) else [mine]

    monkeypatch.setattr(guards.distributed, "all_gather_object", gather)
    monkeypatch.setattr(guards.distributed, "get_global_rank", lambda group, number: number)
    with pytest.raises(WorkError, match=re.escape(f"ranks {named}")) as caught:
        guards.check_replicas([], Group(), 8, None)
    assert caught.value.agreed


def test_random_states_come_back(engine: Any, tmp_path: Path) -> None:
    from nanotron_zagreus.training.random_state import current_random_state, restore_random_state, write_random_state

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    write_random_state(tmp_path / "state.safetensors", current_random_state())
    first = draw()
    assert draw() != first
    restore_random_state(tmp_path / "state.safetensors")
    assert draw() == first
    (tmp_path / "state.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="damaged"):
        restore_random_state(tmp_path / "state.safetensors")


def test_excluded_parameters_get_a_group_without_decay(engine: Any) -> None:
    from nanotron_zagreus.training.optimizer_groups import exclude_from_weight_decay

    norm, weight = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2, 2))
    optimizer = OneGroupOptimizer(norm, fused=False)
    optimizer.base = torch.optim.AdamW([norm, weight], lr=0.1, weight_decay=0.5)
    optimizer.id_to_name[id(weight)] = "model.mlp.weight"
    exclude_from_weight_decay(optimizer, (r".*norm\.weight",))
    norm.grad, weight.grad = torch.zeros(2), torch.zeros(2, 2)
    optimizer.step()
    assert torch.equal(norm, torch.ones(2))
    assert torch.allclose(weight, torch.full((2, 2), 0.95))


def test_groups_that_differ_in_nothing_are_joined_in_order(engine: Any) -> None:
    from nanotron_zagreus.training.optimizer_groups import merge_equal_groups

    parameters = [torch.nn.Parameter(torch.full((2,), float(i))) for i in range(4)]
    optimizer = OneGroupOptimizer(parameters[0], fused=False)
    decays = (0.5, 0.0, 0.5, 0.0)
    groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(parameters, decays, strict=True)]
    optimizer.base = torch.optim.AdamW(groups, lr=0.1)
    merge_equal_groups(optimizer)
    joined = [[int(p[0]) for p in group["params"]] for group in optimizer.base.param_groups]
    assert joined == [[0, 2], [1, 3]]
    assert [group["weight_decay"] for group in optimizer.base.param_groups] == [0.5, 0.0]


def test_an_outcome_is_read_back_and_a_broken_one_is_none(tmp_path: Path) -> None:
    outcome = Outcome(why="stopped", step=7, checkpoint="ck/7", reason="SIGUSR1 on rank 1")
    write_outcome(tmp_path, outcome)
    assert read_outcome(tmp_path) == outcome
    assert json.loads((tmp_path / "outcome.json").read_text())["why"] == "stopped"
    (tmp_path / "outcome.json").write_text("{")
    assert read_outcome(tmp_path) is None


def test_sharded_cross_entropy_equals_the_plain_one(engine: Any) -> None:
    from torch import distributed

    from nanotron_zagreus.model.cross_entropy import cross_entropy, sharded_cross_entropy

    logits = (3 * torch.randn(20, 50)).requires_grad_()
    labels = torch.randint(0, 50, (20,))
    plain = cross_entropy(logits, labels)
    sharded = sharded_cross_entropy(logits, labels, 0, distributed.group.WORLD)
    assert (plain - sharded).abs().max() <= 1e-6
    (reference,) = torch.autograd.grad(plain.sum(), logits)
    (gradient,) = torch.autograd.grad(sharded.sum(), logits)
    assert (reference - gradient).abs().max() <= 1e-6


def test_only_rows_of_the_vocabulary_may_be_left_over_or_missing(engine: Any) -> None:
    """A stored matrix that merely begins like the model's is of another model."""
    from types import SimpleNamespace

    from nanotron_zagreus.training.loading import _fill

    class Sharded(torch.Tensor):
        is_sharded = True

        def get_sharded_info(self) -> Any:
            whole = (slice(0, 4), slice(0, 2))
            pair = SimpleNamespace(local_slices=whole, global_slices=whole)
            return SimpleNamespace(unsharded_shape=(4, 2), local_global_slices_pairs=[pair])

    def stored(name: str) -> Any:
        return SimpleNamespace(name=name, shape=(6, 2), read=lambda start, stop: torch.ones(stop - start, 2))

    param = torch.zeros(4, 2).as_subclass(Sharded)
    _fill(param, stored("model.token_position_embeddings.pp_block.token_embedding.weight"))
    assert param.eq(1).all()
    with pytest.raises(InputError, match="shape"):
        _fill(param, stored("model.decoder.0.pp_block.mlp.gate_up_proj.weight"))
