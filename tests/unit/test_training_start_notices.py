"""What a run is told at its start, though nothing of it keeps it from training."""

from __future__ import annotations

from pathlib import Path

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
