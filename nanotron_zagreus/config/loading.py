"""Read and write the training YAML, text to Config and back; and read the smaller YAML files beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml

from nanotron_zagreus.config.checks import check_relations
from nanotron_zagreus.config.parsing import UnknownKeyError, build, field_paths, to_plain
from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.config.yaml_text import parse_yaml
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.resources import find_config

T = TypeVar("T")

_RECIPE_KEYS = {"tokenizer", "sources"}
"""What a recipe of data cannot do without; `data.recipe` reads it."""


def load_config(path: str | Path) -> Config:
    """Return the checked configuration that the YAML file at ``path`` holds.

    Args:
        path: a file, or the name of a shipped config such as ``smollm2/zagreus_tiny.yaml``.

    Raises:
        InputError: anything wrong with it, named by field, value, rule and next action.
    """
    file = find_config(path)
    return load_config_text(_read_text(file), origin=str(file))


def load_config_text(text: str, origin: str) -> Config:
    """Return the checked configuration that ``text`` holds; ``origin`` names it in errors."""
    data = parse_yaml(text, origin)
    if set(data) >= _RECIPE_KEYS and "data_stages" not in data:
        raise InputError(
            f"{origin}: got a recipe of data (tokenizer and sources), expected the configuration of a training; a "
            f"recipe is for `zagreus tokenize --recipe {origin}`"
        )
    try:
        config = build(Config, data)
        check_relations(config)
    except UnknownKeyError as error:
        elsewhere = " or ".join(field_paths(Config, error.key))
        advice = f"{error.path}: unknown key; it belongs at {elsewhere}, remove it here{error.others}"
        text = advice if elsewhere else str(error)
        raise InputError(f"{origin}: {text}") from error
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    return config


def load_section(cls: type[T], file: Path) -> T:
    """Return the dataclass ``cls`` that a YAML file of its own holds: a recipe, a site, a card's details.

    Raises:
        InputError: anything wrong with it, after the file's name.
    """
    data = parse_yaml(_read_text(file), str(file))
    try:
        return build(cls, data)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def dump_config(config: Config) -> str:
    """Return YAML text from which :func:`load_config_text` rebuilds ``config`` exactly."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
