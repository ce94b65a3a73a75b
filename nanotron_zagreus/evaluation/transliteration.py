"""Write text in plain ASCII: accents off, typographic signs as typewriters have them.

The Portuguese leaderboard uses Unidecode (GPL) for this; text-unidecode holds the same tables in an older
state under the Artistic License. The signs of Portuguese text, of exam questions above all, that changed since
stand here, and what the older tables do not know is decomposed by Unicode's own rules.
"""

from __future__ import annotations

import unicodedata

_CHANGED_SINCE = {
    **{"¼": " 1/4", "½": " 1/2", "¾": " 3/4", "−": "-", "Ŋ": "NG", "ŋ": "ng", "ẞ": "SS"},
    **{"™": "(tm)", "℠": "(sm)", "№": "No. ", "℃": "degC", "℉": "degF", "\u2126": "ohm", "₹": "Rs", "₿": "BTC"},
    **{"≤": "<=", "≥": ">=", "≠": "", "∗": "*", "∕": "/", "∖": "\\", "∣": "|", "∶": ":", "∼": "~"},
}
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
        return "".join(part for part in unicodedata.normalize("NFKD", character) if part.isascii())
    return reading
