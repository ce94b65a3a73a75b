"""Upstream main against PyPI's 0.4: the same losses, the same converted model, each goes on from the other's.

Every other test that trains runs on either engine, see `conftest`; this one needs both at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import environment_without_checkout, launch, launch_environment, read_losses, tiny_config, write_config

from nanotron_zagreus.checkpoints.manifest import read_manifest
from nanotron_zagreus.conversion.record import RECORD_FILE
from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from nanotron_zagreus.resources import find_config
from tests.unit.conversion_fixtures import write_tokenizer_folder

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not os.environ.get("NANOTRON_SRC"),
        reason="needs a checkout of huggingface/nanotron: make test-main NANOTRON_SRC=<checkout>",
    ),
]

# fp32: the engines' blocks compute the same formulas; their order of operations is not promised.
TOLERANCE = 1e-5
ENGINES = ("nanotron-0.4", "nanotron-main")
TOKENS = {"model__model_config__bos_token_id": 0, "model__model_config__eos_token_id": 1}
DP2 = {"parallelism__dp": 2, "tokens__batch_accumulation_per_replica": 2}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "dp1": (1, {}),
    "dp2-zero1": (2, {**DP2, "optimizer__zero_stage": 1}),
    "tp2-kept-gather": (
        2,
        {"parallelism__tp": 2, "parallelism__tp_mode": "REDUCE_SCATTER", "parallelism__tp_recompute_allgather": False},
    ),
    "tp2-gathered-again": (2, {"parallelism__tp": 2, "parallelism__tp_mode": "REDUCE_SCATTER"}),
    "pp2": (2, {"parallelism__pp": 2}),
    # Upstream's own checks at every step, with optimizer states that are whole on each replica and with divided ones.
    "dp2-checked": (2, {**DP2, "general__ignore_sanity_checks": False}),
    "dp2-zero1-checked": (2, {**DP2, "optimizer__zero_stage": 1, "general__ignore_sanity_checks": False}),
}


def published_config(root: Path) -> dict[str, Any]:
    """Return the published YAML with the model, the data and the run length of a tiny run, all else as published."""
    tiny = tiny_config(root, **TOKENS)
    config = yaml.safe_load(find_config("smollm2/zagreus_350M_por.yaml").read_text())
    config["data_stages"][0]["data"]["dataset"]["dataset_folder"] = [str(root / "data" / name) for name in ("a", "b")]
    config["model"]["model_config"] |= tiny["model"]["model_config"]
    config["tokens"] |= tiny["tokens"]
    config["parallelism"]["dp"] = 1
    config["checkpoints"] |= tiny["checkpoints"] | {"save_final_state": True}
    config["optimizer"]["learning_rate_scheduler"] |= tiny["optimizer"]["learning_rate_scheduler"]
    config["tokenizer"]["tokenizer_name_or_path"] = "tok"
    config["zagreus"] = tiny["zagreus"]
    return config


def runs_from_scratch(root: Path, engine: str) -> Iterator[tuple[int, Path]]:
    """Write the configurations of an engine's runs from random initialisation; yield ranks and file."""
    for name, (ranks, overrides) in LAYOUTS.items():
        config = tiny_config(root, **TOKENS, **overrides)
        yield ranks, finish(root, engine, name, config)
    yield 1, finish(root, engine, "published", published_config(root))


def runs_from_the_other(root: Path, engine: str) -> Iterator[tuple[int, Path]]:
    """Write the configurations of an engine's runs from both engines' checkpoints; yield ranks and file."""
    for source in ENGINES:
        resumed = tiny_config(root, **TOKENS, checkpoints__resume_checkpoint_path=str(root / source / "dp1" / "5"))
        yield 1, finish(root, engine, f"resumed-from-{source}", resumed)
        config = tiny_config(root, **TOKENS, checkpoints__save_initial_state=True)
        config["model"]["init_method"] = {"path": str(root / source / "dp1" / "10")}
        yield 1, finish(root, engine, f"started-from-{source}", config)


