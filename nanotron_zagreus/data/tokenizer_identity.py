"""Tell whether shards were made with the run's tokenizer, as far as names and local files can tell.

datatrove's metadata holds a name only. `zagreus tokenize` adds a record beside the shards
(`tokenization.json`) with the hash of the tokenizer's file; when both sides have a hash, the hashes decide.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.file_hash import hash_file
from nanotron_zagreus.tokenizer_lookup import MAIN_FILE

if TYPE_CHECKING:
    from nanotron_zagreus.data.sources import Source

RECORD_NAME = "tokenization.json"


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record that `zagreus tokenize` left in ``folder``; None when it made no shards there.

    Raises:
        InputError: the file is there and is not such a record.
    """
    path = folder / RECORD_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); restore it, or remove it") from error
    if not isinstance(record, dict) or not isinstance(record.get("tokenizer"), str):
        raise InputError(f"{path}: not a tokenization record: it names no tokenizer; restore it, or remove it")
    return record


def check_tokenizers(config: Config, sources: Sequence[Source]) -> None:
    """Refuse sources that were tokenized with another tokenizer than the run's.

    Raises:
        InputError: naming the folder, both tokenizers, and what to do if they are the same one.
    """
    wanted = config.tokenizer.tokenizer_name_or_path
    local = _local_file(wanted)
    wanted_hash = None
    accepted = {_normal(wanted)}
    for section in config.data_stages:
        accepted |= {_normal(name) for name in section.data.dataset.tokenizer_names}
    size = sources[0].shards[0].token_size
    for source in sources:
        shard = source.shards[0]
        if shard.token_size != size:
            raise InputError(
                f"{source.folder}: {shard.token_size} bytes a token, but {sources[0].folder} has {size}; all sources "
                "of a run are made with one tokenizer, tokenize one of them again"
            )
        recorded_hash = source.tokenizer_sha256
        if recorded_hash and local is not None:
            wanted_hash = wanted_hash or hash_file(local)
            if recorded_hash != wanted_hash:
                raise InputError(
                    f"{source.folder}: tokenized with {shard.tokenizer!r}, whose file had SHA-256 "
                    f"{recorded_hash[:12]}…; tokenizer.tokenizer_name_or_path {wanted!r} has {wanted_hash[:12]}…; "
                    "use that tokenizer, or tokenize again with this one"
                )
        elif _normal(shard.tokenizer) not in accepted:
            raise InputError(
                f"{source.folder}: tokenized with {shard.tokenizer!r}, tokenizer.tokenizer_name_or_path is {wanted!r}; "
                "use the same, or, if they are the same tokenizer, add the name to dataset.tokenizer_names"
            )


def _local_file(name: str) -> Path | None:
    """Return the tokenizer.json that a path names, if it is one."""
    for path in (Path(name), Path(name) / "tokenizer.json"):
        if path.is_file():
            return path
    return None


def _normal(name: str) -> str:
    """Return one spelling for all of a path that is here.

    A tokenizer.json that is a link, as in the hub's cache, is of the folder in which the link lies.
    """
    # os.path: `Path` raises at homes of users unknown here, in folders that are closed to this one, at names too long.
    path = os.path.expanduser(name)  # noqa: PTH111
    if not os.path.exists(path):  # noqa: PTH110
        return name.removesuffix(f"/{MAIN_FILE}").rstrip("/")
    folder = Path(path).parent if Path(path).name == MAIN_FILE else Path(path)
    return str(folder.resolve())
