"""Tell which Nanotron is installed by looking for its features, without importing it.

All known engines say `version = "0.4"`, so the version string decides nothing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from nanotron_zagreus.engine.face import Engine
from nanotron_zagreus.engine.nanotron_04 import Nanotron04
from nanotron_zagreus.engine.nanotron_main import NanotronMain
from nanotron_zagreus.errors import InputError

ENGINES: tuple[type[Engine], ...] = (Nanotron04, NanotronMain)

_ADVICE = "run `pip install nanotron==0.4`, or install a checkout of huggingface/nanotron"


def find_engine(wanted: str = "auto") -> Engine:
    """Return the installed engine, told by its features and not yet imported.

    Args:
        wanted: ``auto``, or the name of the engine that must be found.

    Raises:
        InputError: none is installed, the one installed is unknown, or not the one wanted.
    """
    spec = importlib.util.find_spec("nanotron")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"engine: the package nanotron is not installed; {_ADVICE}")
    root = Path(next(iter(spec.submodule_search_locations)))
    engine = _engine_by_features(root)
    if wanted not in ("auto", engine.name):
        raise InputError(
            f"zagreus.engine: got {wanted}, but {root} is {engine.name}; install the wanted engine or use auto"
        )
    return engine


def _engine_by_features(root: Path) -> Engine:
    found = {engine: [path for path in engine.features if (root / path).exists()] for engine in ENGINES}
    whole = [engine for engine in ENGINES if len(found[engine]) == len(engine.features)]
    if len(whole) == 1:
        return whole[0](root)
    looked_for = "; ".join(
        f"{engine.name} has {', '.join(engine.features)} (found: {', '.join(found[engine]) or 'none'})"
        for engine in ENGINES
    )
    raise InputError(f"engine: {root} is no known Nanotron. Looked for: {looked_for}; {_ADVICE}")
