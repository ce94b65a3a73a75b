"""PyPI's nanotron 0.4 (March 2024): the only release that pip installs."""

from __future__ import annotations

from typing import Any

from nanotron_zagreus.config import Config
from nanotron_zagreus.engine import repairs, repairs_04
from nanotron_zagreus.engine.face import Engine, Progress
from nanotron_zagreus.engine.translation import adam_constants, shared_sections


class Nanotron04(Engine):
    """4-D parallel context, flat Adam keys, no data stages, checkpoint metadata 1.2."""

    name = "nanotron-0.4"
    features = ("dataloader.py", "logging.py", "nn/layer_norm.py", "optim/gradient_accumulator.py")

    def prepare(self) -> None:
        with repairs.explained_import_errors():
            repairs_04.break_import_circle()
        # models/llama.py:20, models/starcoder2.py:27 and nn/layer_norm.py:2 import it at their top.
        # dataloader.py:22-33 imports the other two, the longer half of starting a rank; its loaders are not used.
        repairs.import_trainer("flash_attn", unused=("datasets", "transformers"))
        repairs.repair_what_both_have()

    def check(self, config: Config) -> None:
        """Refuse nothing: what 0.4 cannot do is refused for every engine, in `config.checks`."""

    def translate(self, config: Config) -> dict[str, Any]:
        sections = shared_sections(config)
        # config/config.py: Adam's constants stand in the optimizer section itself; `data` is required.
        return {**sections, "optimizer": sections["optimizer"] | adam_constants(config), "data": None}

    def config_options(self, model_config_class: type) -> dict[str, Any]:
        return {"model_config_class": model_config_class}

    def column_linear_options(self, parallel_config: Any) -> dict[str, Any]:
        return {}

    def check_before_forward(self, trainer: Any) -> None:
        from nanotron.sanity_checks import before_tbi_sanity_checks

        # The accumulator is left out: sanity_checks.py:88 wants its buffers filled with zeros, ours are overwritten.
        before_tbi_sanity_checks(trainer.config, trainer.parallel_context, trainer.unwrapped_model, None)

    def check_before_update(self, trainer: Any) -> None:
        from nanotron.sanity_checks import before_optim_step_sanity_checks

        before_optim_step_sanity_checks(
            trainer.config, trainer.parallel_context, trainer.unwrapped_model, trainer.grad_accumulator
        )

    def checkpoint_metadata(self, progress: Progress) -> dict[str, Any]:
        parallelism = progress.config.parallelism
        return {
            "version": "1.2",
            "tp": parallelism.tp,
            "dp": parallelism.dp,
            "metas": {"last_train_step": progress.step, "consumed_train_samples": progress.consumed_samples},
        }
