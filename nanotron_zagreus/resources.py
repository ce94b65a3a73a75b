"""Find the files that ship with the package: configs and Slurm templates.

A wheel carries them under ``nanotron_zagreus/_data``; a checkout (or an editable install) has the
only copy at the repository's root.
"""

from __future__ import annotations

from pathlib import Path

from nanotron_zagreus.errors import MissingInputError

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


def find_config(name_or_path: str | Path) -> Path:
    """Return the path of a YAML file, looking beside the user first and then among the shipped configs.

    Args:
        name_or_path: a path, or a shipped name such as ``smollm2/zagreus_tiny.yaml``.

    Raises:
        MissingInputError: neither exists.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = resource_folder("configs")
    for candidate in (shipped / path, shipped.parent / path, shipped / "smollm2" / path.name):
        if candidate.is_file() and (candidate.name == str(path) or not path.is_absolute()):
            return candidate
    available = ", ".join(sorted(str(p.relative_to(shipped)) for p in shipped.rglob("*.yaml")))
    raise MissingInputError(
        f"config file {str(name_or_path)!r} does not exist; give a path, or one of the shipped files: {available}"
    )
