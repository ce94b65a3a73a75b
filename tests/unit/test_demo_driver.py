"""The demo's own modules: its corpus, tokenizer, questions, yardstick, and the journal of its steps."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from examples.demo import run_demo
from examples.demo.corpus import PROSE, collect_code, collect_docstrings, read_prose, split_held_out
from examples.demo.entropy import unigram_bits_per_byte, unigram_entropy
from examples.demo.held_out import write_word_order_questions
from examples.demo.report import Losses, check_learnt, measure_losses, read_losses, read_scores
from examples.demo.steps import Commands, Journal, Step, run_steps
from examples.demo.tokenizer_training import BEGIN_OF_TEXT, END_OF_TEXT, train_tokenizer
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.errors import InputError, WorkError

QUIET = Console(quiet=True)


@pytest.mark.parametrize("language", ["english", "portuguese"])
def test_prose_is_forty_kilobytes_and_repeats_nothing(language: str) -> None:
    documents = read_prose(PROSE / language)
    assert 38_000 < sum(len(document.encode()) for document in documents) < 45_000
    places = defaultdict(set)
    for number, document in enumerate(documents):
        words = document.split()
        for start in range(len(words) - 7):
            places[" ".join(words[start : start + 8])].add((number, start))
    assert not [phrase for phrase, found in places.items() if len(found) > 1]


def test_held_out_documents_are_not_trained_on() -> None:
    documents = [f"document {index}" for index in range(40)]
    training, held_out = split_held_out(documents)
    assert sorted(training + held_out) == sorted(documents)
    assert held_out == ["document 4", "document 13", "document 22", "document 31"]


def test_collected_text_is_the_same_each_time_and_capped() -> None:
    docstrings = list(collect_docstrings(20_000))
    assert docstrings == list(collect_docstrings(20_000))
    assert len(set(docstrings)) == len(docstrings)
    assert 10_000 < sum(len(text.encode()) for text in docstrings) <= 20_000
    code = list(collect_code(20_000))
    assert 4_000 < sum(len(text.encode()) for text in code) <= 20_000
    assert not [text for text in docstrings if any(text in source for source in code)]


def test_tokenizer_reads_back_what_it_wrote_and_begins_every_text(tmp_path: Path) -> None:
    documents = read_prose(PROSE / "portuguese")[:10]
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    tokenizer = train_tokenizer([file], tmp_path / "tokenizer", vocab_size=600, max_length=64)
    assert tokenizer.get_vocab_size() == 600
    assert (tokenizer.token_to_id(BEGIN_OF_TEXT), tokenizer.token_to_id(END_OF_TEXT)) == (0, 1)
    unseen = "Ação à mão:\n\tdef f(x):  # ∑ 1234 🙂\n"
    ids = tokenizer.encode(unseen).ids
    assert ids[0] == 0
    assert 1 not in ids
    assert tokenizer.decode(ids) == unseen


def test_questions_hold_the_passage_once_among_shuffles_of_it(tmp_path: Path) -> None:
    text = "\n".join(read_prose(PROSE / "english")[6:14])
    documents, questions = tmp_path / "documents.jsonl", tmp_path / "questions.jsonl"
    documents.write_text(json.dumps({"text": text}) + "\n")
    count = write_word_order_questions(documents, questions)
    read = [json.loads(line) for line in questions.read_text().splitlines()]
    assert len(read) == count > 10
    for question in read:
        assert f"{question['context']} {question['choices'][question['answer']]}" in " ".join(text.split())
        assert len({tuple(sorted(choice.split())) for choice in question["choices"]}) == 1
        assert len(set(question["choices"])) == 4
    assert {question["answer"] for question in read} == {0, 1, 2, 3}


def test_unigram_entropy_of_known_mixtures(tmp_path: Path) -> None:
    _write_shard(tmp_path / "a", [0, 1, 2, 3] * 8)
    _write_shard(tmp_path / "b", [3] * 5)
    assert unigram_entropy([tmp_path / "a"], [1.0], 8) == pytest.approx(math.log(4))
    assert unigram_entropy([tmp_path / "b"], [1.0], 8) == 0
    # Half uniform over four, half certain: 3 x 1/8 and 5/8.
    expected = -(3 / 8 * math.log(1 / 8) + 5 / 8 * math.log(5 / 8))
    assert unigram_entropy([tmp_path / "a", tmp_path / "b"], [2.0, 2.0], 8) == pytest.approx(expected)


def test_unigram_bits_per_byte_of_a_known_text(tmp_path: Path) -> None:
    documents = tmp_path / "documents.jsonl"
    documents.write_text(json.dumps({"text": "abab"}) + "\n")
    tokenizer = train_tokenizer([documents], tmp_path / "tokenizer", vocab_size=258, max_length=64)
    letter_a, letter_b = tokenizer.encode("ab", add_special_tokens=False).ids
    # 131 and 65 of 454 once each of the 258 entries counts one more: 130 + 64 + 2 + 258 = 454.
    _write_shard(tmp_path / "a", [letter_a] * 130 + [letter_b] * 64 + [0, 1])
    expected = (2 * -math.log2(131 / 454) + 2 * -math.log2(65 / 454)) / 4
    assert unigram_bits_per_byte(tmp_path / "a", documents, tokenizer) == pytest.approx(expected)


def test_scores_are_the_newest_of_each_task(tmp_path: Path) -> None:
    for date, value in (("2026-01-02", 2.5), ("2026-01-01", 9.0)):
        scores = {"results": {"demo": {"alias": "demo", "acc,none": value, "acc_stderr,none": "N/A"}}}
        (tmp_path / f"results_{date}.json").write_text(json.dumps(scores))
    assert read_scores(tmp_path) == {("demo", "acc"): 2.5}


def test_losses_keep_the_last_line_of_a_step(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [{"iteration": 1, "lm_loss": 7.0}, {"iteration": 2, "lm_loss": 6.0}, {"event": "resume"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"iteration": 2, "lm_loss": 5.5}]))
    assert read_losses(file) == {1: 7.0, 2: 5.5}


def test_finished_steps_are_not_run_again(tmp_path: Path) -> None:
    ran: list[str] = []
    steps = [Step(name, name, lambda name=name: ran.append(name)) for name in ("one", "two")]
    run_steps(steps, Journal.open(tmp_path / "out", "a", QUIET), QUIET)
    run_steps(steps, Journal.open(tmp_path / "out", "a", QUIET), QUIET)
    assert ran == ["one", "two"]


def test_a_changed_demo_starts_clean(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "out", "a", QUIET)
    journal.finish("one", 1.0)
    (tmp_path / "out" / "made").touch()
    assert Journal.open(tmp_path / "out", "b", QUIET).seconds == {}
    assert not (tmp_path / "out" / "made").exists()


def test_a_damaged_journal_says_how_to_start_clean(tmp_path: Path) -> None:
    (tmp_path / "demo.json").touch()
    with pytest.raises(InputError, match=r"demo\.json: not readable.*remove"):
        Journal.open(tmp_path, "a", QUIET)


def test_a_folder_the_demo_did_not_make_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="did not make"):
        Journal.open(tmp_path, "a", QUIET)
    assert (tmp_path / "thesis.txt").exists()


def test_a_failed_command_names_the_step_and_keeps_the_ones_before(tmp_path: Path) -> None:
    commands = Commands(tmp_path, QUIET)
    program = Path(sys.executable).name
    steps = [
        Step("one", "", lambda: commands.run(program, "-c", "open('one', 'w')")),
        Step("two", "", lambda: commands.run(program, "-c", "raise SystemExit(3)")),
    ]
    with pytest.raises(WorkError, match=r"step 2, two, failed.*exit code 3.*make demo"):
        run_steps(steps, Journal.open(tmp_path / "out", "a", QUIET), QUIET)
    assert (tmp_path / "one").exists()
    assert list(Journal.open(tmp_path / "out", "a", QUIET).seconds) == ["one"]


def test_commands_run_on_the_cpu_also_where_there_are_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    code = "import os; open('seen', 'w').write(os.environ['CUDA_VISIBLE_DEVICES'] + os.environ['OMP_NUM_THREADS'])"
    Commands(tmp_path, QUIET).run(Path(sys.executable).name, "-c", code)
    assert (tmp_path / "seen").read_text() == os.environ["OMP_NUM_THREADS"]


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(WorkError, match=r"during step 1, train.*newest checkpoint"):
        run_steps([Step("train", "", interrupted)], Journal.open(tmp_path / "out", "a", QUIET), QUIET)


def test_a_terminated_demo_ends_its_command_first_and_lets_it_save(tmp_path: Path) -> None:
    program = (
        "import os, signal, time\n"
        "def save(*_):\n    open('saved', 'w').close()\n    raise SystemExit(75)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(20)\nopen('orphaned', 'w').close()\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    commands = Commands(tmp_path, QUIET)
    step = Step("train", "", lambda: commands.run(Path(sys.executable).name, "-c", program))
    # A stand-in for the default action, which would end the tests.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(WorkError, match=r"interrupted during step 1, train"):
            run_steps([step], Journal.open(tmp_path / "out", "a", QUIET), QUIET)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "saved").exists() and not (tmp_path / "orphaned").exists()


def _write_shard(folder: Path, tokens: list[int]) -> None:
    """Write one shard of one document in datatrove's format, 2 bytes a token."""
    folder.mkdir()
    np.asarray(tokens, dtype="<u2").tofile(folder / "00000.ds")
    np.asarray([len(tokens)], dtype="<u8").tofile(folder / "00000.ds.index")
    (folder / "00000.ds.metadata").write_text(f"tokenizer|2\n{len(tokens)}\n{len(tokens)} T")


