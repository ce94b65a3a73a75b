"""What a rank writes into a checkpoint, what it refuses to, and what around a save that is whole ends no run."""

from __future__ import annotations

import errno
import hashlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanotron_zagreus.checkpoints import layout
from nanotron_zagreus.checkpoints.manifest import FileRecord, read_manifest
from nanotron_zagreus.errors import WorkError
from tests.unit.data_fixtures import make_config


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_written(engine: Any, value: float, tmp_path: Path) -> None:
    from nanotron_zagreus.training import saving

    weight = torch.zeros(3, 4)
    snapshot: Any = SimpleNamespace(weight_tensors=lambda: [torch.ones(2), weight], write=lambda folder, beat: [])
    pending = saving._Pending(tmp_path / ".saving-5", tmp_path / "5", {})
    saving._write(pending, snapshot, lambda: None)
    assert pending.error is None
    weight[2, 3] = value
    snapshot.write = lambda folder, beat: pytest.fail("it was written")
    saving._write(pending, snapshot, lambda: None)
    with pytest.raises(ValueError, match="nothing non-finite is saved"):
        saving._result(pending)


def test_ranks_that_fail_alike_are_named_together(engine: Any) -> None:
    """Each names its own file; 64 of them made a line of 64 paths."""
    from nanotron_zagreus.training import saving

    def full(rank: int) -> tuple[str, str]:
        return saving._words(OSError(errno.ENOSPC, "No space left on device", f"model/{rank}.safetensors"))

    failures = [None if rank == 2 else full(rank) for rank in range(64)]
    failures[5] = saving._words(ValueError("not finite"))
    assert saving._by_reason(failures) == (
        "ranks 0, 1, 3, 4 and 58 more: OSError: [Errno 28] No space left on device: 'model/0.safetensors'; "
        "rank 5: ValueError: not finite"
    )


def test_old_checkpoints_that_cannot_be_looked_for_stay(
    engine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training.saving import CheckpointSaver

    ranks: Any = SimpleNamespace(is_leader=True)
    saver = CheckpointSaver(lambda: pytest.fail("no save begins"), ranks, None)
    saver._keeping = SimpleNamespace(keep_last=1, keep_every=None)
    saver._prune(tmp_path / "out of reach")
    assert "could not look for old checkpoints" in capsys.readouterr().err


class Taker:
    """Stands for what copies the state: its snapshots write one file once they may."""

    def __init__(self) -> None:
        self.may_write = threading.Event()

    def take(self, state: Any) -> Any:
        return SimpleNamespace(weight_tensors=lambda: [], write=self._write)

    def _write(self, folder: Path, beat: Any) -> list[FileRecord]:
        assert self.may_write.wait(20)
        (folder / layout.MODEL_CONFIG_FILE).write_text("{}")
        return [FileRecord(path=layout.MODEL_CONFIG_FILE, bytes=2, sha256=hashlib.sha256(b"{}").hexdigest())]


def make_saver(root: Path, steps: list[int], *, shared: bool = True, keep_last: int | None = None) -> Any:
    """Return a saver of a run whose next saves are of ``steps``."""
    from nanotron_zagreus.training.ranks import RankLayout
    from nanotron_zagreus.training.saving import CheckpointSaver

    paths = {"checkpoints_path": str(root), "checkpoints_path_is_shared_file_system": shared}
    keeping = {"checkpoints": {"keep_last": keep_last}}
    config = make_config(
        [{"dataset": {"dataset_folder": "data"}}], checkpoints=paths, optimizer={"zero_stage": 1}, zagreus=keeping
    )
    place = {"rank": 0, "dp": 0, "tp": 0, "pp": 0, "dp_size": 2, "tp_size": 3, "pp_size": 4, "node": 0}
    ranks = RankLayout(**place, is_leader=True, writes_model=True)

    def state() -> Any:
        step = steps.pop(0)
        return SimpleNamespace(config=config, step=step, consumed_samples=4 * step, data_state={})

    saver = CheckpointSaver(state, ranks, None)
    saver._taker = Taker()  # type: ignore[assignment]
    return saver


def test_a_save_that_begins_while_another_is_written_waits_for_it(engine: Any, tmp_path: Path) -> None:
    saver = make_saver(tmp_path, [5, 6])
    saver.begin()
    assert saver.is_writing and saver.is_pending and layout.list_steps(tmp_path) == []
    threading.Timer(0.2, saver._taker.may_write.set).start()
    saver.begin()
    assert layout.list_steps(tmp_path) == [5] and saver.newest == tmp_path / "5"
    saver.finish()
    assert not saver.is_pending and not saver.is_writing
    assert layout.list_steps(tmp_path) == [5, 6] and layout.read_latest(tmp_path) == 6
    facts = read_manifest(tmp_path / "6")
    expected = {"step": 6, "consumed_samples": 24, "samples_per_step": 4, "zero_stage": 1, "shared_file_system": True}
    assert {name: facts[name] for name in expected} == expected
    assert facts["topology"] == {"dp": 2, "tp": 3, "pp": 4}


@pytest.mark.parametrize(
    ("shared", "files"), [(True, ["model_config.json", "random/b"]), (False, ["model_config.json"])]
)
def test_a_manifest_names_what_ranks_of_other_nodes_wrote_only_where_they_wrote_it_here(
    shared: bool, files: list[str], engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.training import saving

    def gather(found: list[Any], mine: Any, group: Any) -> None:
        result, _ = mine
        other = (1, [FileRecord(path="random/b", bytes=1, sha256="0")])
        found[:] = [mine, (other if isinstance(result, tuple) else None, None)]

    monkeypatch.setattr(saving.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(saving.distributed, "all_gather_object", gather)
    saver = make_saver(tmp_path, [5], shared=shared)
    saver._taker.may_write.set()
    saver.begin()
    saver.finish()
    assert [record["path"] for record in read_manifest(tmp_path / "5")["files"]] == files


def test_a_step_keeps_its_place_where_its_successor_cannot_take_it(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = make_saver(tmp_path, [5, 5])
    saver._taker.may_write.set()
    saver.begin()
    saver.finish()
    (tmp_path / "5" / "mark").touch()
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".saving"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    saver.begin()
    with pytest.raises(WorkError, match="earlier checkpoints are untouched"):
        saver.finish()
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["5", layout.LATEST_FILE]
    assert (tmp_path / "5" / "mark").exists()


def test_a_save_lets_the_checkpoint_before_it_go_and_what_is_none_stay(engine: Any, tmp_path: Path) -> None:
    saver = make_saver(tmp_path, [5, 5, 6], keep_last=1)
    saver._taker.may_write.set()
    (tmp_path / "3").mkdir()
    for left in (["3", "5"], ["3", "5"], ["3", "6"]):
        saver.begin()
        saver.finish()
        saver.wait_for_deletions()
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [*left, layout.LATEST_FILE]


def test_an_old_checkpoint_that_cannot_be_deleted_keeps_no_other(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training import saving

    deleted = []

    def delete(root: Path, step: int) -> None:
        if step == 1:
            raise OSError(13, "Permission denied")
        deleted.append(step)

    monkeypatch.setattr(saving, "delete_step", delete)
    saving._delete_steps(tmp_path, [1, 2])
    assert deleted == [2] and "could not delete" in capsys.readouterr().err
