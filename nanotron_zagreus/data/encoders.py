"""Turn documents into tokens: with Hugging Face tokenizers, or with gigatoken once it has proven equal.

An encoder takes a list of texts and gives all tokens in one array and the number of tokens of each text,
special tokens included. tokenizers is the reference. gigatoken is many times faster and young, so it never
works alone: `ProvenEncoder` compares it with the reference on hard cases, on the first documents of a task and
on a random sample throughout, and a single difference ends its use. Of a document above 4M characters that is drawn a
piece is given to both as a text of its own, since the reference takes hundreds of bytes of memory per token: that
checks the encoder on such text, not that document's tokens.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from nanotron_zagreus.data.tokenizer_loading import TokenizerChoice, load_tokenizer
from nanotron_zagreus.errors import InputError

EncoderName = Literal["auto", "tokenizers", "gigatoken"]

_FIRST_CHARACTERS = 256 * 1024
_CHECKED_SHARE = 0.005
_LARGEST_CHECKED_CHARACTERS = 4 * 1024 * 1024
_PIECE_CHARACTERS = 256 * 1024

_log = logging.getLogger(__name__)

_HARD_CASES = (
    "", " ", "\n", "\r\n\r\n", "\t x", "a" * 300, "  leading and trailing  ", "don't WE'LL I'm", "3.14159 1,000,000 ٣٤",
    "São Paulo, ação, coração", "perché così città", "¿Qué? ¡Año!", "œuvre à côté, l'été", "e\u0301 e\u0301", "ﬁ ½ Ⅷ",
    "日本語のテキスト 中文", "한국어", "עברית العربية", "👩‍👩‍👧 🇧🇷 e🙂", "\u200b\ufeff\u00a0\u2028", "\x00\x07\x7f",
    "def f(x):\n    return x  # ok\n\n\n\tif x:\n\t\tpass", "http://a.b/c?d=e&f#g", "ÀÉÎ" * 40,
    "\ud7ff\ue000\U0010ffff",
)  # fmt: skip


class Encoder(Protocol):
    """What turns texts into tokens."""

    name: str
    batch_characters: int
    """About how many characters to encode at once."""

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of all ``texts``, uint32 [tokens], and the number of each, int64 [texts]."""


class EncoderMismatch(Exception):
    """The fast encoder gave other tokens than the reference."""


