"""The metadata of one shard: which box of the whole tensor each box of the file holds.

Nanotron stores, in the safetensors header of every tensor-parallel shard, `version`,
`unsharded_shape` and `local_global_slices_pairs` such as `0,24,None|None,None,None#24,48,None|…;…`.
This module reads and writes that text; files and tensors belong to `model_shards`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from nanotron_zagreus.errors import InputError

Span = tuple[int, int]
"""Start (included) and stop (excluded) along one dimension, in elements."""

Box = tuple[Span, ...]
"""One span per dimension."""

_NUMPY_INTEGER = re.compile(r"np\.u?int\d+\((\d+)\)")
_SHAPE = re.compile(r"\(?\s*(\d+\s*,\s*)*(\d+\s*)?\)?")
_MAX_TEXT = 1 << 16
_MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class SlicePair:
    """A box of the shard and the box of the whole tensor it fills; both have the same shape."""

    local: Box
    whole: Box


def parse_shape(text: str) -> tuple[int, ...]:
    """Return the shape that `unsharded_shape` holds; numpy 2's `(np.int64(200), 120)` is read too.

    Raises:
        InputError: the text is no shape.
    """
    plain = _NUMPY_INTEGER.sub(r"\1", text) if len(text) <= _MAX_TEXT else "?"
    if not _SHAPE.fullmatch(plain.strip()):
        raise InputError(f"unsharded_shape: got {text[:80]!r}, expected a tuple of whole numbers")
    shape = tuple(int(number) for number in re.findall(r"\d+", plain))
    if len(shape) > _MAX_DIMENSIONS:
        raise InputError(f"unsharded_shape: got {len(shape)} dimensions, expected at most {_MAX_DIMENSIONS}")
    return shape


def parse_slice_pairs(text: str, local_shape: Sequence[int], whole_shape: Sequence[int]) -> tuple[SlicePair, ...]:
    """Return the pairs that `local_global_slices_pairs` holds, with every open end resolved.

    Args:
        text: pairs separated by `;`, local and whole side by `#`, dimensions by `|`, each `start,stop,step`.
        local_shape: shape of the tensor in the file.
        whole_shape: shape of the unsharded tensor.

    Raises:
        InputError: malformed text, a step other than 1, or a box outside its tensor.
    """
    if len(text) > _MAX_TEXT:
        raise InputError(f"local_global_slices_pairs: {len(text)} characters, expected at most {_MAX_TEXT}")
    pairs = []
    for pair_text in text.split(";"):
        sides = pair_text.split("#")
        if len(sides) != 2:
            raise InputError(f"local_global_slices_pairs: got {pair_text[:80]!r}, expected local#whole")
        pair = SlicePair(_parse_box(sides[0], local_shape), _parse_box(sides[1], whole_shape))
        if box_shape(pair.local) != box_shape(pair.whole):
            raise InputError(
                f"local_global_slices_pairs: {pair_text[:80]!r} maps {box_shape(pair.local)} onto "
                f"{box_shape(pair.whole)}; both sides must have the same shape"
            )
        pairs.append(pair)
    return tuple(pairs)


def format_slice_pairs(pairs: Sequence[SlicePair], split_dim: int, *, open_local: bool) -> str:
    """Return the text Nanotron writes: numbers along ``split_dim``, `None,None,None` elsewhere.

    Args:
        pairs: the shard's boxes.
        split_dim: the dimension the tensor is split along.
        open_local: write the local side open too, as Nanotron does for a tensor of one chunk.
    """

    def side(box: Box, is_open: bool) -> str:
        return "|".join(
            f"{span[0]},{span[1]},None" if dim == split_dim and not is_open else "None,None,None"
            for dim, span in enumerate(box)
        )

    return ";".join(f"{side(pair.local, open_local)}#{side(pair.whole, False)}" for pair in pairs)


def box_shape(box: Box) -> tuple[int, ...]:
    """Return the shape of a box."""
    return tuple(stop - start for start, stop in box)


def covers_exactly(boxes: Sequence[Box], shape: Sequence[int]) -> bool:
    """Tell whether the boxes hold every element of a tensor of ``shape`` once and only once.

    Boxes inside the tensor that are pairwise disjoint and whose volumes add up to the tensor's cover it
    exactly; that needs no mask of the tensor's size.
    """
    if sum(prod(box_shape(box)) for box in boxes) != prod(shape):
        return False
    return not any(_overlap(a, b) for index, a in enumerate(boxes) for b in boxes[index + 1 :])


def _overlap(a: Box, b: Box) -> bool:
    return all(max(x[0], y[0]) < min(x[1], y[1]) for x, y in zip(a, b, strict=True))


def _parse_box(text: str, shape: Sequence[int]) -> Box:
    parts = text.split("|")
    if len(parts) != len(shape):
        raise InputError(
            f"local_global_slices_pairs: got {len(parts)} dimensions in {text[:80]!r} for shape {tuple(shape)}"
        )
    return tuple(_parse_span(part, size) for part, size in zip(parts, shape, strict=True))


def _parse_span(text: str, size: int) -> Span:
    numbers = [_NUMPY_INTEGER.sub(r"\1", part.strip()) for part in text.split(",")]
    if len(numbers) != 3 or not all(part == "None" or part.isdecimal() for part in numbers):
        raise InputError(f"local_global_slices_pairs: got slice {text[:80]!r}, expected start,stop,step")
    start, stop, step = (None if part == "None" else int(part) for part in numbers)
    if step not in (None, 1):
        raise InputError(f"local_global_slices_pairs: got step {step} in {text!r}, only 1 is known")
    span = (start or 0, size if stop is None else stop)
    if not 0 <= span[0] < span[1] <= size:
        raise InputError(f"local_global_slices_pairs: slice {text!r} lies outside 0..{size}")
    return span
