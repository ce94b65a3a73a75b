"""Whole reads of shards, and the commands around them."""

import json

import numpy as np
import pytest

from nanotron_zagreus.cli.app import EXIT_BAD_INPUT, EXIT_VERIFICATION, run
from nanotron_zagreus.data import verification
from nanotron_zagreus.data.verification import mixed_tokenizers, random_window, shard_paths, verify_shard
from nanotron_zagreus.errors import MissingInputError
from tests.unit.data_fixtures import make_config, write_shard, write_source
from tests.unit.tokenizer_fixtures import train_tokenizer


@pytest.fixture
def folder(tmp_path):
    for rank in range(3):
        write_shard(tmp_path / "source", rank, 1000)
    return tmp_path / "source"


def overwrite(path, place, values, dtype):
    with path.open("r+b") as file:
        file.seek(place * np.dtype(dtype).itemsize)
        file.write(np.array(values, dtype=dtype).tobytes())


def test_a_sound_shard_has_no_problem(folder):
    report = verify_shard(folder / "00000_unshuffled.ds", 1000)
    assert (report.problem, report.num_tokens, report.num_documents, report.largest_token) == (None, 1000, 143, 999)


def test_a_single_token_out_of_range_is_found_with_its_place(folder):
    overwrite(folder / "00001_unshuffled.ds", 517, [1000], "<u2")
    problem = verify_shard(folder / "00001_unshuffled.ds", 1000).problem
    assert "token 1000 at place 517" in problem and "00001" in problem
    assert "remove its files" in problem  # or a rerun takes the shard for done


def test_the_vocabulary_size_is_taken_from_the_record(folder):
    record = {"tokenizer": "test-tokenizer", "vocab_size": 500}
    (folder / "tokenization.json").write_text(json.dumps(record))
    assert "vocabulary of 500" in verify_shard(folder / "00000_unshuffled.ds").problem


def test_documents_that_go_backwards_are_found(folder):
    overwrite(folder / "00002_unshuffled.ds.index", 5, [3], "<u8")
    problem = verify_shard(folder / "00002_unshuffled.ds").problem
    assert "go backwards" in problem and "remove its files" in problem


def test_a_shard_of_another_tokenizer_is_found(folder):
    write_shard(folder, 1, 1000, tokenizer="another")
    assert "another" in mixed_tokenizers(shard_paths(folder))[0]
    (folder / "tokenization.json").write_text(json.dumps({"tokenizer": "test-tokenizer"}))
    assert "'another'" in verify_shard(folder / "00001_unshuffled.ds").problem


def test_a_window_lies_inside_its_shard(folder):
    for seed in range(20):
        shard, first, tokens = random_window(folder, 100, seed)
        assert len(tokens) == 100 and first + 100 <= shard.num_tokens
        assert tokens[0] == first % 1000
    assert len(random_window(folder, 5000, 0)[2]) == 1000


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(MissingInputError, match=r"no \.ds"):
        shard_paths(tmp_path)


def test_what_lies_in_a_hidden_folder_or_is_called_otherwise_is_no_shard(folder):
    """As the attempts of tasks that are being done."""
    write_shard(folder / ".attempt", 0, 70)
    assert [path.parent for path in shard_paths(folder)] == [folder] * 3
    with pytest.raises(MissingInputError, match=r"no \.ds"):
        shard_paths(folder / "00000_unshuffled.ds.index")


def test_tokens_and_ends_are_judged_beyond_the_first_block(folder, monkeypatch):
    monkeypatch.setattr(verification, "_BLOCK_TOKENS", 10)
    path = folder / "00001_unshuffled.ds"
    assert verify_shard(path, 1000).problem is None
    overwrite(path, 517, [1000], "<u2")
    assert "token 1000 at place 517" in verify_shard(path, 1000).problem
    index = folder / "00002_unshuffled.ds.index"
    overwrite(index, 20, [69], "<u8")  # the first end of the third block, which then lies before the second's last
    assert "go backwards" in verify_shard(folder / "00002_unshuffled.ds").problem


def test_verify_ends_with_3_when_a_shard_is_not_sound(folder, capsys):
    assert run(["shards", "verify", str(folder), "--vocab-size", "1000"]) == 0
    assert "3 shards, 429 documents, 3,000 tokens: all sound" in capsys.readouterr().out
    (folder / "00001_unshuffled.ds").write_bytes(b"")
    assert run(["shards", "verify", str(folder)]) == EXIT_VERIFICATION
    assert "00001_unshuffled.ds" in capsys.readouterr().out
    assert run(["shards", "verify", str(folder), "--json"]) == EXIT_VERIFICATION
    reports = json.loads(capsys.readouterr().out)
    assert [report["problem"] is None for report in reports] == [True, False, True]


