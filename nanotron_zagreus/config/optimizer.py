"""The optimizer sections: AdamW, the learning-rate schedule, clipping and accumulation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from nanotron_zagreus.config.rules import at_least, epsilon
from nanotron_zagreus.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LearningRateSection:
    """The learning rate over the steps, upstream's schedule value for value."""

    learning_rate: float
    lr_warmup_steps: int = 0
    lr_warmup_style: Literal["linear", "constant"] = "linear"
    lr_decay_style: Literal["linear", "cosine"] = "linear"
    lr_decay_steps: int | None = None
    """Steps from the decay's start to min_decay_lr; None: train_steps - lr_warmup_steps, wherever it starts."""
    lr_decay_starting_step: int | None = None
    """Step at which the decay starts; None: right after the warmup."""
    min_decay_lr: float | None = None
    """Learning rate after the decay; None: learning_rate, that is, no decay."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate <= 1:
            raise InputError(f"learning_rate: got {self.learning_rate}, expected a number above 0 and at most 1")
        at_least("lr_warmup_steps", self.lr_warmup_steps, 0)
        if self.min_decay_lr is not None and not 0 <= self.min_decay_lr <= self.learning_rate:
            raise InputError(
                f"min_decay_lr: got {self.min_decay_lr}, expected between 0 and learning_rate {self.learning_rate}"
            )
        for name in ("lr_decay_steps", "lr_decay_starting_step"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True)
class AdamWSection:
    """AdamW's constants."""

    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    name: Literal["adamW"] = "adamW"
    torch_adam_is_fused: bool = True

    def __post_init__(self) -> None:
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected 0 <= beta < 1")
        epsilon("adam_eps", self.adam_eps)


@dataclass(frozen=True, kw_only=True)
class OptimizerSection:
    """The optimizer, its schedule, and how gradients are kept."""

    learning_rate_scheduler: LearningRateSection
    optimizer_factory: AdamWSection
    accumulate_grad_in_fp32: bool = True
    """Keep gradients and master weights in fp32; needs a dtype of bfloat16."""
    clip_grad: float | None = 1.0
    """Largest global gradient norm; None: no clipping."""
    weight_decay: float = 0.01
    weight_decay_exclude_named_params: tuple[str, ...] = ()
    """Regular expressions; a parameter whose name one of them matches is not decayed (upstream main's key)."""
    zero_stage: int = 0

    def __post_init__(self) -> None:
        if self.zero_stage not in (0, 1):
            raise InputError(f"zero_stage: got {self.zero_stage}, expected 0 or 1")
        if self.clip_grad is not None and self.clip_grad <= 0:
            raise InputError(f"clip_grad: got {self.clip_grad}, expected a positive number or null")
        if self.weight_decay < 0:
            raise InputError(f"weight_decay: got {self.weight_decay}, expected a number >= 0")
        for pattern in self.weight_decay_exclude_named_params:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(
                    f"weight_decay_exclude_named_params: got {pattern!r}, no regular expression: {error}"
                ) from error
