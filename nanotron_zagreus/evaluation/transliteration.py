"""Write text in plain ASCII: accents off, typographic signs as typewriters have them.

The Portuguese leaderboard uses Unidecode (GPL) for this; text-unidecode holds the same tables in an older
state under the Artistic License. The signs of Portuguese text, of exam questions above all, that changed since
stand here, and what the older tables do not know is read off its Unicode name if that names a Latin capital,
else decomposed by Unicode's own rules.
"""

from __future__ import annotations

import re
import unicodedata

_CHANGED_SINCE = {
    **{"¼": " 1/4", "½": " 1/2", "¾": " 3/4", "−": "-", "Ŋ": "NG", "ŋ": "ng", "ẞ": "SS"},
    **{"™": "(tm)", "℠": "(sm)", "№": "No. ", "℃": "degC", "℉": "degF", "\u2126": "ohm", "₹": "Rs", "₿": "BTC"},
    **{"≤": "<=", "≥": ">=", "≠": "", "∗": "*", "∕": "/", "∖": "\\", "∣": "|", "∶": ":", "∼": "~"},
}
# A capital in another dress, by its Unicode name, and how it is written.
_CAPITALS = (
    (re.compile(r"LATIN LETTER SMALL CAPITAL ([A-Z])"), "{}"),
    (re.compile(r"NEGATIVE CIRCLED LATIN CAPITAL LETTER ([A-Z])"), "({})"),
    (re.compile(r"(?:NEGATIVE )?SQUARED LATIN CAPITAL LETTER ([A-Z])"), "[{}]"),
)
_UNKNOWN = ("", "[?]")


def to_ascii(text: str) -> str:
    """Return ``text`` in ASCII: ``Não – é`` becomes ``Nao - e``; signs without a reading are left out."""
    if text.isascii():
        return text
    return "".join(character if character.isascii() else _ascii_of(character) for character in text)


def _ascii_of(character: str) -> str:
    if character in _CHANGED_SINCE:
        return _CHANGED_SINCE[character]
    from text_unidecode import unidecode

    reading: str = unidecode(character)
    if reading.strip() in _UNKNOWN and not reading.isspace():
        return _capital_in(unicodedata.name(character, "")) or _decomposed(character)
    return reading


def _capital_in(name: str) -> str:
    for pattern, written in _CAPITALS:
        match = pattern.fullmatch(name)
        if match:
            return written.format(match[1])
    return ""


def _decomposed(character: str) -> str:
    return "".join(part for part in unicodedata.normalize("NFKD", character) if part.isascii())
