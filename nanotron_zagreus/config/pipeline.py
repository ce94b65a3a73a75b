"""Which pipeline rank holds which blocks: the engine's rule, computed without the engine."""

from __future__ import annotations


def block_ranks(num_layers: int, layer_cost: int, head_cost: int, pp: int) -> list[int]:
    """Return the rank of each block in the engine's order: embedding, decoder layers, final norm, output head.

    nanotron 0.4 (models/base.py, build_model) walks them in order and moves on to the next rank once the costs so far
    exceed that rank's even share.

    Args:
        num_layers: decoder layers.
        layer_cost, head_cost: multiply-adds per token of one layer and of the output head.
        pp: pipeline ranks.
    """
    total = num_layers * layer_cost + head_cost
    ranks, rank, so_far = [], 0, 0
    for cost in (0, *[layer_cost] * num_layers, 0, head_cost):
        ranks.append(rank)
        so_far += cost
        if so_far > total * ((rank + 1) / pp):
            rank += 1
    return ranks


def layers_per_pipeline_rank(num_layers: int, layer_cost: int, head_cost: int, pp: int) -> list[int] | None:
    """Return how many decoder layers each rank gets, or None when the last rank would get no block at all.

    The engine takes the head to stand on the last rank, which a heavy head prevents. Arguments as of `block_ranks`.
    """
    ranks = block_ranks(num_layers, layer_cost, head_cost, pp)
    return [ranks[1:-2].count(rank) for rank in range(pp)] if ranks[-1] == pp - 1 else None
