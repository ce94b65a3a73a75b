"""What is decided before the first document is read: how wide a token is, and what stands in the record."""

import dataclasses
import json

import numpy as np
import pytest

from nanotron_zagreus.cli.app import EXIT_BAD_INPUT, run
from nanotron_zagreus.data.tokenization import list_failures, make_pipeline
from nanotron_zagreus.data.tokenization_plan import TokenizationJob, prepare
from nanotron_zagreus.data.tokenizer_loading import load_tokenizer
from nanotron_zagreus.data.verification import verify_shard
from nanotron_zagreus.errors import InputError
from tests.unit.tokenizer_fixtures import TEXTS, train_tokenizer

NUM_TOKENS = 400


@pytest.mark.parametrize(("gap", "token_size"), [(50, 2), (2**16 - NUM_TOKENS, 2), (2**16 - NUM_TOKENS + 1, 4)])
def test_the_highest_id_counts_not_the_number_of_tokens(gap, token_size, tmp_path):
    """A tokenizer whose last ten tokens lie ``gap`` ids higher, as in vocabularies that were pruned."""
    path = train_tokenizer(tmp_path / "tokenizer", named=True)
    data = json.loads(path.read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary.update({token: id + gap for token, id in vocabulary.items() if id >= NUM_TOKENS - 10})
    path.write_text(json.dumps(data))
    text = next(token for token, id in vocabulary.items() if id == NUM_TOKENS - 1 + gap).replace("Ġ", " ")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": part}) for part in (text, *TEXTS[:9])))
    job = TokenizationJob(inputs=(str(tmp_path / "a.jsonl"),), output=tmp_path / "out", tokenizer=str(path))
    prepared = prepare(job)
    assert prepared.token_size == token_size
    reader, writer = make_pipeline(prepared)
    writer.run(reader.run(None, 0, 1), 0, 1)
    report = verify_shard(tmp_path / "out" / "00000_unshuffled.ds")
    assert (report.problem, report.vocab_size) == (None, NUM_TOKENS + gap)
    expected = [id for part in (text, *TEXTS[:9]) for id in load_tokenizer(prepared.choice).encode(part).ids]
    written = np.fromfile(report.path, dtype=f"<u{token_size}").tolist()
    assert written == expected and max(written) == NUM_TOKENS - 1 + gap


def test_a_folder_whose_record_counted_the_tokens_is_continued_unless_its_tokens_were_cut(tmp_path):
    """Before the highest id counted, a tokenizer with gaps was recorded as smaller than it is."""
    path = train_tokenizer(tmp_path / "tokenizer", named=True)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": TEXTS[0]}))
    job = TokenizationJob(inputs=(str(tmp_path / "a.jsonl"),), output=tmp_path / "out", tokenizer=str(path))
    prepare(job)
    record = tmp_path / "out/tokenization.json"
    right = json.loads(record.read_text())
    record.write_text(json.dumps({**right, "vocab_size": NUM_TOKENS - 9}))
    prepare(job)
    assert json.loads(record.read_text()) == right
    record.write_text(json.dumps({**right, "vocab_size": 2**16 + 1}))
    with pytest.raises(InputError, match="vocab_size was 65537, is 400"):
        prepare(job)


def test_a_file_that_was_mended_is_the_one_that_is_known_from_then_on(tmp_path):
    """Its tasks stay as they were divided: what the others wrote is of their files."""
    tokenizer = str(train_tokenizer(tmp_path / "tokenizer", named=True))
    (tmp_path / "in").mkdir()
    for name, num_lines in (("a", 9), ("b", 5), ("c", 3)):
        (tmp_path / "in" / f"{name}.jsonl").write_text('{"text": "x"}\n' * num_lines)
    job = TokenizationJob(inputs=(str(tmp_path / "in"),), output=tmp_path / "out", tokenizer=tokenizer, num_tasks=2)
    prepare(job)
    plan, failures = tmp_path / "out/logs/plan.json", tmp_path / "out/logs/failures/00001.jsonl"
    before = json.loads(plan.read_text())["tasks"]
    mended = tmp_path / "in" / "c.jsonl"
    mended.write_text('{"text": "x"}\n' * 50)
    with pytest.raises(InputError, match=r"c\.jsonl had .* bytes"):
        prepare(job)
    failures.parent.mkdir(parents=True)
    failures.write_text(json.dumps({"file": str(mended), "row": 0, "error": "broken"}))
    prepare(job)
    failures.unlink()  # as a task that is done again leaves it
    prepare(job)
    after = json.loads(plan.read_text())["tasks"]
    assert [[entry[0] for entry in task] for task in after] == [[entry[0] for entry in task] for task in before]
    assert after != before


@pytest.fixture
def begun(tmp_path):
    """A tokenization into `out`, begun, and the command line that goes on with it."""
    path = train_tokenizer(tmp_path / "tokenizer", named=True)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": TEXTS[0]}))
    job = TokenizationJob(inputs=(str(tmp_path / "a.jsonl"),), output=tmp_path / "out", tokenizer=str(path))
    prepare(job)
    return job, ["tokenize", "--input", *job.inputs, "--output", str(job.output), "--tokenizer", job.tokenizer]


def test_a_tokenizer_under_another_spelling_of_its_path_goes_on_under_the_first(begun, tmp_path, monkeypatch):
    job, _ = begun
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("tokenizer")
    for spelling in ("tokenizer", "tokenizer/", "./tokenizer/tokenizer.json", "~/tokenizer", "link"):
        assert prepare(dataclasses.replace(job, tokenizer=spelling)).choice.name == job.tokenizer
    assert json.loads((tmp_path / "out/tokenization.json").read_text())["tokenizer"] == job.tokenizer
    changed = tmp_path / "tokenizer/tokenizer.json"
    changed.write_text(changed.read_text() + "\n")
    with pytest.raises(InputError, match="tokenizer_sha256 was"):
        prepare(job)


@pytest.mark.parametrize("text", ["", '{"format": 1, "tasks": [[["/in/a.jso', "{}", "[]", '{"tasks": [["a.jsonl"]]}'])
@pytest.mark.parametrize("options", [[], ["--tasks", "1"], ["--status"]])
def test_a_damaged_plan_is_named_with_what_to_do(options, text, begun, capsys):
    job, command = begun
    (job.output / "logs/plan.json").write_text(text)
    assert run([*command, *options]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert f"{job.output}/logs/plan.json: not readable as a plan" in error and "another folder" in error


def test_a_tokenization_whose_plan_is_gone_is_not_said_to_have_had_no_tasks(begun, capsys):
    job, command = begun
    (job.output / "logs/plan.json").unlink()
    assert run(command) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "plan.json is gone" in error and "0 tasks" not in error


def test_a_list_of_failures_that_was_cut_is_read_as_far_as_it_goes(begun):
    """As a full disk leaves it; the task that wrote it is done again, and writes it anew."""
    job, _ = begun
    path = job.output / "logs/failures/00000.jsonl"
    path.parent.mkdir()
    path.write_text('{"file": "/in/b.jsonl", "row": 4, "error": "x"}\n{"file": "/in/b.js')
    first, cut = list_failures(prepare(job))
    assert first["row"] == 4 and (cut["file"], cut["row"]) == (str(path), 1)


def test_inputs_that_are_gone_or_have_another_size_are_refused_unless_they_had_failures(tmp_path):
    path = train_tokenizer(tmp_path / "tokenizer", named=True)
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": TEXTS[0]}))
    inputs = tuple(str(tmp_path / f"{name}.jsonl") for name in "ab")
    job = TokenizationJob(inputs=inputs, output=tmp_path / "out", tokenizer=str(path), num_tasks=1)
    prepare(job)
    with pytest.raises(InputError, match=r"begun differently: \S*b\.jsonl is gone"):
        prepare(dataclasses.replace(job, inputs=inputs[:1]))
    size = (tmp_path / "b.jsonl").stat().st_size
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=rf"b\.jsonl had {size} bytes, has {size + 1}"):
        prepare(job)
    failures = tmp_path / "out/logs/failures"
    failures.mkdir(parents=True)
    (failures / "00000.jsonl").write_text(json.dumps({"file": inputs[1], "row": 0, "error": "not JSON"}) + "\n")
    prepare(job)
