"""Write for people: counts, bytes and durations with three significant digits, and lists that may be long."""

from __future__ import annotations

from collections.abc import Sequence


def human_count(number: float) -> str:
    """Return ``number`` with a suffix in powers of 1000: 437.8M, 2.1T."""
    return _scaled(number, ("", "K", "M", "B", "T", "Q"))


def human_bytes(num_bytes: float) -> str:
    """Return ``num_bytes`` in powers of 1000: 6.13 GB."""
    return _scaled(num_bytes, (" B", " kB", " MB", " GB", " TB", " PB"))


def human_duration(seconds: float) -> str:
    """Return ``seconds`` in its two largest units: 13 d 4 h, 2 h 5 min, 38 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((index for index, (value, _) in enumerate(parts) if value), len(parts) - 1)
    return " ".join(f"{value} {unit}" for value, unit in parts[first : first + 2] if value) or "0 s"


def first_few(names: Sequence[object], most: int) -> str:
    """Return the first ``most`` of ``names``, and how many more there are: a, b and 3 more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def _scaled(number: float, suffixes: tuple[str, ...]) -> str:
    """Return ``number`` with three significant digits and the suffix that keeps it under 1000."""
    scaled, index = float(number), 0
    while float(f"{scaled:.3g}") >= 1000 and index < len(suffixes) - 1:
        scaled /= 1000
        index += 1
    digits = f"{scaled:.3g}" if scaled < 1000 else f"{scaled:,.0f}"
    return f"{digits}{suffixes[index]}"
