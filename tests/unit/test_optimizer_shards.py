"""Optimizer state written at one topology is read whole, and at another, bit for bit."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from nanotron_zagreus.checkpoints.optimizer_shards import OptimizerShards, Placement, write_optimizer_shard
from nanotron_zagreus.checkpoints.shard_metadata import SlicePair
from nanotron_zagreus.errors import InputError, MissingInputError

NAME = "model.decoder.0.pp_block.attn.qkv_proj.weight"


def placements(rows: tuple[int, ...], columns: int, tp: int, dp: int) -> list[Placement]:
    """Return where every (tp, dp) rank's part of a tensor of fused row chunks lies."""
    found = []
    for tp_rank in range(tp):
        pairs, whole_start, local_start = [], 0, 0
        for chunk in rows:
            part = chunk // tp
            local = ((local_start, local_start + part), (0, columns))
            first = whole_start + tp_rank * part
            pairs.append(SlicePair(local, ((first, first + part), (0, columns))))
            whole_start, local_start = whole_start + chunk, local_start + part
        bounds = [local_start * columns * r // dp for r in range(dp + 1)]
        found += [
            Placement(
                whole_shape=(whole_start, columns),
                local_shape=(local_start, columns),
                pairs=tuple(pairs),
                start=start,
                stop=stop,
            )
            for start, stop in pairwise(bounds)
        ]
    return found


def cut(whole: torch.Tensor, placement: Placement) -> torch.Tensor:
    local = torch.empty(placement.local_shape)
    for pair in placement.pairs:
        local[tuple(slice(*s) for s in pair.local)] = whole[tuple(slice(*s) for s in pair.whole)]
    return local.flatten()[placement.start : placement.stop]


def write_all(folder: Path, whole: torch.Tensor, parts: list[Placement]) -> None:
    (folder / "optimizer").mkdir(parents=True)
    for number, placement in enumerate(parts):
        path = folder / "optimizer" / f"optimizer_{number}.safetensors"
        write_optimizer_shard(path, {NAME: {"exp_avg": cut(whole, placement)}}, {NAME: placement}, {NAME: 7})


@settings(max_examples=25, deadline=None)
@given(
    before=st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 3)),
    after=st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 3)),
    columns=st.integers(1, 5),
)
def test_any_topology_reads_any_other(
    tmp_path_factory: pytest.TempPathFactory, before: tuple[int, int], after: tuple[int, int], columns: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    whole = torch.randn(8 + 4 + 4, columns)
    write_all(folder, whole, placements((8, 4, 4), columns, *before))
    shards = OptimizerShards(folder)
    assert shards.adam_steps == {NAME: 7}
    assert torch.equal(shards.read_whole("exp_avg", NAME), whole)
    for wanted in placements((8, 4, 4), columns, *after):
        assert torch.equal(shards.read("exp_avg", NAME, wanted), cut(whole, wanted))


def test_a_larger_padded_vocabulary_gets_zero_rows(tmp_path: Path) -> None:
    whole = torch.randn(6, 3)
    write_all(tmp_path, whole, placements((6,), 3, 1, 1))
    read = OptimizerShards(tmp_path).read("exp_avg", NAME, placements((8,), 3, 2, 1)[1]).view(4, 3)
    assert torch.equal(read[:2], whole[4:])
    assert not read[2:].any()


def test_a_missing_ranks_file_is_refused(tmp_path: Path) -> None:
    for dp, tp in ((2, 1), (1, 2)):
        folder = tmp_path / f"{dp}{tp}"
        write_all(folder, torch.randn(8, 2), placements((8,), 2, tp, dp))
        (folder / "optimizer" / "optimizer_1.safetensors").unlink()
        with pytest.raises(InputError, match="incomplete"):
            OptimizerShards(folder).read_whole("exp_avg", NAME)


def test_what_is_not_there_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path, torch.randn(8, 2), placements((8,), 2, 1, 1))
    shards, (here,) = OptimizerShards(tmp_path), placements((8,), 2, 1, 1)
    with pytest.raises(InputError, match="no master of"):
        shards.read("master", NAME, here)
    with pytest.raises(InputError, match=r"no optimizer state for lm_head.*another model"):
        shards.read("exp_avg", "lm_head", here)
    with pytest.raises(InputError, match=r"has shape \(8, 2\), the model \(8, 3\)"):
        shards.read("exp_avg", NAME, placements((8,), 3, 1, 1)[0])


@pytest.mark.parametrize(
    "changes",
    [{"span": [-1, 4]}, {"span": [5, 4]}, {"span": [0, 17]}, {"pairs": []}, {"local_shape": [9, 2]}],
)
def test_a_placement_that_does_not_fit_its_shapes_is_refused(changes: dict[str, object]) -> None:
    (whole,) = placements((8,), 2, 1, 1)
    data = json.loads(json.dumps(whole.to_json()))
    assert Placement.from_json(data) == whole
    with pytest.raises(ValueError, match="does not fit its own shapes"):
        Placement.from_json(data | changes)


def test_pickles_and_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a" / "optimizer").mkdir(parents=True)
    (tmp_path / "a" / "optimizer" / "optimizer.pt").write_bytes(b"pickle")
    with pytest.raises(MissingInputError, match="never loaded"):
        OptimizerShards(tmp_path / "a")
    (tmp_path / "a" / "optimizer" / "optimizer.pt").unlink()
    with pytest.raises(MissingInputError, match=r"no optimizer state in safetensors there$"):
        OptimizerShards(tmp_path / "a")
    write_all(tmp_path / "b", torch.randn(8, 2), placements((8,), 2, 1, 1))
    path = tmp_path / "b" / "optimizer" / "optimizer_0.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"optimizer_0\.safetensors"):
        OptimizerShards(tmp_path / "b")


def test_files_are_reproducible_and_the_library_reads_them(tmp_path: Path) -> None:
    whole = torch.randn(8, 2)
    for name in ("a", "b"):
        write_all(tmp_path / name, whole, placements((8,), 2, 1, 1))
    files = [tmp_path / name / "optimizer" / "optimizer_0.safetensors" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with safe_open(files[0], framework="pt") as file:
        assert torch.equal(file.get_tensor(f"exp_avg/{NAME}"), whole.flatten())
        assert json.loads(file.metadata()["adam_steps"]) == {NAME: 7}
