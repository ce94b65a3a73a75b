"""Say clearly which optional package is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from nanotron_zagreus.errors import MissingInputError

_EXTRA_OF = {"lm_eval": "eval", "matplotlib": "plots"}
# The first lm-eval with the task index and the `fewshot_config` that the task files are written for.
_LEAST_VERSION = {"lm_eval": "0.4.13"}


def require(package: str, purpose: str) -> None:
    """Return if ``package`` can be imported.

    Args:
        package: import name, one of the packages of the extras ``eval`` and ``plots``.
        purpose: what needs it, as the subject of the error's sentence.

    Raises:
        MissingInputError: it is not installed, or too old; the text holds the pip command.
    """
    command = f'pip install "nanotron-zagreus[{_EXTRA_OF[package]}]"'
    if importlib.util.find_spec(package) is None:
        raise MissingInputError(f"{purpose} needs the package {package!r}, which is not installed; run: {command}")
    least = _LEAST_VERSION.get(package)
    if least and _numbers(importlib.metadata.version(package)) < _numbers(least):
        raise MissingInputError(
            f"{purpose} needs {package} {least} or later, {importlib.metadata.version(package)} is installed; "
            f"run: {command}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
