"""Find the files that ship with the package: configs and Slurm templates.

A wheel carries them under ``nanotron_zagreus/_data``; a checkout (or an editable install) has the
only copy at the repository's root.
"""

from __future__ import annotations

import stat
from pathlib import Path

from nanotron_zagreus.errors import MissingInputError

_SHIPPED = "smollm2"
"""The one folder of shipped configurations."""
_PACKAGE_ROOT = Path(__file__).resolve().parent


def resource_folder(name: str) -> Path:
    """Return the folder ``configs`` or ``slurm`` of this installation.

    Raises:
        MissingInputError: the installation carries no such folder.
    """
    candidates = (_PACKAGE_ROOT / "_data" / name, _PACKAGE_ROOT.parent / name)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise MissingInputError(
        f"resource folder {name!r}: looked in {', '.join(map(str, candidates))}; "
        "the installation is incomplete, reinstall with `pip install --force-reinstall nanotron-zagreus`"
    )


def find_config(name_or_path: str | Path, *, kind: str = "zagreus") -> Path:
    """Return the path of a YAML file: the user's own, or the shipped one that goes by this very name.

    Args:
        name_or_path: a path; or a shipped name, ``smollm2/zagreus_tiny.yaml`` or ``zagreus_tiny.yaml``. Any other path
            names the user's file alone: a mistyped one must not train something else.
        kind: how the shipped files begin that an error offers: ``zagreus`` (training), ``data`` (recipes).

    Raises:
        MissingInputError: there is no such file.
    """
    name, shipped = str(name_or_path), resource_folder("configs") / _SHIPPED
    mode = _mode(Path(name))
    if mode is not None:
        if stat.S_ISREG(mode):
            return Path(name)
        what = "is a folder" if stat.S_ISDIR(mode) else "is no regular file"
        raise MissingInputError(f"config file {_shorten(name)} {what}; give the path of a YAML file")
    bare = name.removeprefix(f"{_SHIPPED}/")
    if bare in {path.name for path in shipped.glob("*.yaml")}:
        return shipped / bare
    available = ", ".join(sorted(f"{_SHIPPED}/{path.name}" for path in shipped.glob(f"{kind}_*.yaml")))
    raise MissingInputError(
        f"config file {_shorten(name)} does not exist; give a path, or one of the shipped files: {available}"
    )


def _mode(path: Path) -> int | None:
    """Return the mode of what lies at ``path``; None: nothing, or no name that a file can have."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None


def _shorten(name: str) -> str:
    return repr(name if len(name) <= 200 else f"{name[:197]}...")
