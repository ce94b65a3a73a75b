"""The published configuration over shards made for measuring: holes that stand for a trillion tokens, or real ones."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

TRILLION = 10**12
WARM_TOKENS = 4 * 10**8
"""Small enough to stay in the page cache."""
EOS = 128_001
_PUBLISHED = "smollm2/zagreus_350M_por.yaml"
_PUBLISHED_ROOT = "/training/pretraining"
_TOKENIZER = "meta-llama/Llama-3.2-1B"
_DOCUMENT_TOKENS = 600
"""The mean. Real tokens have log-normal lengths, sigma 1; holes have this length."""


def write_sources(work: Path, num_tokens: int, shards: int, *, sparse: bool) -> Path:
    """Return the parent of the published configuration's ten folders, each with ``shards`` shards; made once."""
    root = work / f"{'sparse' if sparse else 'warm'}_{shards}"
    if not root.is_dir():
        aside = root.with_suffix(".partial")
        folders = published_config(aside).data_stages[0].data.dataset.folders
        tokens = num_tokens // len(folders) // shards // _DOCUMENT_TOKENS * _DOCUMENT_TOKENS
        for number, folder in enumerate(folders):
            folder.mkdir(parents=True)
            for rank in range(shards):
                path = folder / f"{rank:05d}_unshuffled.ds"
                path.with_name(path.name + ".metadata").write_text(f"{_TOKENIZER}|4\n{tokens}\nbenchmark")
                if sparse:
                    _write_holes(path, tokens)
                else:
                    _write_tokens(path, tokens, np.random.default_rng(number * shards + rank))
        aside.rename(root)
    return root


def published_config(root: Path) -> Any:
    """Return the published configuration with its folders under ``root``; repetition is not what is measured."""
    from nanotron_zagreus.config import load_config_text
    from nanotron_zagreus.resources import find_config

    text = find_config(_PUBLISHED).read_text().replace(_PUBLISHED_ROOT, str(root))
    config = load_config_text(text, origin=_PUBLISHED)
    return replace(config, zagreus=replace(config.zagreus, max_source_epochs=float("inf")))


def _write_holes(path: Path, num_tokens: int) -> None:
    index = path.with_name(path.name + ".index")
    for file, num_bytes in ((path, num_tokens * 4), (index, num_tokens // _DOCUMENT_TOKENS * 8)):
        file.touch()
        os.truncate(file, num_bytes)
    with index.open("r+b") as out:
        out.seek(-8, os.SEEK_END)
        out.write(num_tokens.to_bytes(8, "little"))


def _write_tokens(path: Path, num_tokens: int, rng: np.random.Generator) -> None:
    tokens = rng.integers(0, 128_000, num_tokens, dtype=np.uint32)
    lengths = rng.lognormal(math.log(_DOCUMENT_TOKENS) - 0.5, 1.0, 2 * num_tokens // _DOCUMENT_TOKENS + 64)
    ends = np.cumsum(np.maximum(1, lengths.astype(np.int64)))
    ends = np.append(ends[ends < num_tokens], num_tokens)
    tokens[ends - 1] = EOS
    tokens.tofile(path)
    ends.astype("<u8").tofile(path.with_name(path.name + ".index"))