def test_one_shard_is_verified_by_its_path(folder, capsys):
    (folder / "00001_unshuffled.ds").write_bytes(b"")
    assert run(["shards", "verify", str(folder / "00002_unshuffled.ds")]) == 0
    assert "1 shards, 143 documents, 1,000 tokens: all sound" in capsys.readouterr().out
    assert run(["shards", "verify", str(folder / "00001_unshuffled.ds")]) == EXIT_VERIFICATION


def test_stats_refuse_to_sum_up_two_tokenizers(folder, capsys):
    write_shard(folder, 3, 70, tokenizer="another")
    assert run(["shards", "stats", str(folder)]) == EXIT_BAD_INPUT
    assert "different tokenizers: another (2 bytes a token), test-tokenizer" in capsys.readouterr().err


def test_verify_says_what_it_could_not_check(folder, capsys):
    assert run(["shards", "verify", str(folder)]) == 0
    assert "--vocab-size" in capsys.readouterr().out


def test_verify_says_what_the_tokenization_left_out(folder, capsys):
    failures = folder / "logs" / "failures"
    failures.mkdir(parents=True)
    line = json.dumps({"file": "a.jsonl", "row": 3, "error": "not JSON"}) + "\n"
    (failures / "00000.jsonl").write_text("")
    assert run(["shards", "verify", str(folder)]) == 0
    assert "left out" not in capsys.readouterr().out
    (failures / "00001.jsonl").write_text(line * 2)
    assert run(["shards", "verify", str(folder.parent)]) == 0
    printed = capsys.readouterr().out
    assert "all sound" in printed and f"2 documents or files were left out, {failures} lists them" in printed
    # The list holds the first thousand of a file, the tasks' results count all.
    (folder / "logs" / "plan.json").write_text(json.dumps({"tasks": [[], [], []]}))
    (folder / "logs" / "results").mkdir()
    (folder / "logs" / "results" / "00001.json").write_text(json.dumps({"failures": 5000, "done": False}))
    assert run(["shards", "verify", str(folder)]) == 0
    assert "5,000 documents or files" in capsys.readouterr().out


def test_stats_sum_up_each_source(folder, capsys):
    write_shard(folder.parent / "other", 0, 70)
    assert run(["shards", "stats", str(folder.parent), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["num_shards"], row["num_documents"], row["num_tokens"]) for row in rows] == [
        (1, 10, 70),
        (3, 429, 3000),
    ]
    assert run(["shards", "stats", str(folder.parent)]) == 0
    assert "3,000" in capsys.readouterr().out


def test_show_decodes_a_window(folder, tmp_path, capsys):
    tokenizer = train_tokenizer(tmp_path / "tokenizer")
    write_shard(tmp_path / "small", 0, 300, tokenizer=str(tokenizer))
    assert run(["shards", "show", str(tmp_path / "small"), "--tokens", "300", "--seed", "1"]) == 0
    assert "<|begin_of_text|>" in capsys.readouterr().out
    assert run(["shards", "show", str(tmp_path / "nowhere")]) == EXIT_BAD_INPUT


@pytest.fixture
def config_file(tmp_path):
    from nanotron_zagreus.config import dump_config

    group = {"dataset_folder": str(write_source(tmp_path / "a", [50])), "tokens": 1000, "max_epochs": 2}
    other = {"dataset_folder": str(write_source(tmp_path / "b", [50])), "tokens": 280}

    def write(train_steps):
        config = make_config(
            [{"dataset": {"dataset_groups": {"x": group, "y": other}}}], tokens={"train_steps": train_steps}
        )
        path = tmp_path / "c.yaml"
        path.write_text(dump_config(config))
        return str(path)

    return write


def test_mixture_prints_what_is_drawn(config_file, capsys):
    assert run(["mixture", "--config-file", config_file(30), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["share"], row["drawn_tokens"], row["epochs"]) for row in rows] == [
        (0.78125, 94 * 8, 94 / 50),
        (0.21875, 26 * 8, 26 / 50),
    ]
    assert run(["mixture", "--config-file", config_file(30)]) == 0
    printed = capsys.readouterr().out
    assert "78.12%" in printed and "notice" in printed and "75.00% of its target" in printed


def test_mixture_shows_the_table_and_refuses_too_many_epochs(config_file, capsys):
    assert run(["mixture", "--config-file", config_file(40)]) == EXIT_BAD_INPUT
    captured = capsys.readouterr()
    assert "78.12%" in captured.out
    assert "2.50 times (its 400 trainable tokens), more than the limit of 2" in captured.err
