"""Every mistake in a configuration gives one error that names the field, the value, the rule and the next action."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from nanotron_zagreus.config import Config, load_config, load_config_text
from nanotron_zagreus.config.checks import check_world_size
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.resources import find_config
from tests.unit.config_fixtures import ABSENT, PUBLISHED
from tests.unit.config_fixtures import edited_data as edited


def load(data: Any) -> Config:
    return load_config_text(yaml.safe_dump(data), origin="run.yaml")


def stage(start: Any, name: str = "stage") -> dict[str, Any]:
    return {"name": name, "start_training_step": start, "data": {"dataset": {"dataset_folder": "shards"}}}


def weighted(weights: list[float]) -> dict[str, Any]:
    return {**stage(1), "data": {"dataset": {"dataset_folder": ["a", "b"], "dataset_weights": weights}}}


MISTAKES = {
    "unknown section": (edited(tokenz={}), ["tokenz", "did you mean 'tokens'"]),
    "unknown key, near": (edited(tokens__train_step=5), ["tokens.train_step", "did you mean 'train_steps'"]),
    "unknown key, far": (edited(tokens__colour=5), ["tokens.colour", "known keys here", "sequence_length"]),
    "key of another section": (
        edited(resume_checkpoint_path="x"),
        ["resume_checkpoint_path", "it belongs at checkpoints.resume_checkpoint_path"],
    ),
    "flat adam key of nanotron 0.4": (
        edited(optimizer__adam_beta1=0.9),
        ["optimizer.adam_beta1", "it belongs at optimizer.optimizer_factory.adam_beta1"],
    ),
    "missing section": (edited(parallelism=ABSENT), ["parallelism", "missing"]),
    "missing key": (edited(tokens__train_steps=ABSENT), ["tokens.train_steps", "missing"]),
    "null where a value is needed": (edited(tokens__train_steps=None), ["tokens.train_steps", "null"]),
    "section is text": (edited(tokens="many"), ["tokens", "'many'", "section"]),
    "text for a whole number": (edited(tokens__train_steps="many"), ["tokens.train_steps", "'many'", "whole number"]),
    "1e6 for a whole number": (edited(tokens__train_steps="1e6"), ["train_steps", "'1e6'", "digits"]),
    "fraction for a whole number": (edited(tokens__train_steps=1.5), ["tokens.train_steps", "1.5", "whole number"]),
    "true for a whole number": (edited(tokens__train_steps=True), ["tokens.train_steps", "True", "whole number"]),
    "number for true": (edited(checkpoints__save_final_state=1), ["save_final_state", "1", "true or false"]),
    "text for a number": (edited(optimizer__weight_decay="small"), ["optimizer.weight_decay", "'small'", "number"]),
    "infinite number": (edited(optimizer__weight_decay=float("inf")), ["optimizer.weight_decay", "finite"]),
    "not a number": (edited(optimizer__clip_grad=float("nan")), ["optimizer.clip_grad", "finite"]),
    "number beyond 64 bits": (edited(tokens__train_steps=2**63), ["tokens.train_steps", "2^63"]),
    "list for a path": (edited(checkpoints__checkpoints_path=["a"]), ["checkpoints_path", "path"]),
    "empty path": (edited(checkpoints__checkpoints_path=""), ["checkpoints_path", "path"]),
    "tilde in a path": (edited(checkpoints__checkpoints_path="~/runs"), ["checkpoints_path", "~/runs", "expanded"]),
    "variable in a path": (edited(checkpoints__checkpoints_path="$WORK/x"), ["$WORK/x", "expanded"]),
    "bucket for a path": (edited(checkpoints__checkpoints_path="s3://b/c"), ["checkpoints_path", "s3://b/c"]),
    "unknown choice": (edited(parallelism__tp_mode="SCATTER"), ["tp_mode", "'SCATTER'", "REDUCE_SCATTER"]),
    "a level that both engines accept and then look up in vain": (
        edited(logging__log_level="passive"),
        ["logging.log_level", "'passive'", "warning"],
    ),
    "float16": (edited(model__dtype="float16"), ["model.dtype", "'float16'", "bfloat16"]),
    "zero steps": (edited(tokens__train_steps=0), ["tokens.train_steps", "0", ">= 1"]),
    "zero interval": (edited(checkpoints__checkpoint_interval=0), ["checkpoint_interval", ">= 1"]),
    "documents for a kernel that sees none": (
        edited(zagreus={"document_masking": True, "attention": "cudnn"}),
        ["zagreus.attention", "cudnn", "document_masking", "varlen"],
    ),
    "rounding what is not accumulated in fp32": (
        edited(zagreus={"gradient_reduction": "bfloat16"}, optimizer__accumulate_grad_in_fp32=False),
        ["zagreus.gradient_reduction", "accumulate_grad_in_fp32", "model.dtype"],
    ),
    "compiled collectives": (
        edited(
            zagreus={"compile_blocks": True},
            parallelism__tp=5,
            parallelism__tp_linear_async_communication=False,
            parallelism__tp_mode="ALL_REDUCE",
        ),
        ["zagreus.compile_blocks", "tp 5", "false"],
    ),
    "neither of two kinds": (
        edited(zagreus={"compile_blocks": "yes"}),
        ["zagreus.compile_blocks: got 'yes' (str), expected true or false or one of 'auto'"],
    ),
    "negative warmup": (
        edited(optimizer__learning_rate_scheduler__lr_warmup_steps=-1),
        ["lr_warmup_steps", "-1", ">= 0"],
    ),
    "zero learning rate": (
        edited(optimizer__learning_rate_scheduler__learning_rate=0),
        ["optimizer.learning_rate_scheduler.learning_rate", "0"],
    ),
    "minimum above the peak": (
        edited(optimizer__learning_rate_scheduler__min_decay_lr=0.1),
        ["min_decay_lr", "0.1", "0.003"],
    ),
    "beta of one": (edited(optimizer__optimizer_factory__adam_beta2=1.0), ["adam_beta2", "1.0"]),
    "negative weight decay": (edited(optimizer__weight_decay=-0.1), ["optimizer.weight_decay", "-0.1"]),
    "broken pattern": (
        edited(optimizer__weight_decay_exclude_named_params=["(norm"]),
        ["weight_decay_exclude_named_params", "(norm"],
    ),
    "zero stage 2": (edited(optimizer__zero_stage=2), ["optimizer.zero_stage", "2", "0 or 1"]),
    "zero clipping": (edited(optimizer__clip_grad=0.0), ["optimizer.clip_grad", "0.0", "null"]),
    "heads do not divide the width": (
        edited(model__model_config__num_attention_heads=14),
        ["model.model_config.num_attention_heads", "14", "960"],
    ),
    "odd head_dim": (
        edited(model__model_config__num_attention_heads=64, model__model_config__num_key_value_heads=64),
        ["head_dim", "960 / 64 = 15", "even"],
    ),
    "kv heads do not divide heads": (
        edited(model__model_config__num_key_value_heads=4),
        ["num_key_value_heads", "4", "15"],
    ),
    "interleaved rope": (edited(model__model_config__rope_interleaved=True), ["rope_interleaved", "true"]),
    "rope scaling": (edited(model__model_config__rope_scaling={"factor": 8}), ["rope_scaling", "factor", "null"]),
    "negative norm epsilon": (edited(model__model_config__rms_norm_eps=-1.0), ["rms_norm_eps", "-1.0"]),
    "not Llama": (edited(model__model_config__is_llama_config=False), ["is_llama_config", "true"]),
    "eos outside the vocabulary": (
        edited(model__model_config__eos_token_id=128256),
        ["model.model_config.eos_token_id", "128256", "128255"],
    ),
    "sequence longer than positions": (
        edited(tokens__sequence_length=8192),
        ["tokens.sequence_length", "8192", "max_position_embeddings 4096"],
    ),
    "fp32 parameters with fp32 accumulation": (
        edited(model__dtype="float32"),
        ["optimizer.accumulate_grad_in_fp32", "float32", "false"],
    ),
    "tp does not divide the heads": (
        edited(parallelism__tp=2, parallelism__tp_linear_async_communication=False),
        ["parallelism.tp", "15 / 2", "[1, 5]"],
    ),
    "tp does not divide the sequence": (
        edited(parallelism__tp=5, parallelism__tp_linear_async_communication=False),
        ["tokens.sequence_length", "4096 / 5", "REDUCE_SCATTER", "ALL_REDUCE"],
    ),
    "asynchronous tp": (
        edited(parallelism__tp=5, parallelism__tp_mode="ALL_REDUCE"),
        ["parallelism.tp_linear_async_communication", "true", "gradient", "false"],
    ),
    "pipeline rank without a block": (
        edited(parallelism__pp=4),
        ["parallelism.pp", "got 4", "stays empty", "[1, 2, 3]"],
    ),
    "too few micro-batches for 1f1b": (
        edited(parallelism__pp=3),
        ["tokens.batch_accumulation_per_replica", "got 1", "pp - 1 = 2", "afab"],
    ),
    "experts": (edited(parallelism__expert_parallel_size=2), ["expert_parallel_size", "2", "dense"]),
    "no stage": (edited(data_stages=[]), ["data_stages", "at least one"]),
    "first stage starts late": (
        edited(data_stages=[stage(2)]),
        ["data_stages[0].start_training_step", "got 2", "starts at 1"],
    ),
    "stages out of order": (
        edited(data_stages=[stage(1, "a"), stage(300, "b"), stage(200, "c")]),
        ["data_stages[2].start_training_step", "got 200 after 300"],
    ),
    "two stages at one step": (
        edited(data_stages=[stage(1, "a"), stage(1, "b")]),
        ["data_stages[1].start_training_step", "got 1 after 1"],
    ),
    "two stages of one name": (
        edited(data_stages=[stage(1), stage(5)]),
        ["data_stages", "2 stages are named 'stage'"],
    ),
    "stage after the end": (
        edited(data_stages=[stage(1, "a"), stage(2_000_001, "b")]),
        ["data_stages[1].start_training_step", "2000001", "2000000"],
    ),
    "wrong type deep in a stage": (
        edited(data_stages=[stage("first")]),
        ["data_stages[0].start_training_step", "'first'", "whole number"],
    ),
    "number for a folder": (
        edited(data_stages=[{**stage(1), "data": {"dataset": {"dataset_folder": [1]}}}]),
        ["data_stages[0].data.dataset.dataset_folder[0]", "path"],
    ),
    "number as a folder's name": (
        edited(data_stages=[{**stage(1), "data": {"dataset": {"dataset_folder": {1: 0.5}}}}]),
        ["data_stages[0].data.dataset.dataset_folder", "text"],
    ),
    "decay inside the warmup": (
        edited(optimizer__learning_rate_scheduler__lr_decay_starting_step=100),
        ["lr_decay_starting_step", "got 100", "4000"],
    ),
    "warmup longer than the run": (
        edited(tokens__train_steps=1000),
        ["lr_warmup_steps", "got 4000", "1000"],
    ),
    "neither warmup nor decay": (
        edited(
            optimizer__learning_rate_scheduler__lr_warmup_steps=0,
            optimizer__learning_rate_scheduler__lr_decay_steps=0,
        ),
        ["lr_decay_steps", "squares", "null"],
    ),
    "validation without windows": (
        edited(tokens__limit_val_batches=2),
        ["tokens.limit_val_batches", "zagreus.validation_windows_per_source"],
    ),
    "test batches": (edited(tokens__limit_test_batches=1), ["limit_test_batches", "1", "0"]),
    "profiler": (edited(profiler={"profiler_export_path": "x"}), ["profiler.profiler_export_path", "null"]),
    "benchmark mode": (edited(general__benchmark_csv_path="x.csv"), ["general.benchmark_csv_path", "null"]),
    "a tokenizer's revision": (edited(tokenizer__tokenizer_revision="v2"), ["tokenizer_revision", "v2", "null"]),
    "truncated documents": (edited(tokenizer__tokenizer_max_length=512), ["tokenizer_max_length", "512", "null"]),
    "no tokenizer": (edited(tokenizer__tokenizer_name_or_path=" "), ["tokenizer_name_or_path", "hub id"]),
    "run named by a path": (edited(general__run="../x"), ["general.run", "'../x'", "letters"]),
    "run with a line break": (edited(general__run="a\nb"), ["general.run", "letters"]),
    "unknown engine": (edited(zagreus__engine="megatron"), ["zagreus.engine", "'megatron'", "nanotron-0.4"]),
    "seed below numpy's": (edited(general__seed=-1), ["general.seed", "-1", "0", "4,294,967,295"]),
    "seed above numpy's": (edited(general__seed=2**32), ["general.seed", "4294967296", "4,294,967,295"]),
    "long run name": (edited(general__run="x" * 5000), ["general.run", "200", "5000"]),
    "long tokenizer name": (edited(tokenizer__tokenizer_name_or_path="x" * 5000), ["tokenizer_name_or_path", "255"]),
    "tokenizer with a line break": (edited(tokenizer__tokenizer_name_or_path="a\nb"), ["tokenizer_name", "a\\nb"]),
    "long folder name": (edited(checkpoints__checkpoints_path="a/" + "x" * 300), ["checkpoints_path", "255 bytes"]),
    "long path": (edited(checkpoints__checkpoints_path="abc/" * 1100), ["checkpoints_path", "4,096 bytes"]),
    "folder with a line break": (edited(checkpoints__checkpoints_path="a\nb"), ["checkpoints_path", "a\\nb"]),
    "a thousand million layers": (
        edited(model__model_config__num_hidden_layers=10**9),
        ["model.model_config.num_hidden_layers", "1,000,000,000", "at most 1,000"],
    ),
    "layers that pp would be tried on": (
        edited(model__model_config__num_hidden_layers=200_000, parallelism__pp=2),
        ["num_hidden_layers", "200,000", "at most 1,000"],
    ),
    "millions of heads": (
        edited(
            model__model_config__hidden_size=1_920_000_000,
            model__model_config__num_attention_heads=960_000_000,
            model__model_config__num_key_value_heads=960_000_000,
            parallelism__tp=7,
        ),
        ["model.model_config.hidden_size", "1,920,000,000", "at most 1,048,576"],
    ),
    "wide as nothing": (
        edited(model__model_config__intermediate_size=2**40),
        ["model.model_config.intermediate_size", "at most 4,194,304"],
    ),
    "vocabulary of everything": (
        edited(model__model_config__vocab_size=2**40),
        ["model.model_config.vocab_size", "at most 16,777,216"],
    ),
    "many heads over tp": (
        edited(
            model__model_config__hidden_size=2**20,
            model__model_config__num_attention_heads=2**19,
            model__model_config__num_key_value_heads=2**19,
            parallelism__tp=7,
        ),
        ["parallelism.tp", "524288 / 7"],
    ),
    "deep over pp": (
        edited(model__model_config__num_hidden_layers=1000, parallelism__pp=999),
        ["parallelism.pp", "got 999", "stays empty"],
    ),
    "pp beyond every block": (edited(parallelism__pp=10**12), ["parallelism.pp", "got 1000000000000", "[1, 2, 3]"]),
    "weights without a sum": (
        edited(data_stages=[weighted([1e308, 1e308])]),
        ["data_stages[0].data.dataset.dataset_weights", "sum", "1e+308"],
    ),
    "weighted bucket": (
        edited(data_stages=[{**stage(1), "data": {"dataset": {"dataset_folder": {"s3://b": 1.0}}}}]),
        ["data_stages[0].data.dataset.dataset_folder", "s3://b", "file systems"],
    ),
    "weighted home": (
        edited(data_stages=[{**stage(1), "data": {"dataset": {"dataset_folder": {"~/b": 1.0}}}}]),
        ["data_stages[0].data.dataset.dataset_folder", "~/b", "not expanded"],
    ),
    "two ways to begin": (
        edited(model__init_method={"std": 0.1, "path": "x"}),
        ["model.init_method", "either", "std", "path"],
    ),
    "key with a line break": (edited(**{"model__a\nb": 1}), ["model.'a\\nb'", "unknown key"]),
    "fewer validations than none": (edited(tokens__limit_val_batches=-1), ["tokens.limit_val_batches", "-1", ">= 0"]),
    "zero epochs": (edited(zagreus__max_source_epochs=0), ["zagreus.max_source_epochs", "positive"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gives_one_clear_error(name: str) -> None:
    data, key_words = MISTAKES[name]
    with pytest.raises(InputError) as caught:
        load(data)
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    assert "\n" not in message
    for word in key_words:
        assert word in message


def test_a_recipe_of_data_is_called_one() -> None:
    for language in ("por", "ita", "spa", "fra"):
        with pytest.raises(InputError, match=r"recipe.*zagreus tokenize --recipe") as caught:
            load_config(f"smollm2/data_{language}.yaml")
        assert "unknown key" not in str(caught.value)
    with pytest.raises(InputError, match="sources: unknown key"):
        load(edited(sources={}))


def test_the_unedited_file_has_no_mistake() -> None:
    assert load(PUBLISHED).parallelism.world_size == 64


def test_afab_needs_no_more_micro_batches_than_one() -> None:
    assert load(edited(parallelism__pp=3, parallelism__pp_engine="afab")).tokens.batch_accumulation_per_replica == 1


def test_a_number_without_a_dot_is_the_number_everyone_means() -> None:
    text = find_config("zagreus_350M_por.yaml").read_text(encoding="utf-8")
    for written in ("1e-5", "1E-5", "+1e-5", "0.00001"):
        changed = text.replace("rms_norm_eps: 1.0e-05", f"rms_norm_eps: {written}")
        assert changed != text
        assert load_config_text(changed, origin="run.yaml").model.model_config.rms_norm_eps == 1e-5


@pytest.mark.parametrize("text", ["nan", "inf", "1_0", "1e", "e5", "", "1e-5x", "0x10"])
def test_text_that_python_alone_would_read_as_a_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"optimizer\.weight_decay"):
        load(edited(optimizer__weight_decay=text))


@pytest.mark.parametrize("world_size", [1, 32, 63, 65, 128])
def test_a_wrong_number_of_ranks_is_refused_with_the_whole_equation(world_size: int) -> None:
    config = load(PUBLISHED)
    with pytest.raises(InputError) as caught:
        check_world_size(config, world_size)
    assert f"{world_size} ranks" in str(caught.value)
    assert "dp x tp x pp = 64 x 1 x 1 = 64" in str(caught.value)
    check_world_size(config, 64)
