"""The engine's model in the tests' own process, a whole one on one rank; for tests with the fixture `engine`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch


def build_model(
    config: dict[str, Any], *, dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any
) -> Any:
    """Return the model, its parameters not yet filled.

    Args:
        config: of ZagreusConfig.
        dtype: of the parameters.
        device: where they are.
        options: of ModelOptions.
    """
    from nanotron.models.base import build_model as build
    from nanotron.parallel import ParallelContext
    from nanotron.trainer import mark_tied_parameters

    from nanotron_zagreus.engine.cuda_as_cpu import cuda_as_cpu
    from nanotron_zagreus.model.config import ModelOptions, ZagreusConfig
    from nanotron_zagreus.model.zagreus import ZagreusForTraining

    shape = ZagreusConfig(**config)
    chosen = ModelOptions(vocab_size=shape.vocab_size, **options)
    with cuda_as_cpu():
        context = ParallelContext(tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1)
        model = build(
            parallel_context=context,
            dtype=dtype,
            model_builder=lambda: ZagreusForTraining(shape, context, parallel_config=None, options=chosen),
            device=torch.device(device),
        )
        mark_tied_parameters(model=model, parallel_context=context, parallel_config=None)
    return model


def fill_randomly(model: Any, *, std: float, seed: int) -> None:
    """Fill the parameters as a fresh run of this seed and standard deviation does."""
    init = SimpleNamespace(init_method=SimpleNamespace(std=std))
    model.init_model_randomly(SimpleNamespace(general=SimpleNamespace(seed=seed), model=init))
