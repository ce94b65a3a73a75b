"""Upstream's main branch (huggingface/nanotron at 2411b022, April 2026)."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

from nanotron_zagreus.config import Config
from nanotron_zagreus.engine import repairs, repairs_main
from nanotron_zagreus.engine.face import Engine, Progress
from nanotron_zagreus.engine.launch import max_cuda_connections
from nanotron_zagreus.engine.translation import adam_constants, shared_sections
from nanotron_zagreus.errors import InputError


class NanotronMain(Engine):
    """5-D parallel context with context and expert parallelism, data stages, checkpoint metadata 1.5."""

    name = "nanotron-main"
    features = ("data/dataloader.py", "logging/timers.py", "scaling/parametrization.py", "metrics_logging.py")

    def prepare(self) -> None:
        # nn/attention.py, nn/rotary.py, nn/moe.py and models/qwen.py need them at their top.
        repairs.import_trainer("flash_attn", "grouped_gemm", "einops", "triton")
        repairs.repair_what_both_have()
        repairs_main.no_survey_of_libraries()
        repairs_main.no_settings_in_other_words()
        repairs_main.count_the_ranks_of_this_node()
        repairs_main.gather_on_any_device()
        repairs_main.scatter_gradients_of_any_shape()
        repairs_main.gradient_in_the_shape_of_the_input()

    def check(self, config: Config) -> None:
        connections = max_cuda_connections()
        if config.parallelism.tp > 1 and connections != "1":
            raise InputError(
                f"CUDA_DEVICE_MAX_CONNECTIONS: got {connections}, nanotron main needs 1 at parallelism.tp > 1 "
                f"(tp is {config.parallelism.tp}); unset it or set it to 1"
            )

    def translate(self, config: Config) -> dict[str, Any]:
        sections = shared_sections(config)
        parallelism = {
            "tp_recompute_allgather": config.parallelism.tp_recompute_allgather,
            "recompute_layer": config.parallelism.recompute_layer,
            "context_parallel_size": 1,
        }
        return {
            **sections,
            "parallelism": sections["parallelism"] | parallelism,
            "optimizer": sections["optimizer"] | {"optimizer_factory": {"name": "adamW", **adam_constants(config)}},
            # The trainer's constructor reads names and first steps; the data itself is ours.
            "data_stages": [
                {
                    "name": stage.name,
                    "start_training_step": stage.start_training_step,
                    "data": {"dataset": None, "seed": config.general.seed},
                }
                for stage in config.data_stages
            ],
        }

    def config_options(self, model_config_class: type) -> dict[str, Any]:
        """Return a Config whose model section builds ``model_config_class``.

        `model_config_class=` itself comes too late: config/config.py:321 has made a Qwen2Config of it by then.
        """
        from nanotron.config import Config as EngineConfig
        from nanotron.config import ModelArgs

        def __post_init__(self: Any) -> None:
            self.model_config = model_config_class(**self.model_config)
            ModelArgs.__post_init__(self)

        model_args = dataclasses.make_dataclass(
            "ModelArgs", [("model_config", dict)], bases=(ModelArgs,), namespace={"__post_init__": __post_init__}
        )
        return {"config_class": dataclasses.make_dataclass("Config", [("model", model_args)], bases=(EngineConfig,))}

    def column_linear_options(self, parallel_config: Any) -> dict[str, Any]:
        return {} if parallel_config is None else {"tp_recompute_allgather": parallel_config.tp_recompute_allgather}

    def check_before_forward(self, trainer: Any) -> None:
        from nanotron.sanity_checks import before_tbi_sanity_checks

        # sanity_checks.py:114 compares the optimizer's rate with the scheduler's: ours is set without a scheduler.
        groups = trainer.optimizer.get_base_optimizer().param_groups
        scheduler = SimpleNamespace(
            optimizer=SimpleNamespace(param_groups=groups), get_last_lr=lambda: [group["lr"] for group in groups]
        )
        # The accumulator is left out: sanity_checks.py:101 wants its buffers filled with zeros, ours are overwritten.
        before_tbi_sanity_checks(trainer.config, trainer.parallel_context, trainer.unwrapped_model, None, scheduler)

    def check_before_update(self, trainer: Any) -> None:
        from nanotron.sanity_checks import before_optim_step_sanity_checks

        # sanity_checks.py:238 compares the optimizer's state across replicas, each of which holds a part of its own
        # under ZeRO-1.
        is_divided = trainer.config.optimizer.zero_stage > 0
        optimizer = SimpleNamespace(state_dict=lambda: {"state": {}}) if is_divided else trainer.optimizer
        before_optim_step_sanity_checks(
            trainer.config, trainer.parallel_context, trainer.unwrapped_model, trainer.grad_accumulator, optimizer
        )

    def checkpoint_metadata(self, progress: Progress) -> dict[str, Any]:
        """Return TrainingMetadata of serialize/metadata.py:43; its sums are asserted when it is loaded."""
        stages = _stages(progress)
        tokens = sum(sum(stage["consumed_tokens_per_dataset_folder"].values()) for stage in stages)
        return {
            "version": "1.5",
            "tp": progress.config.parallelism.tp,
            "dp": progress.config.parallelism.dp,
            "cp": 1,
            "metas": {
                "consumed_train_samples": progress.consumed_samples,
                "last_train_step": progress.step,
                "consumed_tokens_total": tokens,
                "last_stage_idx": max(0, len(progress.stages) - 1),
                "data_stages": stages,
            },
            "custom_metas": None,
        }


def _stages(progress: Progress) -> list[dict[str, Any]]:
    """Return every stage of the run, those not begun included, with what it has consumed."""
    length = progress.config.tokens.sequence_length
    nothing: dict[str, Any] = {"samples": 0, "sources": [], "samples_per_source": []}
    records = itertools.chain(progress.stages, itertools.repeat(nothing))
    stages = []
    for stage, record in zip(progress.config.data_stages, records, strict=False):
        tokens: dict[str, int] = {}
        for source, samples in zip(record["sources"], record["samples_per_source"], strict=True):
            folder = progress.sources[str(source)]["folder"]
            tokens[folder] = tokens.get(folder, 0) + samples * length
        stages.append(
            {
                "name": stage.name,
                "start_training_step": stage.start_training_step,
                "consumed_train_samples": record["samples"],
                "sequence_length": length,
                "consumed_tokens_per_dataset_folder": tokens,
            }
        )
    return stages
