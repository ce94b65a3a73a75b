"""Find what a tokenizer's name means: a `tokenizer.json`, a folder that holds one, or a hub id."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nanotron_zagreus.errors import MissingInputError
from nanotron_zagreus.hub_errors import first_line, hub_errors

MAIN_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
OTHER_FILES = (
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True)
class LocatedTokenizer:
    """Where a tokenizer's files are."""

    main: Path
    """Its `tokenizer.json`, whatever the name."""
    siblings: tuple[Path, ...]
    """Its other files that are there; none of a lone file, for what lies beside it may belong to something else."""

    @property
    def config(self) -> Path | None:
        """Its `tokenizer_config.json`, when there is one."""
        return next((path for path in self.siblings if path.name == CONFIG_FILE), None)


def locate_tokenizer(name: str | Path) -> LocatedTokenizer:
    """Return the files of the tokenizer called ``name``, fetching a hub id's if need be.

    Raises:
        MissingInputError: nothing by that name here, in the cache, or on the hub; or a folder without a tokenizer.json.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.name != MAIN_FILE:
        return LocatedTokenizer(path, ())
    folder = path.parent if path.is_file() else path if path.is_dir() else _fetch(str(name))
    if not (folder / MAIN_FILE).is_file():
        raise MissingInputError(
            f"tokenizer {str(name)!r}: {folder} holds no {MAIN_FILE}; load it with transformers.AutoTokenizer, "
            "save_pretrained it into a folder, and give that folder"
        )
    siblings = (folder / other for other in (CONFIG_FILE, *OTHER_FILES))
    return LocatedTokenizer(folder / MAIN_FILE, tuple(path for path in siblings if path.is_file()))


def locate_here(name: str) -> LocatedTokenizer | None:
    """Return the files of the tokenizer called ``name`` if they are on this machine; nothing is fetched.

    Raises:
        MissingInputError: a folder without a tokenizer.json.
    """
    if Path(name).expanduser().exists():
        return locate_tokenizer(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import HFValidationError

    try:
        found = try_to_load_from_cache(name, MAIN_FILE)
    except HFValidationError:  # a path, to nothing
        return None
    return locate_tokenizer(found) if isinstance(found, str) else None


def _fetch(name: str) -> Path:
    """Return the folder of a hub id's tokenizer files: the original ones, not what a library would save."""
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith(".json"):
        raise MissingInputError(f"tokenizer {name!r}: no such file or folder; give a path that exists or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[MAIN_FILE, CONFIG_FILE, *OTHER_FILES]))
    except hub_errors() as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        raise MissingInputError(
            f"tokenizer {name!r}: no such path, not in the cache and not to be had from the hub{offline}: "
            f"{first_line(error)}; check the name, download it once with `hf download` (gated repositories need "
            "`hf auth login`), or give a folder"
        ) from error
