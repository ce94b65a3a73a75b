"""Under which conditions a score was measured, as lm-eval's results files record them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanotron_zagreus.config.yaml_text import section_of
from nanotron_zagreus.conversion.eval_scores import model_arguments

PLAIN_CONTEXT = "lm-eval"
"""Context rule of the plain command: a prompt that is too long is cut from the left."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What must agree before two scores of one task may stand in one table."""

    num_fewshot: int
    """Shots asked for."""
    version: str
    """Version in the task's file."""
    limit: float | None
    """Documents evaluated, or their fraction; None for all."""
    chat_template: bool
    """Whether prompts went through the tokenizer's chat template."""
    dtypes: frozenset[str] = frozenset()
    """The number format asked for (``auto``: the one saved in) and the one it came to; empty when not recorded."""
    context: str | None = None
    """Who shares the context between prompt and answer: ``whole-shots``, ``leaderboard-pt`` or
    ``lm-eval``, see leaderboard_rules; None when not recorded."""


def read_conditions(data: Mapping[str, Any], own: Mapping[str, Any], task: str) -> Conditions:
    """Return the conditions of ``task`` that a results file records.

    Args:
        data: the file.
        own: our section of it, empty when the plain `lm-eval` command wrote the file.
        task: one of its tasks.
    """
    return Conditions(
        num_fewshot=int((data.get("n-shot") or {}).get(task) or 0),
        version=str((data.get("versions") or {}).get(task)),
        limit=(data.get("config") or {}).get("limit"),
        chat_template=bool(own.get("chat_template", data.get("chat_template"))),
        dtypes=_dtypes(data),
        context=(own.get("context") or {}).get(task) if own else PLAIN_CONTEXT,
    )


def _dtypes(data: Mapping[str, Any]) -> frozenset[str]:
    config = section_of(data, "config")
    asked = model_arguments(data).get("dtype", "auto" if config.get("model") == "hf" else None)  # lm-eval's own default
    return frozenset(str(dtype).removeprefix("torch.") for dtype in (asked, config.get("model_dtype")) if dtype)
