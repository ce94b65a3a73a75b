"""The yardsticks for the demo's losses: what text costs a model that knows only how frequent each token is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from nanotron_zagreus.data.shards import list_shards


def unigram_entropy(folders: list[Path], weights: list[float], vocab_size: int) -> float:
    """Return the entropy of the mixture's token distribution, -sum p ln p, in nats per token.

    No model that ignores context can have a lower loss on this mixture (Shannon 1948, section 6).

    Args:
        folders: tokenized sources.
        weights: sampling share of each, on any positive scale.
        vocab_size: number of token ids.
    """
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    mixture = np.zeros(vocab_size)
    for folder, share in zip(folders, shares, strict=True):
        counts = count_tokens(folder, vocab_size)
        mixture += share * counts / counts.sum()
    present = mixture[mixture > 0]
    return float(-(present * np.log(present)).sum())


def unigram_bits_per_byte(folder: Path, held_out: Path, tokenizer: Tokenizer) -> float:
    """Return what unseen text costs a model that knows only the training text's token frequencies, in bits per byte.

    Every token counts once more than it was seen, so that none is impossible.

    Args:
        folder: the tokenized training text.
        held_out: jsonl documents with a `text`.
        tokenizer: the one that made the shards.
    """
    counts = count_tokens(folder, tokenizer.get_vocab_size()) + 1
    bits = -np.log2(counts / counts.sum())
    texts = [json.loads(line)["text"] for line in held_out.read_text(encoding="utf-8").splitlines()]
    cost = sum(float(bits[encoded.ids].sum()) for encoded in tokenizer.encode_batch(texts, add_special_tokens=False))
    return cost / sum(len(text.encode()) for text in texts)


def count_tokens(folder: Path, vocab_size: int) -> np.ndarray:
    """Return how often each token id stands in the shards of ``folder``: `[vocab_size]`, int64."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for shard in list_shards(folder):
        counts += np.bincount(np.fromfile(shard.path, dtype=shard.dtype), minlength=vocab_size)
    return counts
