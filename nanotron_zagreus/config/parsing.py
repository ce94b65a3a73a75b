"""Build typed, frozen dataclasses from plain YAML data, strictly.

Knows nothing about training: it reads type hints, refuses unknown keys with the nearest known name,
refuses wrong types with the field's full path, and converts only what YAML cannot express (paths,
and the numbers `1e-5` that YAML 1.1 reads as text).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from nanotron_zagreus.config.rules import path_text
from nanotron_zagreus.errors import InputError

T = TypeVar("T")

_MISSING = dataclasses.MISSING
_MAX_INT = 2**63
_MAX_SHOWN = 12
"""Further unknown keys of a section that one error names; a file of upstream's brings as many at once."""
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


class UnknownKeyError(InputError):
    """A section holds keys that it does not know."""

    def __init__(self, path: str, keys: list[str], known: list[str]) -> None:
        key, *others = keys
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        # Keys of upstream's that we do not have are often like one of ours: metrics_logging, attention_bias.
        here = ", ".join(known)
        advice = f"did you mean {near[0]!r}? If not, remove it" if near else f"remove it; known keys here: {here}"
        self.path, self.key = _join(path, key), key
        self.others = f"; unknown here too: {', '.join(map(_name, others[:_MAX_SHOWN]))}" if others else ""
        if len(others) > _MAX_SHOWN:
            self.others += ", …"
        super().__init__(f"{self.path}: unknown key; {advice}{self.others}")


def build(cls: type[T], data: Any, path: str = "") -> T:
    """Return an instance of the dataclass ``cls`` filled from ``data``.

    Args:
        cls: a dataclass type; its hints say what each field accepts.
        data: what YAML gave for it.
        path: where ``data`` stands, such as ``optimizer.learning_rate_scheduler``.

    Raises:
        InputError: an unknown, missing or wrongly typed field, named by its full path.
    """
    if not isinstance(data, dict):
        raise InputError(f"{path or 'config'}: got {_show(data)}, expected a section with keys")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = [str(key) for key in data if key not in fields]
    if unknown:
        raise UnknownKeyError(path, unknown, list(fields))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = convert(hints[name], data[name], _join(path, name))
        elif field.default is _MISSING and field.default_factory is _MISSING:
            raise InputError(f"{_join(path, name)}: missing, and it has no default; add it to the config")
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{path}.{error}" if path else str(error)) from error


def convert(hint: Any, value: Any, path: str) -> Any:
    """Return ``value`` as the type that ``hint`` names, or raise InputError naming ``path``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, path)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{path}: got {_show(value)}, expected one of {', '.join(map(_show, arguments))}")
        return value
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise InputError(f"{path}: got {_show(value)}, expected a list")
        return tuple(convert(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{path}: got {_show(value)}, expected a mapping")
        return {
            convert(arguments[0], key, f"{path} key"): convert(arguments[1], item, _join(path, str(key)))
            for key, item in value.items()
        }
    if is_section(hint):
        return build(typing.cast(type[Any], hint), value, path)
    return _convert_scalar(hint, value, path)


def is_section(hint: Any) -> bool:
    """Say whether a type hint names a section: a dataclass."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def field_paths(cls: type, name: str, path: str = "") -> list[str]:
    """Return the paths at which a field called ``name`` stands in ``cls`` or in the sections below it."""
    found = []
    for field, hint in typing.get_type_hints(cls).items():
        here = _join(path, field)
        if field == name:
            found.append(here)
        for section in filter(is_section, (hint, *get_args(hint))):
            found += field_paths(section, name, f"{here}[]" if get_origin(hint) is tuple else here)
    return found


def to_plain(value: Any) -> Any:
    """Return ``value`` as what YAML can write: the inverse of :func:`build`.

    A section's keys are sorted, as upstream writes them; the keys of a plain mapping keep their order, which for
    `dataset_folder` is the order of the sources.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = sorted(field.name for field in dataclasses.fields(value))
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert_union(arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    """Return ``value`` as the member of a union that has its form; sections are told apart by their keys."""
    if value is None:
        if type(None) in arguments:
            return None
        raise InputError(f"{path}: got null, and this field cannot be empty; give it a value")
    members = [member for member in arguments if member is not type(None)]
    alike = [member for member in members if _form(member) == _form(type(value))] or members
    if _form(type(value)) is dict and len(alike) > 1:
        _refuse_two_forms(alike, value, path)
        return convert(max(alike, key=lambda member: _known_keys(member, value)), value, path)
    errors = []
    for member in alike:
        try:
            return convert(member, value, path)
        except InputError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    # The first names field and value; of the others, what they expected.
    expected = dict.fromkeys(str(error).split(", expected ", 1)[-1] for error in errors)
    raise InputError(" or ".join([str(errors[0]), *list(expected)[1:]]))


def _refuse_two_forms(sections: list[Any], value: dict[str, Any], path: str) -> None:
    """Refuse a mapping that fills several of a union's sections at once: every key is known, but not to one of them."""
    forms = [{field.name for field in dataclasses.fields(member)} for member in sections if is_section(member)]
    if set(value) <= set().union(*forms) and not any(set(value) <= names for names in forms):
        either = " or ".join(", ".join(sorted(names)) for names in forms)
        raise InputError(f"{path}: got {', '.join(sorted(value))} together, expected either {either}; keep one")


def _form(hint: Any) -> type:
    """Return what a value of this type looks like in YAML: a mapping, a list, or a scalar."""
    kind = get_origin(hint) or hint
    if kind is dict or is_section(kind):
        return dict
    return list if kind in (list, tuple) else object


def _convert_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= _MAX_INT:
            raise InputError(f"{path}: got {_show(value)}, expected a whole number below 2^63")
        return value
    if hint is float:
        number = _as_float(value)
        if number is not None:
            if not math.isfinite(number):
                raise InputError(f"{path}: got {_show(value)}, expected a finite number")
            return number
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str | Path):
        path_text(path, str(value))
        return Path(value)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    hint_text = names.get(hint, str(hint))
    advice = ""
    if hint is int and isinstance(value, str) and _as_float(value) is not None:
        advice = "; write it as digits, YAML reads this as text"
    kind = "" if value is None else f" ({type(value).__name__})"
    raise InputError(f"{path}: got {_show(value)}{kind}, expected {hint_text}{advice}")


def _known_keys(member: Any, value: dict[str, Any]) -> int:
    """Count the keys of ``value`` that a section knows; a plain mapping takes any key, and less eagerly."""
    return len({field.name for field in dataclasses.fields(member)} & set(value)) if is_section(member) else 0


def _as_float(value: Any) -> float | None:
    """Return ``value`` as a number, text included: YAML 1.1 reads 1e-5, without a dot, as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _show(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _join(path: str, name: str) -> str:
    """Return the path of a key."""
    return f"{path}.{_name(name)}" if path else _name(name)


def _name(key: str) -> str:
    """Return a key as text for an error; one that would break or fill the line is quoted and cut."""
    return key if key.isprintable() and len(key) <= 80 else _show(key)
