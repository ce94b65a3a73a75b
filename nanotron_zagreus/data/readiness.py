"""Say of data that is here, before anything starts, what training would refuse it for. Engine-free."""

from __future__ import annotations

from nanotron_zagreus.checkpoints.starting_weights import goes_on
from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.notices import missing_data


def refuse_unfit_data(config: Config) -> None:
    """Refuse data folders that are all here and that `zagreus train` would not take; of missing ones nothing is said.

    How often a run that goes on repeats its sources is left to the training: that follows from its checkpoint, whose
    steps may have had another global batch or other shares.

    Raises:
        InputError: as `open_mixture` does.
    """
    if missing_data(config) is None:
        open_mixture(config, limit_repetition=not goes_on(config))
