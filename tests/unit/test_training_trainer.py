"""The figures that a step is reported with, and the options that the model is built with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.unit.config_fixtures import edited


def test_a_step_s_figures_follow_from_its_time_and_the_run_s_sizes(engine: Any) -> None:
    from nanotron_zagreus.training.figures import FiguresRead
    from nanotron_zagreus.training.trainer import ZagreusTrainer

    trainer: Any = SimpleNamespace(
        run=edited(tokens__train_steps=2_000_000),
        global_batch_size=256,
        sequence_length=4096,
        parallel_context=SimpleNamespace(world_pg=SimpleNamespace(size=lambda: 64)),
        _flops_per_token=4e9,
    )
    times = SimpleNamespace(mean_seconds=lambda: 0.5)
    figures: Any = SimpleNamespace(step=1_999_989, consumed_samples=1_999_989 * 256, learning_rate=0.003, times=times)
    metrics = ZagreusTrainer.step_metrics(trainer, figures, FiguresRead(loss=2.5, grad_norm=0.25, skipped=[False]))
    assert vars(metrics) == {
        "iteration": 1_999_989,
        "consumed_samples": 511_997_184,
        "consumed_tokens": 1_999_989 * 1_048_576,
        "time_per_iteration_ms": 500.0,
        "tokens_per_sec": 2_097_152.0,
        "tokens_per_sec_per_gpu": 32_768.0,
        "global_batch_size": 1_048_576,
        "grad_norm": 0.25,
        "lm_loss": 2.5,
        "lr": 0.003,
        "model_tflops_per_gpu": pytest.approx(131.072),
        "eta_seconds": 5,
    }


def test_the_parts_of_a_step_come_in_their_order(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanotron_zagreus.training import trainer as module

    notes: list[str] = []
    groups: list[dict[str, float]] = [{}, {}]

    def note(text: str, result: Any = None) -> Any:
        return lambda *_: notes.append(text) or result

    def forward(*, batch: Any, **_: Any) -> str:
        notes.append(f"train on {list(batch)}")
        return "outputs"

    monkeypatch.setattr(module, "with_token_mean", lambda batches, group: batches)
    trainer: Any = SimpleNamespace(
        run=edited(),
        iteration_step=3,
        at=lambda place: None,
        engine=SimpleNamespace(check_before_forward=note("check"), check_before_update=note("check again")),
        n_micro_batches_per_batch=2,
        pipeline_engine=SimpleNamespace(train_batch_iter=forward),
        model=None,
        grad_accumulator=None,
        parallel_context=SimpleNamespace(pp_pg=None, dp_pg=None),
        _reduce_gradients=note("reduce"),
        _mean_loss=note("mean loss", torch.tensor(2.5)),
        _clip_gradients=lambda loss: notes.append(f"clip, loss {loss}") or torch.tensor(0.25),
        optimizer=SimpleNamespace(
            get_base_optimizer=lambda: SimpleNamespace(param_groups=groups), zero_grad=note("zero gradients")
        ),
        guard=SimpleNamespace(step=lambda optimizer, norm: notes.append(f"update, norm {norm}, rates {groups}")),
    )
    outputs, loss = module.ZagreusTrainer.training_step(trainer, iter(["a", "b", "c"]))
    rate = 0.003 * 2 / 4000  # two updates of a warmup of 4,000
    assert (outputs, float(loss)) == ("outputs", 2.5)
    assert groups == [{"lr": pytest.approx(rate)}] * 2
    assert notes == [
        *("check", "train on ['a', 'b']", "reduce", "mean loss", "clip, loss 2.5", "check again"),
        f"update, norm 0.25, rates {groups}",
        "zero gradients",
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"recompute_layer": False, "cross_entropy": "chunked", "compile_blocks": False}),
        (
            {
                "parallelism__recompute_layer": True,
                "zagreus__cross_entropy": "plain",
                "zagreus__compile_blocks": True,
                "model__make_vocab_size_divisible_by": 1024,
            },
            {"recompute_layer": True, "cross_entropy": "plain", "compile_blocks": True},
        ),
    ],
)
def test_the_model_is_built_with_the_options_of_the_configuration(
    options: dict[str, Any], expected: dict[str, Any], engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.training import trainer as module

    attention = SimpleNamespace(name="sdpa", reason="the only one")
    monkeypatch.setattr(module, "agree_on_attention", lambda run, device: attention)
    monkeypatch.setattr(module, "build_training_model", lambda build, *_: build())
    monkeypatch.setattr(module, "ZagreusForTraining", lambda **arguments: arguments["options"])
    trainer: Any = SimpleNamespace(
        run=edited(**options),
        device=torch.device("cpu"),
        say=lambda text: None,
        model_config=None,
        parallel_context=None,
        config=SimpleNamespace(parallelism=None),
        random_states=None,
    )
    built = module.ZagreusTrainer._init_model_instance(trainer)
    # Rows that only a padded vocabulary has are no tokens.
    assert {name: getattr(built, name) for name in (*expected, "attention", "vocab_size")} == {
        **expected,
        "attention": "sdpa",
        "vocab_size": 128_256,
    }
