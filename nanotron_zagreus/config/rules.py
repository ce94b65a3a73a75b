"""Rules that a single field checks for itself."""

from __future__ import annotations

from nanotron_zagreus.errors import InputError

_MAX_PATH_BYTES, _MAX_NAME_BYTES = 4096, 255
"""Linux's PATH_MAX and NAME_MAX."""


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a value below ``least``, naming the field."""
    if value < least:
        raise InputError(f"{name}: got {value}, expected a whole number >= {least}")


def at_most(name: str, value: int, most: int) -> None:
    """Refuse a value above ``most``, naming the field."""
    if value > most:
        raise InputError(f"{name}: got {value:,}, expected at most {most:,}")


def path_text(name: str, text: str) -> None:
    """Refuse text that is no path here; also what a shell would expand, and we would not."""
    if not text.strip() or "\0" in text:
        raise InputError(f"{name}: got {text!r}, expected a path")
    name_of_a_file(name, text)
    written_out(name, text)
    if "://" in text:
        raise InputError(f"{name}: got {text!r}; only paths of this machine's file systems are read, copy it there")


def written_out(name: str, text: str) -> None:
    """Refuse what a shell would expand, and we would not."""
    if text.startswith("~") or "$" in text:
        raise InputError(f"{name}: got {text!r}; ~ and $variables are not expanded here, write the path out")


def epsilon(name: str, value: float) -> None:
    """Refuse an epsilon of 1 or more, which has lost the minus of its exponent, and what is not positive."""
    if not 0 < value < 1:
        raise InputError(f"{name}: got {value}, expected a number between 0 and 1, such as 1e-5")


def name_of_a_file(name: str, text: str) -> None:
    """Refuse text that no file can be called, and line breaks, which no one means."""
    start = repr(text if len(text) <= 80 else f"{text[:77]}...")
    if any(ord(character) < 32 for character in text):
        raise InputError(f"{name}: got {start}, expected no control characters in it")
    encoded = text.encode(errors="replace")
    length, longest = len(encoded), max(map(len, encoded.split(b"/")))
    if length > _MAX_PATH_BYTES or longest > _MAX_NAME_BYTES:
        raise InputError(
            f"{name}: got {start} of {length:,} bytes, expected at most {_MAX_PATH_BYTES:,} bytes, "
            f"{_MAX_NAME_BYTES} bytes between two slashes"
        )
