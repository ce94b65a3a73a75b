"""A run starts from another checkpoint's weights only when they are of the model that its configuration describes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanotron_zagreus.checkpoints.starting_weights import find_starting_weights
from nanotron_zagreus.cli.app import run
from nanotron_zagreus.config import load_config
from nanotron_zagreus.errors import InputError, MissingInputError
from nanotron_zagreus.training import run as training_run
from tests.integration.tiny_runs import tiny_config, write_config
from tests.unit.checkpoint_fixtures import write_descriptions
from tests.unit.conversion_fixtures import TINY, nanotron_config

ARCH = replace(
    TINY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64, max_position_embeddings=32,
)  # fmt: skip


def write_start(folder: Path, **changes: Any) -> Path:
    """Write the small files of a checkpoint; ``changes`` of None leave a key of model_config.json out."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {key: value for key, value in nanotron_config(ARCH).items() if key not in changes}
    data |= {key: value for key, value in changes.items() if value is not None}
    (folder / "model_config.json").write_text(json.dumps(data))
    (folder / "checkpoint_metadata.json").write_text(json.dumps({"version": "1.2", "tp": 5, "dp": 1}))
    return folder


def write_run(root: Path, start: Path, **overrides: Any) -> Path:
    config = tiny_config(root, **overrides)
    config["model"]["init_method"] = {"path": str(start)}
    return write_config(root / "run.yaml", config)


def find(root: Path, start: Path, **overrides: Any) -> Path | None:
    return find_starting_weights(load_config(write_run(root, start, **overrides)))


def test_the_same_model_is_accepted(tmp_path: Path) -> None:
    start = write_start(tmp_path / "start")
    assert find(tmp_path, start) == start
    assert find(tmp_path, start, model__model_config__max_position_embeddings=64) == start


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_theta", 500000.0),
        ("rms_norm_eps", 1e-2),
        ("num_key_value_heads", 4),
        ("num_attention_heads", 8),
        ("num_hidden_layers", 1),
        ("intermediate_size", 32),
        ("tie_word_embeddings", False),
        ("vocab_size", 96),
        ("vocab_size", 48),
    ],
)
def test_another_model_is_refused_with_both_values(tmp_path: Path, name: str, value: Any) -> None:
    start = write_start(tmp_path / "start")
    with pytest.raises(InputError, match=rf"init_method.*{name} is {getattr(ARCH, name)} there and {value} in"):
        find(tmp_path, start, **{f"model__model_config__{name}": value})


def test_every_difference_is_named_at_once(tmp_path: Path) -> None:
    start = write_start(tmp_path / "start", rope_theta=5e5, hidden_size=64)
    with pytest.raises(InputError, match=r"hidden_size is 64.*rope_theta is 500000"):
        find(tmp_path, start)


@pytest.mark.parametrize("stored", [True, None])
def test_interleaved_rotary_pairs_are_refused_with_the_way_out(tmp_path: Path, stored: bool | None) -> None:
    """A file without the key is of nanotron 0.4's own Llama, which interleaves."""
    start = write_start(tmp_path / "start", rope_interleaved=stored)
    with pytest.raises(InputError, match=r"interleaved.*zagreus convert.*zagreus import"):
        find(tmp_path, start)


def test_rows_may_differ_by_padding_and_by_nothing_else(tmp_path: Path) -> None:
    start = write_start(tmp_path / "start", vocab_size=65)
    # tp=5 pads 64 rows to 65, and 61 to 65 as well: which it was, only a record can tell.
    assert find(tmp_path, start) == start
    (start / "conversion.json").write_text(json.dumps({"source_vocab_size": 61}))
    with pytest.raises(InputError, match="vocab_size is 61 there and 64"):
        find(tmp_path, start)
    (start / "conversion.json").unlink()
    (start / "config.yaml").write_text("model: {make_vocab_size_divisible_by: 1, model_config: {vocab_size: 62}}")
    with pytest.raises(InputError, match="vocab_size is 62 there and 64"):
        find(tmp_path, start)
    # Upstream's config.yaml holds the padded number.
    (start / "config.yaml").write_text("model: {model_config: {vocab_size: 65}}")
    assert find(tmp_path, start) == start


def test_a_path_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"init_method\.path"):
        find(tmp_path, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="no step was ever saved"):
        find(tmp_path, tmp_path / "empty")


@pytest.mark.parametrize("theta", [None, 500000.0])
def test_training_refuses_before_the_engine_is_brought_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theta: float | None
) -> None:
    monkeypatch.setattr(training_run, "bring_up", lambda _: pytest.fail("the engine was brought up"))
    start = tmp_path / "nowhere" if theta is None else write_start(tmp_path / "start", rope_theta=theta)
    with pytest.raises(InputError, match="init_method"):
        training_run.run_training(write_run(tmp_path, start))


def test_check_refuses_another_model_and_only_remarks_a_missing_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = write_start(tmp_path / "start", rope_theta=5e5)
    assert run(["check", "--config-file", str(write_run(tmp_path, start))]) == 2
    assert "rope_theta is 500000.0 there and 10000.0" in capsys.readouterr().err
    assert run(["check", "--config-file", str(write_run(tmp_path, tmp_path / "nowhere"))]) == 0
    assert "does not exist here" in capsys.readouterr().out


def test_a_run_that_goes_on_does_not_look_at_its_start_again(tmp_path: Path) -> None:
    start = write_start(tmp_path / "start", rope_theta=5e5)
    file = write_run(tmp_path, start, checkpoints__resume_checkpoint_path="auto")
    write_descriptions(load_config(file), 5)
    assert run(["check", "--config-file", str(file)]) == 0


def test_a_hugging_face_folder_is_to_be_imported_first(tmp_path: Path) -> None:
    start = tmp_path / "hf"
    start.mkdir()
    for name in ("config.json", "model.safetensors"):
        (start / name).touch()
    with pytest.raises(MissingInputError, match=r"model\.init_method\.path.*Hugging Face folder.*zagreus import"):
        find(tmp_path, start)
