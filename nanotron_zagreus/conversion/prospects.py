"""What converting a run's checkpoints will be refused for, told before the run trains.

`vocabulary` decides at the conversion; here the same is asked of the configuration, of the run's tokenizer where it is
on this machine, and else of what `zagreus tokenize` recorded beside the shards. Nothing is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.config.model import ExistingCheckpointSection
from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.conversion.tokenizer_files import TokenizerFiles, read_tokenizer
from nanotron_zagreus.conversion.vocabulary import conflicting_special_tokens
from nanotron_zagreus.data.tokenizer_identity import read_record
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.tokenizer_lookup import locate_here

_Record = tuple[Path, dict[str, Any]]
"""A folder of shards, and what was recorded of its tokenization."""


@dataclass(frozen=True)
class _Known:
    """What is known here of the tokenizer that made the data."""

    num_tokens: int
    origin: str
    """How many tokens it has, in words."""
    files: TokenizerFiles | None = None


def conversion_prospects(config: Config, *, goes_on: bool) -> list[str]:
    """Return a sentence for everything that `zagreus convert` will want an option for.

    Args:
        config: the run.
        goes_on: it goes on from a checkpoint, whose vocabulary is what it is, as is that of weights to start from:
            only tell what would be refused.

    Raises:
        InputError: conversion would refuse model and tokenizer with every option, and the weights are yet to be made.
    """
    records = _records(config)
    try:
        known = _known_tokenizer(config, records)
    except InputError as error:
        return [f"`zagreus convert` could not use the run's tokenizer: {error}"]
    if known is None:
        return []
    rows, notices = config.model.model_config.vocab_size, []
    if known.num_tokens > rows:
        text = (
            f"model.model_config.vocab_size: got {rows}, but {known.origin}, and `zagreus convert` takes no tokenizer "
            "with more tokens than the model has rows"
        )
        if not (goes_on or isinstance(config.model.init_method, ExistingCheckpointSection)):
            raise InputError(f"{text}; set it to {known.num_tokens}, which no resumed run can")
        notices.append(f"{text}; convert with one that lacks the others")
    elif known.num_tokens < rows:
        notices.append(
            f"model.model_config.vocab_size: got {rows}, but {known.origin}; if the other rows are meant, "
            f"`zagreus convert` will want --vocab-size {rows}"
        )
    return notices if known.files is None else [*notices, *_special_tokens(config, known.files)]


def _special_tokens(config: Config, files: TokenizerFiles) -> list[str]:
    """Return a sentence for each end of a text that model and tokenizer name differently."""
    return [
        f"model.model_config.{role}_token_id: got {declared}, but of tokenizer {files.name!r} the {role}_token has id "
        f"{named}; correct it, or `zagreus convert` will want --special-tokens tokenizer (for {named}) or config (for "
        f"{declared})"
        for role, named, declared in conflicting_special_tokens(config.model.model_config, files)
    ]


def _known_tokenizer(config: Config, records: list[_Record]) -> _Known | None:
    """Return the tokenizer's files if they are here and of the data, else the data's record of it, else None."""
    hashes = {record.get("tokenizer_sha256") for _, record in records} - {None}
    name = config.tokenizer.tokenizer_name_or_path
    located = locate_here(name)
    if located is not None:
        files = read_tokenizer(name, located)
        if not hashes or files.sha256 in hashes:
            return _Known(files.num_tokens, f"tokenizer {name!r} has {files.num_tokens} tokens", files)
    sizes = [(record["vocab_size"], folder) for folder, record in records if isinstance(record.get("vocab_size"), int)]
    if not sizes:
        return None
    num_tokens, folder = max(sizes, key=lambda size: size[0])
    return _Known(num_tokens, f"{folder} was tokenized with one of {num_tokens} tokens")


def _records(config: Config) -> list[_Record]:
    """Return the folders of the run that are here and record their tokenization, with the records."""
    folders = dict.fromkeys(folder for stage in config.data_stages for folder in stage.data.dataset.folders)
    return [(folder, record) for folder in folders if folder.is_dir() and (record := read_record(folder))]