def fake_result(folder: Path, final: float | None) -> Config:
    """Write the shards and losses of a finished demo that ended at ``final`` (None: no number); return its
    configuration."""
    config = load_config("zagreus_tiny.yaml")
    rng = np.random.default_rng(0)
    for source in config.data_stages[-1].data.dataset.folders:
        tokens = rng.integers(0, 1000, 4000).astype("<u2")
        shard = folder / source / "00000_00000_unshuffled.ds"
        shard.parent.mkdir(parents=True)
        shard.write_bytes(tokens.tobytes())
        shard.with_name(shard.name + ".index").write_bytes(np.array([4000], dtype="<u8").tobytes())
        shard.with_name(shard.name + ".metadata").write_text("tok|2\n4000\n4000 T")
    metrics = folder / config.checkpoints.checkpoints_path / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    rows = [{"iteration": step, "lm_loss": loss} for step, loss in enumerate((7.75, final, final, final), start=1)]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return config


@pytest.mark.parametrize("final", [6.7, 5.6, None])
def test_a_model_that_has_not_learnt_fails_the_demo(
    final: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_result(tmp_path, final)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_demo, "run_steps", lambda *arguments: None)
    monkeypatch.setattr(run_demo, "print_report", lambda *arguments: None)
    monkeypatch.setattr(run_demo.Journal, "open", lambda *arguments: Journal(tmp_path / "demo.json", ""))
    assert run_demo.main([]) == 1
    error = capsys.readouterr().err
    entropy = measure_losses(load_config("zagreus_tiny.yaml"), tmp_path).unigram_entropy
    assert 6.5 < entropy < math.log(1000)
    assert ("nan" if final is None else f"{final:.2f}") in error and f"{entropy:.2f}" in error


def test_a_model_that_has_learnt_passes(tmp_path: Path) -> None:
    losses = measure_losses(fake_result(tmp_path, 3.63), tmp_path)
    assert (losses.first, losses.final) == (7.75, pytest.approx(3.63))
    check_learnt(losses)
    check_learnt(Losses(first=7.75, final=3.63, unigram_entropy=6.58))
