"""Encoders: equal to datatrove's tokens with any special tokens, and watched."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanotron_zagreus.data.encoders import (
    EncoderMismatch,
    GigatokenEncoder,
    ProvenEncoder,
    TokenizersEncoder,
    make_encoder,
)
from nanotron_zagreus.data.tokenizer_loading import choose_tokenizer, load_tokenizer
from nanotron_zagreus.errors import InputError
from tests.unit.tokenizer_fixtures import TEXTS, train_tokenizer

BOTH = [(True, False), (True, True), (False, True), (False, False)]


@pytest.fixture(scope="module")
def choices(tmp_path_factory):
    path = train_tokenizer(tmp_path_factory.mktemp("tokenizer"), named=True)
    return {flags: choose_tokenizer(str(path), bos=flags[0], eos=flags[1]) for flags in BOTH}


@pytest.fixture(scope="module")
def encoders(choices):
    pytest.importorskip("gigatoken")
    made = {}
    for flags, choice in choices.items():
        reference = TokenizersEncoder(choice)
        made[flags] = (GigatokenEncoder(choice, reference, parallel=False), reference)
    return made


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=8), flags=st.sampled_from(BOTH))
def test_gigatoken_gives_the_tokens_of_tokenizers(encoders, choices, texts, flags):
    rows = [encoding.ids for encoding in load_tokenizer(choices[flags]).encode_batch(texts)]
    for encoder in encoders[flags]:
        tokens, lengths = encoder.encode(texts)
        assert lengths.tolist() == [len(row) for row in rows]
        assert tokens.tolist() == [token for row in rows for token in row]


class Wrong:
    """gigatoken, except that one word of a text spoils a token."""

    name = "wrong"
    batch_characters = 1000

    def __init__(self, right, word):
        self._right, self._word = right, word

    def encode(self, texts):
        tokens, lengths = self._right.encode(texts)
        if any(self._word in text for text in texts):
            tokens = tokens.copy()
            tokens[-1] += 1
        return tokens, lengths


def test_an_encoder_that_fails_a_hard_case_is_never_used(encoders):
    fast, reference = encoders[True, False]
    with pytest.raises(EncoderMismatch, match="wrong gives"):
        ProvenEncoder(Wrong(fast, "São Paulo"), reference, seed=0)


def test_a_wrong_first_document_is_noticed(encoders):
    fast, reference = encoders[True, False]
    proven = ProvenEncoder(Wrong(fast, "Document 7:"), reference, seed=0)
    with pytest.raises(EncoderMismatch, match="Document 7"):
        proven.encode(TEXTS[:8])


def test_documents_are_compared_throughout(encoders):
    fast, reference = encoders[True, False]
    proven = ProvenEncoder(fast, reference, seed=0)
    before = proven.num_checked
    for _ in range(100):
        proven.encode(["x" * 4000] * 100)
    compared = proven.num_checked - before
    assert 65 + 10 < compared < 66 + 100  # 256 KiB of first documents, and about 1 in 200 of the rest


def test_a_piece_of_a_huge_document_is_compared(encoders, monkeypatch):
    fast, reference = encoders[True, False]
    monkeypatch.setattr("nanotron_zagreus.data.encoders._LARGEST_CHECKED_CHARACTERS", 5000)
    monkeypatch.setattr("nanotron_zagreus.data.encoders._PIECE_CHARACTERS", 1000)
    huge = "ratos fugiram " * 5000
    with pytest.raises(EncoderMismatch, match="wrong gives"):
        ProvenEncoder(Wrong(fast, "ratos"), reference, seed=0).encode([huge])


def test_huge_documents_do_not_use_up_the_first_sample(encoders, monkeypatch):
    fast, reference = encoders[True, False]
    monkeypatch.setattr("nanotron_zagreus.data.encoders._LARGEST_CHECKED_CHARACTERS", 100_000)
    monkeypatch.setattr("nanotron_zagreus.data.encoders._PIECE_CHARACTERS", 1000)
    monkeypatch.setattr("nanotron_zagreus.data.encoders._CHECKED_SHARE", 0)
    proven = ProvenEncoder(fast, reference, seed=0)
    before = proven.num_checked
    proven.encode(["x" * 300_000, *(["y" * 1000] * 10)])
    assert proven.num_checked - before == 11


def test_auto_falls_back_and_says_so(choices, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    encoder = make_encoder(choices[True, False], "auto", seed=0, parallel=False)
    assert encoder.name == "tokenizers"
    assert "gigatoken is not installed" in caplog.text
    assert "gigatoken is not installed" in encoder.fallback
    with pytest.raises(InputError, match=r"\[fast\]"):
        make_encoder(choices[True, False], "gigatoken", seed=0, parallel=False)


def test_a_tokenizer_gigatoken_cannot_load_goes_to_tokenizers(tmp_path, caplog):
    pytest.importorskip("gigatoken")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "um": 1, "texto": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    choice = choose_tokenizer(str(tmp_path), bos=False)
    encoder = make_encoder(choice, "auto", seed=0, parallel=False)
    assert encoder.name == "tokenizers"
    assert "cannot load" in caplog.text
    assert encoder.encode(["um texto"])[0].tolist() == [1, 2]
    with pytest.raises(InputError, match="cannot load"):
        make_encoder(choice, "gigatoken", seed=0, parallel=False)


def test_lengths_and_tokens_have_the_declared_types(encoders):
    for encoder in encoders[True, True]:
        tokens, lengths = encoder.encode(["a", ""])
        assert (tokens.dtype, lengths.dtype) == (np.uint32, np.int64)
