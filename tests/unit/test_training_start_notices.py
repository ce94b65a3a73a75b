"""What a run is told at its start, though nothing of it keeps it from training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nanotron_zagreus.training.start_notices import start_notices
from tests.unit.data_fixtures import make_config, write_source


def test_an_exception_from_weight_decay_that_matches_no_parameter_is_told_of(tmp_path: Path) -> None:
    """Patterns are matched from the start of a name: `norm` means nothing, `.*norm` the norms."""
    write_source(tmp_path / "a", [10])

    def notices(*patterns: str) -> tuple[str, ...]:
        optimizer = {"weight_decay_exclude_named_params": list(patterns)}
        return start_notices(make_config([{"dataset": {"dataset_folder": str(tmp_path / "a")}}], optimizer=optimizer),
                             goes_on=False)  # fmt: skip

    assert notices() == notices(".*norm", ".*token_embedding", r"model\.decoder\.0\..*qkv_proj") == ()
    (notice,) = notices(".*norm", "norm", "embedding")
    assert "'norm', 'embedding'" in notice and "weight_decay_exclude_named_params" in notice
    assert "model.final_layer_norm.pp_block.weight" in notice


@pytest.mark.parametrize(
    "value", [{"pad_token_id": 1000}, {"initializer_range": 0.0}, {"max_position_embeddings": 2**31}]
)
def test_what_only_a_conversion_refuses_keeps_no_run_from_going_on(value: dict[str, Any], tmp_path: Path) -> None:
    """The vocabulary has 1000 rows."""
    write_source(tmp_path / "a", [10])
    config = make_config([{"dataset": {"dataset_folder": str(tmp_path / "a")}}])
    model = dataclasses.replace(config.model.model_config, **value)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, model_config=model))
    assert start_notices(config, goes_on=True) == ()
