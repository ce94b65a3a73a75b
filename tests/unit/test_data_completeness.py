"""A tokenization that did not end is not taken for a whole one."""

import json

import pytest

from nanotron_zagreus.cli.app import EXIT_VERIFICATION, run
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.data.shard_file import shard_name
from nanotron_zagreus.errors import InputError
from tests.unit.data_fixtures import make_config, write_shard


@pytest.fixture
def folder(tmp_path):
    """Four tasks, the last without documents, all done."""
    folder = tmp_path / "source"
    (folder / "logs" / "results").mkdir(parents=True)
    (folder / "logs" / "plan.json").write_text(json.dumps({"format": 1, "tasks": [[["x", 1, "jsonl", None]]] * 4}))
    for rank in range(4):
        result = {"done": True, "documents": 0 if rank == 3 else 143, "tokens": 0 if rank == 3 else 1000}
        (folder / "logs" / "results" / f"{rank:05d}.json").write_text(json.dumps(result))
        if rank < 3:
            write_shard(folder, rank, 1000)
    return folder


def remove(folder, rank, *suffixes):
    for suffix in suffixes:
        (folder / (shard_name(rank) + suffix)).unlink()


def refuse(folder, word, capsys):
    """Hold that verify ends with 3, stats says it, and no run starts on the folder."""
    with pytest.raises(InputError, match=word):
        open_mixture(make_config([{"dataset": {"dataset_folder": str(folder)}}]))
    assert run(["shards", "verify", str(folder.parent)]) == EXIT_VERIFICATION
    captured = capsys.readouterr()
    assert word in captured.out and word in captured.err
    assert run(["shards", "stats", str(folder)]) == 0
    assert word in " ".join(capsys.readouterr().out.split())
    assert run(["shards", "stats", "--json", str(folder)]) == 0
    assert word in json.loads(capsys.readouterr().out)[0]["problems"][0]


def test_a_complete_folder_is_sound_although_a_task_had_no_documents(folder, capsys):
    open_mixture(make_config([{"dataset": {"dataset_folder": str(folder)}}]))
    assert run(["shards", "verify", str(folder)]) == 0
    assert "all sound" in capsys.readouterr().out


def test_the_shard_of_a_finished_task_is_missed(folder, capsys):
    remove(folder, 1, "", ".index", ".metadata")
    refuse(folder, "task 1 of its 4 tasks", capsys)


def test_a_task_that_did_not_finish_is_missed(folder, capsys):
    (folder / "logs" / "results" / "00003.json").write_text(json.dumps({"done": False, "documents": 0, "tokens": 0}))
    remove(folder, 2, "", ".index", ".metadata")
    (folder / "logs" / "results" / "00002.json").unlink()
    refuse(folder, "task 2, 3 of its 4 tasks", capsys)


@pytest.mark.parametrize("plan", [True, False])
def test_files_that_lost_their_shard_are_named(plan, folder, capsys):
    remove(folder, 0, "")
    if not plan:
        (folder / "logs" / "plan.json").unlink()
    refuse(folder, "00000_unshuffled.ds.index, 00000_unshuffled.ds.metadata without the .ds file", capsys)


def test_a_shard_that_is_not_what_its_task_wrote_is_found(folder, capsys):
    write_shard(folder, 1, 993)
    assert run(["shards", "verify", str(folder)]) == EXIT_VERIFICATION
    assert "holds 993 tokens, its task wrote 1,000" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_plan_that_cannot_be_read_is_refused(text, folder):
    (folder / "logs" / "plan.json").write_text(text)
    with pytest.raises(InputError, match=r"plan\.json: not readable as a plan"):
        open_mixture(make_config([{"dataset": {"dataset_folder": str(folder)}}]))


def test_a_folder_with_a_plan_and_no_shard_is_found_beside_others(folder, capsys):
    for rank in range(3):
        remove(folder, rank, "", ".index", ".metadata")
    write_shard(folder.parent / "other", 0, 1000)
    assert run(["shards", "verify", str(folder.parent)]) == EXIT_VERIFICATION
    assert "task 0, 1, 2 of its 4 tasks" in capsys.readouterr().err