def finish(root: Path, engine: str, name: str, config: dict[str, Any]) -> Path:
    """Name the engine and the checkpoints folder of a run, and write its file."""
    config["zagreus"] = {**config["zagreus"], "engine": engine}
    config["checkpoints"]["checkpoints_path"] = str(root / engine / name)
    return write_config(root / engine / f"{name}.yaml", config)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs of both engines."""
    root = tmp_path_factory.mktemp("engines")
    environments = dict(zip(ENGINES, (environment_without_checkout(), launch_environment()), strict=True))
    for runs in (runs_from_scratch, runs_from_the_other):
        for engine, environment in environments.items():
            files = list(runs(root, engine))
            for ranks in sorted({ranks for ranks, _ in files}):
                chosen = [file for needed, file in files if needed == ranks]
                launch(chosen, num_processes=ranks, environment=environment)
    return root


def worst_difference(root: Path, one: str, other: str) -> float:
    """Return the largest difference of two runs' losses over the steps that both have."""
    losses = [read_losses(root / run) for run in (one, other)]
    steps = losses[0].keys() & losses[1].keys()
    assert max(steps) == 12
    return max(abs(losses[0][step] - losses[1][step]) for step in steps)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_engines_give_the_same_losses_in_fp32(layout: str, root: Path) -> None:
    worst = worst_difference(root, f"nanotron-0.4/{layout}", f"nanotron-main/{layout}")
    print(f"{layout}: largest loss difference between the engines {worst:.2e}")
    assert worst <= TOLERANCE


def test_every_layout_on_main_gives_the_losses_of_one_process_on_the_other_engine(root: Path) -> None:
    for layout in LAYOUTS:
        assert worst_difference(root, "nanotron-0.4/dp1", f"nanotron-main/{layout}") <= TOLERANCE, layout


def test_the_published_yaml_trains_on_both_from_random_initialisation(root: Path) -> None:
    losses = read_losses(root / "nanotron-main/published")
    assert list(losses) == list(range(1, 13))
    assert losses[12] < losses[1] - 0.3
    # bf16 rounds every activation to 8 bits.
    assert worst_difference(root, "nanotron-0.4/published", "nanotron-main/published") <= 2e-2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_says_which_engine_wrote_it_in_that_engines_format(engine: str, root: Path) -> None:
    folder = root / engine / "dp1" / "10"
    assert read_manifest(folder)["engine"] == engine
    metadata = json.loads((folder / "checkpoint_metadata.json").read_text())
    assert metadata["version"] == {"nanotron-0.4": "1.2", "nanotron-main": "1.5"}[engine]
    assert metadata["metas"]["last_train_step"] == 10
    assert metadata["metas"]["consumed_train_samples"] == 80
    if engine == "nanotron-main":
        consumed = [stage["consumed_train_samples"] for stage in metadata["metas"]["data_stages"]]
        assert consumed == [48, 32]  # stage two starts at step 7 of 8 samples each
        assert metadata["metas"]["consumed_tokens_total"] == 80 * 32


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("source", ENGINES)
def test_a_run_goes_on_from_either_engines_checkpoint(engine: str, source: str, root: Path) -> None:
    whole, rest = read_losses(root / engine / "dp1"), read_losses(root / engine / f"resumed-from-{source}")
    assert list(rest) == list(range(6, 13))
    assert max(abs(rest[step] - whole[step]) for step in rest) <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_starts_from_either_engines_weights(engine: str, root: Path) -> None:
    own, other = (read_losses(root / engine / f"started-from-{source}") for source in ENGINES)
    assert own.keys() == other.keys() == set(range(1, 13))
    assert max(abs(own[step] - other[step]) for step in own) <= TOLERANCE
    assert own[1] < read_losses(root / engine / "dp1")[1] - 0.5


def test_the_same_weights_convert_to_the_same_folder_from_either_engine(root: Path, tmp_path: Path) -> None:
    """Main saves 0.4's weights before its first step; both checkpoints become the same Hugging Face folder."""
    write_tokenizer_folder(tmp_path / "tokenizer", 64)
    checkpoints = {
        "nanotron-0.4": root / "nanotron-0.4" / "dp1" / "10",
        "nanotron-main": root / "nanotron-main" / "started-from-nanotron-0.4" / "0",
    }
    folders = {}
    for engine, checkpoint in checkpoints.items():
        folders[engine] = tmp_path / engine
        record = convert_checkpoint(checkpoint, folders[engine], tmp_path / "tokenizer")
        assert record.verification is not None
    files = [{path.name for path in folder.iterdir()} for folder in folders.values()]
    assert files[0] == files[1] >= {"model.safetensors", "config.json", "tokenizer.json", "generation_config.json"}
    # The model card and the record of the conversion name checkpoint, step and time.
    for name in files[0] - {"README.md", RECORD_FILE}:
        assert (folders["nanotron-0.4"] / name).read_bytes() == (folders["nanotron-main"] / name).read_bytes(), name
