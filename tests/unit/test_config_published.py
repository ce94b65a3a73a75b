"""The shipped configurations are what their headers say: the card's values, and stated deviations from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanotron_zagreus.arithmetic import count_parameters
from nanotron_zagreus.config import load_config
from nanotron_zagreus.resources import resource_folder

CONFIGS = resource_folder("configs") / "smollm2"
TRAINING_FILES = sorted(path.name for path in CONFIGS.glob("zagreus_*.yaml"))

# The configuration printed on the model card of mii-llm/zagreus-0.4B-por, typed in from there.
CARD = {
    "checkpoints.checkpoint_interval": 5000,
    "checkpoints.checkpoints_path": "checkpoints_zagreus_por",
    "checkpoints.checkpoints_path_is_shared_file_system": False,
    "checkpoints.save_final_state": False,
    "checkpoints.save_initial_state": False,
    "data_stages[0].data.dataset.dataset_folder": [
        "/training/pretraining/fineweb-por/tokenized",
        "/training/pretraining/fineweb-edu-350BT/000_tokenized_output",
        "/training/pretraining/fineweb-edu-350BT/011_tokenized_output",
        "/training/pretraining/fineweb-edu-350BT/012_tokenized_output",
        "/training/pretraining/fineweb-edu-350BT/013_tokenized_output",
        "/training/pretraining/fineweb-edu-350BT/014_tokenized_output",
        "/training/pretraining/fineweb-edu-350BT/015_tokenized_output",
        "/training/pretraining/fineweb-edu-350BT/016_tokenized_output",
        "/training/pretraining/finepdf-por/000_tokenized_output",
        "/training/pretraining/starcoder_tokenized/000_tokenized_output",
    ],
    "data_stages[0].data.num_loading_workers": 0,
    "data_stages[0].data.seed": 8,
    "data_stages[0].name": "stable phase",
    "data_stages[0].start_training_step": 1,
    "general.benchmark_csv_path": None,
    "general.consumed_train_samples": None,
    "general.ignore_sanity_checks": True,
    "general.project": "zagreus",
    "general.run": "zagreus-350M-por",
    "general.seed": 8,
    "general.step": None,
    "logging.iteration_step_info_interval": 1,
    "logging.log_level": "info",
    "logging.log_level_replica": "info",
    "model.ddp_bucket_cap_mb": 100,
    "model.dtype": "bfloat16",
    "model.init_method.std": 0.03227,
    "model.make_vocab_size_divisible_by": 1,
    "model.model_config.bos_token_id": 128000,
    "model.model_config.eos_token_id": 128001,
    "model.model_config.hidden_act": "silu",
    "model.model_config.hidden_size": 960,
    "model.model_config.initializer_range": 0.02,
    "model.model_config.intermediate_size": 2560,
    "model.model_config.is_llama_config": True,
    "model.model_config.max_position_embeddings": 4096,
    "model.model_config.num_attention_heads": 15,
    "model.model_config.num_hidden_layers": 32,
    "model.model_config.num_key_value_heads": 5,
    "model.model_config.pad_token_id": None,
    "model.model_config.pretraining_tp": 1,
    "model.model_config.rms_norm_eps": 1e-05,
    "model.model_config.rope_interleaved": False,
    "model.model_config.rope_scaling": None,
    "model.model_config.rope_theta": 10000.0,
    "model.model_config.tie_word_embeddings": True,
    "model.model_config.use_cache": True,
    "model.model_config.vocab_size": 128256,
    "optimizer.accumulate_grad_in_fp32": True,
    "optimizer.clip_grad": 1.0,
    "optimizer.learning_rate_scheduler.learning_rate": 0.003,
    "optimizer.learning_rate_scheduler.lr_decay_starting_step": 750000,
    "optimizer.learning_rate_scheduler.lr_decay_steps": 50000,
    "optimizer.learning_rate_scheduler.lr_decay_style": "linear",
    "optimizer.learning_rate_scheduler.lr_warmup_steps": 4000,
    "optimizer.learning_rate_scheduler.lr_warmup_style": "linear",
    "optimizer.learning_rate_scheduler.min_decay_lr": 1e-07,
    "optimizer.optimizer_factory.adam_beta1": 0.9,
    "optimizer.optimizer_factory.adam_beta2": 0.95,
    "optimizer.optimizer_factory.adam_eps": 1e-08,
    "optimizer.optimizer_factory.name": "adamW",
    "optimizer.optimizer_factory.torch_adam_is_fused": True,
    "optimizer.weight_decay": 0.01,
    "optimizer.zero_stage": 0,
    "parallelism.dp": 64,
    "parallelism.expert_parallel_size": 1,
    "parallelism.pp": 1,
    "parallelism.pp_engine": "1f1b",
    "parallelism.recompute_layer": False,
    "parallelism.tp": 1,
    "parallelism.tp_linear_async_communication": True,
    "parallelism.tp_mode": "REDUCE_SCATTER",
    "parallelism.tp_recompute_allgather": True,
    "profiler": None,
    "tokenizer.tokenizer_max_length": None,
    "tokenizer.tokenizer_name_or_path": "meta-llama/Llama-3.2-1B",
    "tokenizer.tokenizer_revision": None,
    "tokens.batch_accumulation_per_replica": 1,
    "tokens.limit_test_batches": 0,
    "tokens.limit_val_batches": 0,
    "tokens.micro_batch_size": 4,
    "tokens.sequence_length": 4096,
    "tokens.train_steps": 2000000,
    "tokens.val_check_interval": 5000,
}


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) for every leaf; a list of plain values is one leaf."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, item in enumerate(value):
            yield from flatten(item, f"{path}[{index}]")
    else:
        yield path, value


def differences(name: str) -> dict[str, Any]:
    """Return the values of a shipped file that are not the card's; a removed one is "absent"."""
    values = dict(flatten(yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))))
    changed = {path: value for path, value in values.items() if path not in CARD or value != CARD[path]}
    return changed | {path: "absent" for path in CARD if path not in values}


