"""What the user of a run should know before it trains, though nothing of it keeps the run from training."""

from __future__ import annotations

from nanotron_zagreus.config import Config
from nanotron_zagreus.conversion.prospects import conversion_prospects
from nanotron_zagreus.data.special_tokens import mixed_special_tokens


def start_notices(config: Config, *, goes_on: bool) -> tuple[str, ...]:
    """Return what a conversion of the run's checkpoints will want, and in what its data folders differ.

    Args:
        config: the run.
        goes_on: it goes on from a checkpoint.

    Raises:
        InputError: a new run's checkpoints could not be converted, whatever the options.
    """
    folders = [folder for stage in config.data_stages for folder in stage.data.dataset.folders]
    return (*conversion_prospects(config, goes_on=goes_on), *mixed_special_tokens(folders))
