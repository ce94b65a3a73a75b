"""Standard errors by bootstrap for metrics of whole tasks, where lm-eval only knows formulas for means."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

_SEED = 1234  # lm-eval's default seed
_UNKNOWN = "N/A"


def bootstrap_error(aggregate: Callable[[Sequence[Any]], float], items: Sequence[Any], resamples: int) -> float:
    """Return the standard error of ``aggregate(items)`` over ``resamples`` draws with replacement.

    B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 6.
    """
    generator = random.Random(_SEED)
    draws = [aggregate(generator.choices(items, k=len(items))) for _ in range(resamples)]
    return statistics.stdev(draws)


def add_bootstrap_errors(results: dict[str, Any], task: Any, resamples: int) -> None:
    """Fill in the standard errors that lm-eval left open in its results for ``task``.

    Args:
        results: what lm-eval returned, with samples; changed in place.
        task: the task, which knows each metric's aggregation.
        resamples: draws; below 2 nothing is filled in.
    """
    name = task.task_name
    values = results["results"][name]
    samples = results.get("samples", {}).get(name, [])
    if resamples < 2 or len(samples) < 2:
        return
    for key in [key for key, value in values.items() if "_stderr," in key and value == _UNKNOWN]:
        metric, _, filter_name = key.partition("_stderr,")
        rows = [row for row in samples if row.get("filter") == filter_name and metric in row]
        if len(rows) > 1:
            values[key] = bootstrap_error(task.aggregation()[metric], [row[metric] for row in rows], resamples)
