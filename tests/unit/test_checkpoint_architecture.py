"""The architecture of a checkpoint: what it counts and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from nanotron_zagreus.conversion.weight_map import nanotron_shapes
from nanotron_zagreus.errors import InputError
from tests.unit.conversion_fixtures import TINY


@pytest.mark.parametrize("is_tied", [True, False])
def test_as_many_parameters_are_counted_as_tensors_hold(is_tied: bool) -> None:
    arch = replace(TINY, tie_word_embeddings=is_tied)
    assert arch.num_parameters == sum(prod(shape) for shape in nanotron_shapes(arch).values())


@pytest.mark.parametrize(("heads", "key_value_heads"), [(3, 1), (TINY.hidden_size, 1), (4, 3)])
def test_heads_that_divide_nothing_are_refused(heads: int, key_value_heads: int) -> None:
    with pytest.raises(InputError, match=r"num_(attention|key_value)_heads"):
        replace(TINY, num_attention_heads=heads, num_key_value_heads=key_value_heads)
