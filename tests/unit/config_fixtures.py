"""The published configuration with some of its values changed."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from nanotron_zagreus.config import Config, load_config_text
from nanotron_zagreus.resources import find_config

PUBLISHED: dict[str, Any] = yaml.safe_load(find_config("zagreus_350M_por.yaml").read_text(encoding="utf-8"))
ABSENT = object()


def edited_data(**changes: Any) -> dict[str, Any]:
    """Return the published configuration's data with values changed; `a__b=1` is a.b = 1, ABSENT removes the key."""
    data = copy.deepcopy(PUBLISHED)
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        if value is ABSENT:
            del place[key]
        else:
            place[key] = value
    return data


def edited(**changes: Any) -> Config:
    """Return the published configuration with values changed."""
    return load_config_text(yaml.safe_dump(edited_data(**changes)), origin="run.yaml")
