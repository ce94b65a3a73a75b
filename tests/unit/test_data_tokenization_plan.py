"""What is decided before the first document is read: how wide a token is, and what stands in the record."""

import json
from dataclasses import replace

import numpy as np
import pytest

from nanotron_zagreus.data.tokenization import make_pipeline
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


def test_inputs_that_are_gone_or_have_another_size_are_refused_unless_they_had_failures(tmp_path):
    path = train_tokenizer(tmp_path / "tokenizer", named=True)
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": TEXTS[0]}))
    inputs = tuple(str(tmp_path / f"{name}.jsonl") for name in "ab")
    job = TokenizationJob(inputs=inputs, output=tmp_path / "out", tokenizer=str(path), num_tasks=1)
    prepare(job)
    with pytest.raises(InputError, match=r"begun differently: \S*b\.jsonl is gone"):
        prepare(replace(job, inputs=inputs[:1]))
    size = (tmp_path / "b.jsonl").stat().st_size
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=rf"b\.jsonl had {size} bytes, has {size + 1}"):
        prepare(job)
    failures = tmp_path / "out/logs/failures"
    failures.mkdir(parents=True)
    (failures / "00000.jsonl").write_text(json.dumps({"file": inputs[1], "row": 0, "error": "not JSON"}) + "\n")
    prepare(job)
