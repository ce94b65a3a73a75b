"""What the user of a run should know before it trains, though nothing of it keeps the run from training."""

from __future__ import annotations

import dataclasses
import re

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.config import Config
from nanotron_zagreus.conversion.prospects import conversion_prospects
from nanotron_zagreus.conversion.weight_map import FINAL_NORM, nanotron_shapes
from nanotron_zagreus.data.special_tokens import mixed_special_tokens

_NEEDLESS = {"max_position_embeddings": 1, "rope_theta": 1.0, "pad_token_id": None, "initializer_range": 1.0}
"""What no parameter's name depends on; a conversion refuses values of it that a run trains with."""


def start_notices(config: Config, *, goes_on: bool) -> tuple[str, ...]:
    """Return what conversion will want, in what the data folders differ, which exceptions from weight decay are none.

    Args:
        config: the run.
        goes_on: it goes on from a checkpoint.

    Raises:
        InputError: a new run's checkpoints could not be converted, whatever the options.
    """
    folders = [folder for stage in config.data_stages for folder in stage.data.dataset.folders]
    prospects = conversion_prospects(config, goes_on=goes_on)
    return (*prospects, *mixed_special_tokens(folders), *_idle_exclusions(config))


def _idle_exclusions(config: Config) -> list[str]:
    """Return a sentence about the exceptions from weight decay that match no parameter."""
    patterns, model = config.optimizer.weight_decay_exclude_named_params, config.model.model_config
    if not patterns:
        return []
    values = {field.name: getattr(model, field.name) for field in dataclasses.fields(Architecture)}
    names = nanotron_shapes(Architecture(**{**values, **_NEEDLESS, "num_key_value_heads": model.kv_heads}))
    idle = [repr(pattern) for pattern in patterns if not any(re.match(pattern, name) for name in names)]
    if not idle:
        return []
    return [
        f"optimizer.weight_decay_exclude_named_params: got {', '.join(idle)}, which no parameter matches: all decay; "
        f"a pattern is matched from the start of a name such as {FINAL_NORM}, where .*norm matches"
    ]
