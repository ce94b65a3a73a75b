"""Rules that a single field checks for itself."""

from __future__ import annotations

from nanotron_zagreus.errors import InputError


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a value below ``least``, naming the field."""
    if value < least:
        raise InputError(f"{name}: got {value}, expected a whole number >= {least}")
