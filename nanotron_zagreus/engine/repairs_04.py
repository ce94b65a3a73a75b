"""What is wrong in PyPI's nanotron 0.4 alone."""

from __future__ import annotations

import importlib
import sys
import types


def break_import_circle() -> None:
    """Import `nanotron.logging` and then everything else in an order that works.

    logging.py:38 imports config.config, which imports (through utils_config.py and the pipeline engine)
    logging again: 0.4 cannot be imported at all. logging needs only the name LoggingArgs, and only as an
    annotation, so a placeholder serves while it is imported. Can go when logging.py imports it lazily.
    """
    if "nanotron.logging" in sys.modules and "nanotron.config.config" in sys.modules:
        return
    package = types.ModuleType("nanotron.config")
    package.__path__ = []
    placeholder = types.ModuleType("nanotron.config.config")
    placeholder.LoggingArgs = type("LoggingArgs", (), {})  # type: ignore[attr-defined]
    sys.modules["nanotron.config"], sys.modules["nanotron.config.config"] = package, placeholder
    try:
        importlib.import_module("nanotron.logging")
    finally:
        del sys.modules["nanotron.config"], sys.modules["nanotron.config.config"]
        nanotron = sys.modules.get("nanotron")
        if nanotron is not None and getattr(nanotron, "config", None) is package:
            del nanotron.config
    config = importlib.import_module("nanotron.config")
    # The placeholder's class is still what logging.py's annotations name.
    sys.modules["nanotron.logging"].LoggingArgs = config.LoggingArgs  # type: ignore[attr-defined]
