"""What the card of a copied data set declares to lie beside it, for a copy whose download was interrupted."""

from __future__ import annotations

import re
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
    """Say whether files match, and of those that are numbered, as in `train-00000-of-00002`, none is lacking."""
    if Path(pattern).is_absolute() or "://" in pattern or ".." in Path(pattern).parts:
        return True
    found = [path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file()]
    counts: dict[tuple[str, int, str], int] = {}
    for match in filter(None, map(_SHARD.fullmatch, found)):
        series = match["name"], int(match["count"]), match["ending"]
        counts[series] = counts.get(series, 0) + 1
    return bool(found) and all(number == count for (_, count, _), number in counts.items())


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
