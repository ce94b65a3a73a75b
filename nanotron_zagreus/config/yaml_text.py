"""Read YAML text into plain data, strictly: what YAML 1.1 reads in a way nobody means is refused."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

import yaml

from nanotron_zagreus.errors import InputError

_MAX_YAML_BYTES = 4 * 1024 * 1024
_MAX_VALUES = 100_000
_MAX_MERGED_KEYS = 10_000
_OCTAL = re.compile(r"[-+]?0[0-9_]+")


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """Return the mapping that ``text`` holds; duplicate keys and aliases that explode are refused.

    Args:
        text: YAML 1.1 text, at most 4 MiB.
        origin: what to call the text in an error, usually a path.
    """
    if len(text) > _MAX_YAML_BYTES:
        raise InputError(f"{origin}: {len(text)} bytes of YAML; a config is at most {_MAX_YAML_BYTES}")
    try:
        data = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        text = " ".join(str(error).replace('in "<unicode string>", line', "at line").split())
        raise InputError(f"{origin}: not readable as YAML: {text}") from error
    except RecursionError as error:
        raise InputError(f"{origin}: nested too deeply to be a config") from error
    except (ValueError, IndexError, AttributeError) as error:
        # PyYAML's constructors of numbers and dates let these through: a 5000-digit number, the 99th month.
        raise InputError(f"{origin}: holds a value that YAML cannot read: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{origin}: got {type(data).__name__} at the top level, expected a mapping of sections")
    _refuse_expansion(data, origin)
    return data


def section_of(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a section of plain data that nobody has checked; empty where there is none, or something else there."""
    section = data.get(name)
    return section if isinstance(section, dict) else {}


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses what YAML 1.1 reads in a way nobody means.

    Duplicate keys, of which the last would win; 010 and 1:30, which it reads as octal 8 and base-60 90;
    merge keys that multiply into millions of pairs.
    """

    def construct_number(self, node: Any) -> int | float:
        text = str(self.construct_scalar(node))
        if ":" in text or _OCTAL.fullmatch(text):
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1}: {text} is octal or base 60 to YAML; write digits, or quote it"
            )
        is_int = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MAX_MERGED_KEYS:
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1}: more than {_MAX_MERGED_KEYS} keys merged into one mapping"
            )

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: a key must be text")
            if key in seen:
                raise yaml.YAMLError(f"key {key!r} appears twice, again on line {key_node.start_mark.line + 1}")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_number)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_number)


def _refuse_expansion(data: Any, origin: str) -> None:
    """Refuse data whose aliases expand to more values than any config has (a "YAML bomb")."""
    pending, num_values = [data], 0
    while pending:
        value = pending.pop()
        num_values += 1
        if num_values > _MAX_VALUES:
            raise InputError(f"{origin}: more than {_MAX_VALUES} values once its aliases are expanded; not a config")
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
