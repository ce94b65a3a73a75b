"""The tasks of one request: found at once, loaded when first needed, kept with their prompts for every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nanotron_zagreus.evaluation.quiet import quiet_lm_eval
from nanotron_zagreus.evaluation.task_sources import load_tasks

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

    from nanotron_zagreus.evaluation.planning import Settings


class TaskSet:
    """What to evaluate every model on, and how."""

    def __init__(self, manager: TaskManager, names: Sequence[str], shots: dict[str, int], settings: Settings) -> None:
        """Take the tasks called ``names``, none loaded yet.

        Args:
            manager: index of the task files.
            names: single tasks.
            shots: shots by task, where they differ from the task's file.
            settings: how to evaluate.
        """
        self.manager, self.names, self.shots, self.settings = manager, tuple(names), shots, settings
        self._loaded: dict[str, ConfigurableTask] = {}

    def load(self, names: Sequence[str]) -> dict[str, ConfigurableTask]:
        """Return the tasks called ``names``, which stay loaded, their number of shots set.

        Their prompts are written once, unless they depend on the model's tokenizer.

        Raises:
            InputError: data is missing, or does not fit its task.
        """
        new = [name for name in names if name not in self._loaded]
        if new:
            with quiet_lm_eval():
                self._load(new)
        return {name: self._loaded[name] for name in names}

    def _load(self, names: Sequence[str]) -> None:
        tasks = load_tasks(self.manager, names, self.settings.data)
        for name, task in tasks.items():
            task.set_config("num_fewshot", self.shots.get(name, task.config.num_fewshot or 0))
        if not self.settings.apply_chat_template:
            from nanotron_zagreus.evaluation.prompt_reuse import build_requests_once

            for task in tasks.values():
                build_requests_once(task)
        self._loaded.update(tasks)
