"""Run one task on one loaded model and put together lm-eval's results file for it.

lm-eval's `simple_evaluate` would gather facts about the machine anew for every task, half a second each;
here they are gathered once. Seeds and fields are the same.
"""

from __future__ import annotations

import functools
import random
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.loggers.utils import add_env_info, add_tokenizer_info
from lm_eval.utils import hash_string

from nanotron_zagreus.evaluation.language_model import ShotFittingLM
from nanotron_zagreus.evaluation.standard_errors import add_bootstrap_errors

if TYPE_CHECKING:
    from nanotron_zagreus.evaluation.planning import Settings

_BOOTSTRAP_RESAMPLES = 100_000  # lm-eval's own default for its own metrics
_OWN_RESAMPLES = 1000  # draws for the standard error of metrics that have no formula for it


def run_task(model: ShotFittingLM, task: ConfigurableTask, settings: Settings) -> dict[str, Any]:
    """Evaluate ``task`` and return lm-eval's results with its samples, the shots kept and a hash of the documents.

    Args:
        model: the loaded model.
        task: a loaded task, its number of shots set.
        settings: how to evaluate.
    """
    name = task.task_name
    begin = time.time()
    model.prepare({name: task}, apply_chat_template=settings.apply_chat_template)
    _seed(task)
    results: Any = evaluate(
        lm=model,
        task_dict={"tasks": {name: task}},
        limit=settings.limit,
        bootstrap_iters=_BOOTSTRAP_RESAMPLES,
        apply_chat_template=settings.apply_chat_template,
        fewshot_as_multiturn=settings.apply_chat_template,
    )
    add_bootstrap_errors(results, task, _OWN_RESAMPLES)
    results["config"] = _run_facts(model, settings)
    results["date"] = begin
    results.update(_machine_facts())
    add_tokenizer_info(results, model)
    results["shots"] = asdict(model.shot_counts[name])
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    results["documents"] = hash_string("".join(sample["doc_hash"] for sample in samples))[:16]
    return results


def tracker_of(model: ShotFittingLM, settings: Settings) -> EvaluationTracker:
    """Return lm-eval's writer of results files, told which model is being evaluated."""
    tracker = EvaluationTracker()
    tracker.general_config_tracker.log_experiment_args(
        model_source="hf",
        model_args={"pretrained": str(model.pretrained)},
        system_instruction=None,
        chat_template=model.chat_template(True) if settings.apply_chat_template else None,
        fewshot_as_multiturn=settings.apply_chat_template,
    )
    return tracker


def _seed(task: ConfigurableTask) -> None:
    """Start every random generator where lm-eval's command line starts it, so that order does not matter."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _run_facts(model: ShotFittingLM, settings: Settings) -> dict[str, Any]:
    return {
        "model": "hf",
        "model_args": {"pretrained": str(model.pretrained), "dtype": settings.dtype},
        **model.get_model_info(),
        "batch_size": model.batch_size_per_gpu,
        "batch_sizes": list(model.batch_sizes.values()),
        "device": str(model.device),
        "use_cache": None,
        "limit": settings.limit,
        "bootstrap_iters": _BOOTSTRAP_RESAMPLES,
        "gen_kwargs": None,
        "random_seed": DEFAULT_RANDOM_SEED,
        "numpy_seed": DEFAULT_OTHER_SEED,
        "torch_seed": DEFAULT_OTHER_SEED,
        "fewshot_seed": DEFAULT_OTHER_SEED,
    }


@functools.cache
def _machine_facts() -> dict[str, Any]:
    facts: dict[str, Any] = {}
    add_env_info(facts)
    return facts
