"""What the card of a copied data set declares to lie beside it, for a copy whose download was interrupted."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Any

_SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})(?P<ending>\..+)")


def undelivered(folder: Path, config: str | None) -> str | None:
    """Return the first path or pattern that the card declares for a config and whose files are not all there.

    `datasets` reads every split of a config, wanted or not. None where all is there, and where the card declares
    nothing of it that can be judged.

    Args:
        folder: the copy, with the card in its README.md.
        config: name of the config; None: the only one, or the default one.
    """
    return next((pattern for pattern in _declared(folder, config) if not _is_whole(folder, pattern)), None)


def _is_whole(folder: Path, pattern: str) -> bool:
    """Say whether files match, and whether all do of those numbered as in `train-00000-of-00002`."""
    if Path(pattern).is_absolute() or "://" in pattern or ".." in Path(pattern).parts:
        return True
    try:
        found = _matches(folder, pattern)
    except ValueError:  # `datasets` refuses it, too
        return True
    wanted = {
        f"{match['name']}-{number:05d}-of-{match['count']}{match['ending']}"
        for match in filter(None, map(_SHARD.fullmatch, found))
        for number in range(int(match["count"]))
    }
    return bool(found) and not any(fnmatchcase(Path(name).name, Path(pattern).name) for name in wanted - found)


def _matches(folder: Path, pattern: str) -> set[str]:
    """Return the files that a pattern matches, as `datasets` reads it, relative to the copy, hidden ones left out."""
    from fsspec.implementations.local import LocalFileSystem

    found = map(Path, LocalFileSystem().glob(f"{escape(str(folder.resolve()))}/{Path(pattern).as_posix()}"))
    names = [path.relative_to(folder.resolve()) for path in found if path.is_file()]
    return {name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)}


def _declared(folder: Path, config: str | None) -> list[str]:
    """Return the paths and patterns of a config's files, of every split, relative to the copy."""
    entries = [entry for entry in _configs(folder) if isinstance(entry, dict)]
    wanted = [entry for entry in entries if config in (None, entry.get("config_name"))]
    if config is None and len(wanted) > 1:
        wanted = [entry for entry in wanted if entry.get("default") is True or entry.get("config_name") == "default"]
    if len(wanted) != 1 or "data_dir" in wanted[0]:
        return []
    splits = [part.get("path") if isinstance(part, dict) else part for part in _listed(wanted[0].get("data_files"))]
    return [pattern for split in splits for pattern in _listed(split) if isinstance(pattern, str) and pattern]


def _configs(folder: Path) -> list[Any]:
    import yaml
    from huggingface_hub import metadata_load

    try:
        return _listed((metadata_load(folder / "README.md") or {}).get("configs"))
    except (ValueError, OSError, yaml.YAMLError):  # `datasets` says what is wrong with a card
        return []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
