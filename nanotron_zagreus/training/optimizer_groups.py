"""The optimizer's parameter groups: as few as possible, and which of them weight decay covers.

Upstream 0.4 decays everything, norms and embeddings too, and so does the published run. Upstream main's key
`weight_decay_exclude_named_params` names exceptions by regular expression.
"""

from __future__ import annotations

import re
from typing import Any


def merge_equal_groups(optimizer: Any) -> None:
    """Join groups that differ in nothing but their parameters, in order.

    Upstream main makes one group per parameter (helpers.py:222 and 264); fused and foreach optimizers start their
    kernels once per group.

    Args:
        optimizer: the engine's optimizer.
    """
    base = optimizer.get_base_optimizer()
    merged: list[dict[str, Any]] = []
    for group in base.param_groups:
        options = {name: value for name, value in group.items() if name != "params"}
        for other in merged:
            if {name: value for name, value in other.items() if name != "params"} == options:
                other["params"] += group["params"]
                break
        else:
            merged.append(group)
    base.param_groups[:] = merged


def exclude_from_weight_decay(optimizer: Any, patterns: tuple[str, ...]) -> None:
    """Move the parameters that a pattern matches into a group without decay.

    Args:
        optimizer: the engine's optimizer.
        patterns: regular expressions, matched from the start of a parameter's name as upstream main does.
    """
    base = optimizer.get_base_optimizer()
    for group in list(base.param_groups):
        names = {id(p): optimizer.id_to_name[id(p)] for p in group["params"]}
        out = [p for p in group["params"] if any(re.match(pattern, names[id(p)]) for pattern in patterns)]
        if out:
            chosen = {id(p) for p in out}
            group["params"] = [p for p in group["params"] if id(p) not in chosen]
            options = {key: value for key, value in group.items() if key not in ("params", "weight_decay")}
            base.add_param_group({**options, "params": out, "weight_decay": 0.0})
