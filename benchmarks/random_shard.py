"""A shard of random tokens, for benchmarks whose figures do not depend on what is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nanotron_zagreus.data.shard_file import ShardFile, shard_name


def write_random_shard(folder: Path, *, vocab_size: int, num_tokens: int, token_size: int) -> Path:
    """Write one document of random tokens below ``vocab_size`` as the only shard of ``folder``; return the folder."""
    folder.mkdir(parents=True)
    tokens = np.random.default_rng(0).integers(0, vocab_size, num_tokens, dtype=np.uint32)
    with ShardFile(folder, shard_name(0), tokenizer="tok", token_size=token_size) as shard:
        shard.write(tokens, np.array([num_tokens]))
        shard.finish()
    return folder
