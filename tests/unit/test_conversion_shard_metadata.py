"""The text in a shard's header: parsed as Nanotron writes it, refused when it is anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanotron_zagreus.checkpoints.model_shards_writing import Split, slice_pairs
from nanotron_zagreus.checkpoints.shard_metadata import (
    SlicePair,
    covers_exactly,
    format_slice_pairs,
    parse_shape,
    parse_slice_pairs,
)
from nanotron_zagreus.errors import InputError


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("(128, 64)", (128, 64)),
        ("(np.int64(200), 120)", (200, 120)),
        ("(np.int32(7),)", (7,)),
        ("(64,)", (64,)),
        ("128,64", (128, 64)),
        ("()", ()),
    ],
)
def test_shapes_of_both_numpy_generations_are_read(text: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["(-1, 2)", "(a, b)", "__import__('os')", "(1.5, 2)", "(1,,2)", "1" * 70_000])
def test_text_that_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="unsharded_shape"):
        parse_shape(text)


def test_the_engine_s_qkv_text_is_read_and_written_again() -> None:
    text = "0,24,None|None,None,None#24,48,None|None,None,None;24,32,None|None,None,None#128,136,None|None,None,None"
    pairs = parse_slice_pairs(text, (32, 120), (200, 120))
    assert pairs[0] == SlicePair(((0, 24), (0, 120)), ((24, 48), (0, 120)))
    assert format_slice_pairs(pairs, 0, open_local=False) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0,4,None|None,None,None", "local#whole"),
        ("0,4,2|None,None,None#0,4,None|None,None,None", "step"),
        ("0,9,None|None,None,None#0,9,None|None,None,None", "outside"),
        ("4,4,None|None,None,None#4,4,None|None,None,None", "outside"),
        ("-4,4,None|None,None,None#0,4,None|None,None,None", "start,stop,step"),
        ("0,4,None#0,4,None", "dimensions"),
        ("0,4,None|None,None,None#0,2,None|None,None,None", "same shape"),
        ("", "local#whole"),
    ],
)
def test_malformed_slices_are_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse_slice_pairs(text, (8, 8), (8, 8))


@given(st.text(max_size=60))
def test_no_text_makes_the_parsers_fail_in_any_other_way(text: str) -> None:
    for parse in (parse_shape, lambda value: parse_slice_pairs(value, (8, 8), (16, 8))):
        try:
            parse(text)
        except InputError:
            continue


@given(
    chunks=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    tp=st.integers(1, 6),
    other=st.integers(1, 7),
    dim=st.integers(0, 1),
)
def test_the_shards_of_every_split_cover_the_tensor_once(chunks: list[int], tp: int, other: int, dim: int) -> None:
    sizes = tuple(chunk * tp for chunk in chunks)
    shape = (sum(sizes), other) if dim == 0 else (other, sum(sizes))
    shards = [slice_pairs(shape, Split(dim, sizes), rank, tp, "weight") for rank in range(tp)]
    boxes = [pair.whole for pairs in shards for pair in pairs]
    assert covers_exactly(boxes, shape)
    assert not covers_exactly(boxes[1:], shape)
    assert len(boxes) == 1 or not covers_exactly([*boxes[1:], boxes[-1]], shape)
    for pairs in shards:
        local = (shape[0] // tp, other) if dim == 0 else (other, shape[1] // tp)
        text = format_slice_pairs(pairs, dim, open_local=False)
        assert parse_slice_pairs(text, local, shape) == pairs
