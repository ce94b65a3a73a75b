"""Which pipeline rank holds which blocks: the engine's rule, computed without the engine."""

from __future__ import annotations


def layers_per_pipeline_rank(num_layers: int, layer_cost: int, head_cost: int, pp: int) -> list[int] | None:
    """Return how many decoder layers each rank gets, or None when the last rank would get no block at all.

    nanotron 0.4 (models/base.py, build_model) walks embedding, layers, final norm and output head in order and
    moves on to the next rank once the costs so far exceed that rank's even share; it takes the head to stand on
    the last rank, which a heavy head prevents.

    Args:
        num_layers: decoder layers.
        layer_cost, head_cost: multiply-adds per token of one layer and of the output head.
        pp: pipeline ranks.
    """
    total = num_layers * layer_cost + head_cost
    costs = [0, *[layer_cost] * num_layers, 0, head_cost]
    layers = [0] * pp
    rank, so_far = 0, 0
    for index, cost in enumerate(costs):
        so_far += cost
        head_rank = rank
        if 0 < index <= num_layers:
            layers[rank] += 1
        if so_far > total * ((rank + 1) / pp):
            rank += 1
    return layers if head_rank == pp - 1 else None