def test_the_published_file_has_every_value_of_the_card_and_no_other() -> None:
    assert differences("zagreus_350M_por.yaml") == {}


@pytest.mark.parametrize(
    ("code", "run", "checkpoints"),
    [
        # The report's Italian configuration has these two names; spa and fra follow the Portuguese ones.
        ("ita", "zagreus-350M", "checkpoints_zagreus_ita_v2"),
        ("spa", "zagreus-350M-spa", "checkpoints_zagreus_spa"),
        ("fra", "zagreus-350M-fra", "checkpoints_zagreus_fra"),
    ],
)
def test_a_sibling_differs_from_the_card_in_names_only(code: str, run: str, checkpoints: str) -> None:
    folders = "data_stages[0].data.dataset.dataset_folder"
    assert differences(f"zagreus_350M_{code}.yaml") == {
        "general.run": run,
        "checkpoints.checkpoints_path": checkpoints,
        folders: [folder.replace("-por/", f"-{code}/") for folder in CARD[folders]],
    }


@pytest.mark.parametrize("code", ["spa", "fra"])
def test_an_unpublished_sibling_says_that_it_is_inferred(code: str) -> None:
    assert "Inferred" in (CONFIGS / f"zagreus_350M_{code}.yaml").read_text(encoding="utf-8").splitlines()[0]


def test_the_mixed_file_trains_the_stated_trillion_and_comments_every_deviation() -> None:
    config = load_config(CONFIGS / "zagreus_350M_por_mixed.yaml")
    schedule = config.optimizer.learning_rate_scheduler
    assert config.tokens.train_steps * config.tokens_per_step == 1_000_000_716_800  # 1T, rounded up to whole steps
    assert schedule.lr_decay_starting_step is not None and schedule.lr_decay_steps is not None
    assert schedule.lr_decay_starting_step + schedule.lr_decay_steps == config.tokens.train_steps

    lines = (CONFIGS / "zagreus_350M_por_mixed.yaml").read_text(encoding="utf-8").splitlines()
    for path in differences("zagreus_350M_por_mixed.yaml"):
        if path == "general.run":
            continue  # named after its file, as every run is
        key = path.rpartition(".")[2]
        place = next(index for index, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
        assert "#" in lines[place - 1], f"{key} deviates from the card without a reason above it"


def test_the_mixed_file_weighs_english_portuguese_and_code_as_the_card_states() -> None:
    dataset = load_config(CONFIGS / "zagreus_350M_por_mixed.yaml").data_stages[0].data.dataset
    assert dataset.weights is not None
    shares = dict.fromkeys(("por", "edu", "starcoder"), 0.0)
    for folder, weight in zip(dataset.folders, dataset.weights, strict=True):
        shares[next(name for name in shares if name in str(folder))] += weight
    assert shares == {"por": 400, "edu": 400, "starcoder": 200}


def test_the_tiny_model_stays_a_demo() -> None:
    config = load_config(CONFIGS / "zagreus_tiny.yaml")
    model = config.model.model_config
    assert count_parameters(model).total <= 1_000_000
    assert model.num_attention_heads % 2 == 0 and model.kv_heads % 2 == 0  # tp = 2 is tested on it
    assert all(not folder.is_absolute() for stage in config.data_stages for folder in stage.data.dataset.folders)


@pytest.mark.parametrize("name", TRAINING_FILES)
def test_every_shipped_file_loads_by_its_bare_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(CONFIGS / name)


def test_every_350M_file_is_one_model() -> None:
    models = {name: load_config(CONFIGS / name).model for name in TRAINING_FILES if "350M" in name}
    assert len(models) == 5
    assert all(model == models["zagreus_350M_por.yaml"] for model in models.values())
    assert count_parameters(models["zagreus_350M_por.yaml"].model_config).total == 437_760_960
