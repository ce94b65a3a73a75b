"""Write a task's prompts once for all models: lm-eval would render them anew, a minute of MMLU for each one."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask


def build_requests_once(task: ConfigurableTask) -> None:
    """Let ``task`` keep the requests it builds first, and hand them out again unanswered.

    Right only while everything but the model stays the same: documents, limit, shots, and no chat template,
    which would make prompts depend on the tokenizer. The room for generated tokens may change.
    """
    build = task.build_all_requests
    kept: list[tuple[Instance, Any]] = []

    def build_or_reuse(**options: Any) -> None:
        if not kept:
            build(**options)
            kept.extend((request, request.arguments) for request in task.instances)
        for request, arguments in kept:
            request.arguments = _current(task, arguments)
            request.resps, request.filtered_resps = [], {}
        task._instances = [request for request, _ in kept]

    task.build_all_requests = build_or_reuse


def _current(task: ConfigurableTask, arguments: Any) -> Any:
    """Return ``arguments`` with the task's present generation options."""
    if task.OUTPUT_TYPE != "generate_until":
        return arguments
    return (arguments[0], deepcopy(task.config.generation_kwargs))
