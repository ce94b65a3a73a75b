"""Our configuration in the engine's words: it loads there, and means the same."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from nanotron_zagreus.config import Config, load_config, load_config_text
from nanotron_zagreus.config.parsing import to_plain

SHIPPED = ["zagreus_350M_por", "zagreus_350M_por_mixed", "zagreus_350M_ita", "zagreus_tiny"]


def load_in_engine(config: Config) -> Any:
    from nanotron.config import get_config_from_file

    from nanotron_zagreus.engine.bringup import current
    from nanotron_zagreus.engine.translation import engine_config_file
    from nanotron_zagreus.model.config import ZagreusConfig

    with engine_config_file(current().translate(config)) as path:
        return get_config_from_file(str(path), **current().config_options(ZagreusConfig))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_loads_in_the_engine_with_the_same_values(engine: Any, name: str) -> None:
    ours = load_config(f"smollm2/{name}.yaml")
    theirs = load_in_engine(ours)
    assert theirs.global_batch_size == ours.samples_per_step
    assert theirs.model.model_config.hidden_size == ours.model.model_config.hidden_size
    assert theirs.model.model_config.rope_theta == 10000.0
    adam = getattr(theirs.optimizer, "optimizer_factory", theirs.optimizer)
    assert adam.adam_beta2 == ours.optimizer.optimizer_factory.adam_beta2
    assert theirs.optimizer.clip_grad == ours.optimizer.clip_grad
    assert theirs.parallelism.tp_linear_async_communication is False
    assert theirs.optimizer.learning_rate_scheduler.lr_warmup_steps == (
        ours.optimizer.learning_rate_scheduler.lr_warmup_steps
    )


def test_every_optional_value_may_be_absent(engine: Any) -> None:
    plain = to_plain(load_config("smollm2/zagreus_tiny.yaml"))
    schedule = plain["optimizer"]["learning_rate_scheduler"]
    for key in ("min_decay_lr", "lr_decay_steps", "lr_decay_starting_step"):
        schedule[key] = None
    plain["optimizer"]["clip_grad"] = None
    plain["model"]["model_config"]["num_key_value_heads"] = None
    plain["model"]["model_config"]["bos_token_id"] = None
    plain["profiler"] = None
    config = load_config_text(yaml.safe_dump(plain), "test")
    theirs = load_in_engine(config)
    assert (
        theirs.optimizer.learning_rate_scheduler.min_decay_lr == config.optimizer.learning_rate_scheduler.learning_rate
    )
    assert theirs.model.model_config.num_key_value_heads == config.model.model_config.num_attention_heads
