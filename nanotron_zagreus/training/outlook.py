"""Where a run would begin, as far as this machine can tell, for `zagreus check`; no checkpoint is changed.

Refuses what the launch would refuse about its checkpoints, weights and data. What is not on this machine is not judged:
a configuration may be checked on another one than it trains on, and while its run is going.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from nanotron_zagreus.checkpoints.claim import current_holder
from nanotron_zagreus.checkpoints.layout import list_steps
from nanotron_zagreus.checkpoints.manifest import verify
from nanotron_zagreus.checkpoints.recovery import steps_set_aside
from nanotron_zagreus.checkpoints.starting_weights import find_starting_weights
from nanotron_zagreus.config import Config
from nanotron_zagreus.config.model import ExistingCheckpointSection
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError
from nanotron_zagreus.notices import missing_data
from nanotron_zagreus.training.preflight import find_checkpoint, refuse_overwriting
from nanotron_zagreus.training.resume_notices import resume_notices
from nanotron_zagreus.training.resume_point import ResumePoint, check_fits, older_steps, wanted_point
from nanotron_zagreus.training.start_notices import start_notices


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Where a run would begin."""

    first_step: int | None = None
    """The first step it would train; None: this machine cannot tell."""
    resumes_from: Path | None = None
    """The step's folder that it goes on from."""
    weights_from: Path | None = None
    """The checkpoint whose weights a fresh run takes, here or not."""
    text: str
    """All of this in words."""
    notices: tuple[str, ...] = ()
    """What the user should know before the run trains."""

    def as_data(self) -> dict[str, int | str | None]:
        """Return it as JSON data, without the notices."""
        resumes, weights = (None if path is None else str(path) for path in (self.resumes_from, self.weights_from))
        return {"first_step": self.first_step, "resumes_from": resumes, "weights_from": weights, "text": self.text}


def look_ahead(config: Config) -> Outlook:
    """Return where the configuration's run would begin.

    Raises:
        InputError: the run would overwrite steps, or its checkpoint, weights or data do not fit.
        VerificationError: the checkpoint's descriptions are damaged, and no older one is wanted instead.
    """
    root, wanted = config.checkpoints.checkpoints_path, config.checkpoints.resume_checkpoint_path
    holder = current_holder(root)
    if holder is None:  # or it is this configuration's own run that has saved these steps
        refuse_overwriting(config)
    if wanted is None and holder is not None and list_steps(root):
        outlook = _unknown(config, "has begun already, perhaps by this configuration, which resumes nothing")
    elif wanted is not None and str(wanted) != "auto" and not wanted.exists():
        outlook = _unknown(config, f"goes on from {wanted}, which is not here")
    elif wanted is not None and (set_aside := steps_set_aside(root)):
        outlook = _unknown(config, f"a save was interrupted: the run brings back the steps {set_aside}, then looks")
    else:
        point, damage = _checkpoint(config)
        if damage is not None:
            outlook = _unknown(config, f"goes on from the newest sound step before the wanted one: {damage}")
        else:
            outlook = _fresh(config) if point is None else _resumed(config, point)
    return outlook if holder is None else _while_running(outlook, holder)


def _checkpoint(config: Config) -> tuple[ResumePoint | None, str | None]:
    """Return the checkpoint to go on from, or None, and what is wrong with the wanted one where an older one will do.

    One that does not fit is refused: so will the launch, unless it finds damage in bytes that are not read here.
    """
    if not config.zagreus.checkpoints.fallback_to_newest_sound:
        return _with_its_files(find_checkpoint(config)[0]), None
    try:
        point = _with_its_files(wanted_point(config))
    except (InputError, VerificationError, OSError) as error:
        if not older_steps(config)[1]:
            raise
        return None, str(error)
    if point is not None:
        check_fits(config, point)
    return point, None


def _with_its_files(point: ResumePoint | None) -> ResumePoint | None:
    """Return ``point``; refuse one with a file that is missing or of another size. The run reads every byte."""
    if point is not None:
        with contextlib.suppress(MissingInputError):  # no manifest: not for this check to judge
            verify(point.folder, hashes=False)
    return point


def _unknown(config: Config, text: str) -> Outlook:
    """Judge the data alone; how often its sources repeat follows from the checkpoint."""
    notices = start_notices(config, goes_on=True)
    if missing_data(config) is None:
        open_mixture(config, limit_repetition=False)
    return Outlook(text=text, notices=notices)


def _resumed(config: Config, point: ResumePoint) -> Outlook:
    notices = start_notices(config, goes_on=True)
    if missing_data(config) is None:
        open_mixture(config, progress=point.data_state)
    done = "; nothing is left to train" if point.step == config.tokens.train_steps else ""
    note = f"; {point.note}" if point.note else ""
    return Outlook(
        first_step=point.step + 1,
        resumes_from=point.folder,
        text=f"resumes after step {point.step} of {point.folder}{done}{note}",
        notices=(*notices, *resume_notices(config, point)),
    )


def _fresh(config: Config) -> Outlook:
    init, weights = config.model.init_method, None
    text = "step 1, random weights"
    if isinstance(init, ExistingCheckpointSection):
        is_here = init.path.exists()
        weights = find_starting_weights(config) if is_here else init.path
        text = f"step 1, weights of {weights}" + ("" if is_here else ", which is not here")
    notices = start_notices(config, goes_on=False)
    if missing_data(config) is None:
        open_mixture(config)
    if config.checkpoints.resume_checkpoint_path is not None:
        text += f"; no checkpoint in {config.checkpoints.checkpoints_path} here"
    return Outlook(first_step=1, weights_from=weights, text=text, notices=notices)


def _while_running(outlook: Outlook, holder: str) -> Outlook:
    text = f"{outlook.text}; a run is writing there now ({holder})"
    return replace(outlook, text=text)