class TokenizersEncoder:
    """The reference: Hugging Face tokenizers, as datatrove's DocumentTokenizer uses it."""

    name = "tokenizers"
    # In smaller batches it is slower, in user time: 20 % at a million characters, 3 % at eight, over all text at once.
    batch_characters = 16 * 1024 * 1024

    fallback: str | None = None
    """Why it works in the place of a faster encoder."""

    def __init__(self, choice: TokenizerChoice) -> None:
        self.tokenizer = load_tokenizer(choice)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `Encoder`."""
        # Not encode_batch_fast: 0.87 times as fast with Llama's kind of byte-level BPE (tokenizers 0.23).
        tokens, ends = array("I"), [0]
        for encoding in self.tokenizer.encode_batch(list(texts)):
            tokens.fromlist(encoding.ids)
            ends.append(len(tokens))
        return np.frombuffer(tokens, dtype=np.uint32), np.diff(np.array(ends, dtype=np.int64))


class GigatokenEncoder:
    """gigatoken's byte-pair encoder, with the special tokens that its batches leave out."""

    name = "gigatoken"
    batch_characters = 1024 * 1024

    def __init__(self, choice: TokenizerChoice, reference: TokenizersEncoder, *, parallel: bool) -> None:
        """Load the tokenizer.

        Args:
            reference: tells the ids of the special tokens.
            parallel: use all cores; False: the calling thread only.

        Raises:
            InputError: gigatoken cannot load this tokenizer.
        """
        import gigatoken

        try:
            self._tokenizer = gigatoken.Tokenizer.from_json(choice.path.read_bytes())
        except Exception as error:
            raise InputError(f"--encoder: gigatoken cannot load tokenizer {choice.name!r} ({error})") from error
        ids = reference.tokenizer.token_to_id
        self._before = None if choice.bos_token is None else ids(choice.bos_token)
        self._after = None if choice.eos_token is None else ids(choice.eos_token)
        self._parallel = parallel

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `Encoder`."""
        layout = self._tokenizer.encode_batch(list(texts), parallel=self._parallel).layout
        offsets = np.asarray(layout.offsets.data)
        tokens = np.asarray(layout.content.data)[offsets[0] : offsets[-1]]
        offsets = offsets - offsets[0]
        lengths = np.diff(offsets)
        wrapped = [(0, self._before), (1, self._after)]
        wrapped = [(side, token) for side, token in wrapped if token is not None]
        if not wrapped:
            return tokens, lengths
        # Inserting at [start 0, end 0, start 1, end 1, …] keeps an end before the start that shares its place.
        places = np.stack([offsets[side : len(offsets) - 1 + side] for side, _ in wrapped], axis=1).ravel()
        specials = np.tile(np.array([token for _, token in wrapped], dtype=np.uint32), len(lengths))
        return np.insert(tokens, places, specials), lengths + len(wrapped)


class ProvenEncoder:
    """A fast encoder under watch. Raises EncoderMismatch at the first difference it sees."""

    def __init__(self, fast: Encoder, reference: TokenizersEncoder, *, seed: int) -> None:
        """Compare both on hard cases and on the tokenizer's own special tokens; ``seed`` chooses the sample."""
        self.name = fast.name
        self.batch_characters = fast.batch_characters
        self._fast = fast
        self._reference = reference
        self._random = np.random.default_rng(seed)
        self._first_characters = _FIRST_CHARACTERS
        self.num_checked = 0
        added = [token.content for token in reference.tokenizer.get_added_tokens_decoder().values()]
        specials = [f"before{token}after {token} {token}" for token in added[:64]]
        self._compare([*_HARD_CASES, *specials], *fast.encode([*_HARD_CASES, *specials]))

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `Encoder`."""
        tokens, lengths = self._fast.encode(texts)
        drawn = self._choose(texts)
        chosen = [index for index in drawn if len(texts[index]) <= _LARGEST_CHECKED_CHARACTERS]
        pieces = [self._piece(texts[index]) for index in drawn if len(texts[index]) > _LARGEST_CHECKED_CHARACTERS]
        if pieces:
            self._compare(pieces, *self._fast.encode(pieces))
        if chosen:
            ends = np.cumsum(lengths)
            rows = [tokens[ends[index] - lengths[index] : ends[index]] for index in chosen]
            self._compare([texts[index] for index in chosen], np.concatenate(rows), lengths[chosen])
        return tokens, lengths

    def _choose(self, texts: Sequence[str]) -> list[int]:
        """Return which documents to compare: the first ones of the task, then a random share."""
        chosen = np.flatnonzero(self._random.random(len(texts)) < _CHECKED_SHARE).tolist()
        for index, text in enumerate(texts):
            if self._first_characters <= 0:
                break
            self._first_characters -= len(text) if len(text) <= _LARGEST_CHECKED_CHARACTERS else _PIECE_CHARACTERS
            if index not in chosen:
                chosen.append(index)
        return sorted(chosen)

    def _piece(self, text: str) -> str:
        """Return a piece of a large document, from anywhere in it."""
        start = int(self._random.integers(0, len(text) - _PIECE_CHARACTERS + 1))
        return text[start : start + _PIECE_CHARACTERS]

    def _compare(self, texts: Sequence[str], tokens: np.ndarray, lengths: np.ndarray) -> None:
        expected, expected_lengths = self._reference.encode(texts)
        self.num_checked += len(texts)
        if np.array_equal(lengths, expected_lengths) and np.array_equal(tokens, expected):
            return
        mine, theirs = np.split(tokens, np.cumsum(lengths)[:-1]), np.split(expected, np.cumsum(expected_lengths)[:-1])
        bad = next(index for index in range(len(texts)) if not np.array_equal(mine[index], theirs[index]))
        raise EncoderMismatch(
            f"{self.name} gives {mine[bad][:8].tolist()}… ({len(mine[bad])} tokens), tokenizers "
            f"{theirs[bad][:8].tolist()}… ({len(theirs[bad])}) for {texts[bad][:60]!r}"
        )


def require_gigatoken() -> None:
    """Raise InputError where gigatoken is not installed."""
    try:
        import gigatoken  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "--encoder: gigatoken is not installed; `pip install 'nanotron-zagreus[fast]'`, or use tokenizers"
        ) from error


def make_encoder(choice: TokenizerChoice, wanted: EncoderName, *, seed: int, parallel: bool) -> Encoder:
    """Return the encoder ``wanted``; `auto` is gigatoken where it is installed and equal, else tokenizers.

    Args:
        seed: chooses which documents are compared.
        parallel: let gigatoken use all cores.

    Raises:
        InputError: gigatoken was asked for and is not installed, or cannot load the tokenizer.
        EncoderMismatch: gigatoken was asked for and differs on the hard cases.
    """
    reference = TokenizersEncoder(choice)
    if wanted == "tokenizers":
        return reference
    if wanted == "gigatoken":
        require_gigatoken()
    try:
        return ProvenEncoder(GigatokenEncoder(choice, reference, parallel=parallel), reference, seed=seed)
    except ModuleNotFoundError:
        reason = "gigatoken is not installed (`pip install 'nanotron-zagreus[fast]'` is many times faster)"
    except (InputError, EncoderMismatch) as error:
        if wanted == "gigatoken":
            raise
        reason = str(error)
    _log.warning("encoding with tokenizers: %s", reason)
    reference.fallback = reason
    return reference
