"""Tokenization end to end: the bytes are datatrove's, reruns do what is missing, damage stays local."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanotron_zagreus.data.shards import list_shards
from nanotron_zagreus.data.tokenization import (
    TokenizationOutcome,
    list_failures,
    make_pipeline,
    problems_of,
    summarize,
    tokenize_locally,
)
from nanotron_zagreus.data.tokenization_plan import Preparation, TokenizationJob, prepare
from nanotron_zagreus.errors import InputError, MissingInputError, WorkError
from tests.unit.tokenizer_fixtures import BOS, EOS, TEXTS, train_tokenizer

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(train_tokenizer(tmp_path_factory.mktemp("tokenizer"), named=True))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts in four files of several formats."""
    folder = tmp_path_factory.mktemp("corpus")
    pq.write_table(pa.table({"text": TEXTS[:100], "id": [str(n) for n in range(100)]}), folder / "a.parquet")
    for name, texts in (("b", TEXTS[100:150]), ("c", TEXTS[150:200]), ("d", TEXTS[200:])):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder


def job_of(corpus: Path, output: Path, tokenizer: str, **options: Any) -> TokenizationJob:
    return TokenizationJob(inputs=(str(corpus),), output=output, tokenizer=tokenizer, **options)


def run(job: TokenizationJob, workers: int = 2) -> TokenizationOutcome:
    return tokenize_locally(prepare(job), workers=workers)


def run_task_here(prepared: Preparation, rank: int = 0) -> None:
    """Run one task in this process, so that its parts can be replaced."""
    reader, writer = make_pipeline(prepared)
    writer.run(reader.run(None, rank, prepared.num_tasks), rank, prepared.num_tasks)


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.ds*")}


@pytest.mark.parametrize("encoder", ["tokenizers", "gigatoken"])
@pytest.mark.parametrize(
    ("bos", "eos", "single"),
    [(True, False, f"{BOS} $A"), (False, True, f"$A {EOS}"), (True, True, f"{BOS} $A {EOS}"), (False, False, "$A")],
)
def test_the_files_are_datatroves_byte_for_byte(
    bos: bool, eos: bool, single: str, encoder: Any, corpus: Path, tmp_path: Path
) -> None:
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    pytest.importorskip("gigatoken")
    # The peer writes what its tokenizer's template says, and is given the template that is asked of us.
    tokenizer = str(train_tokenizer(tmp_path / "tokenizer", single=single, named=True))
    reader = ParquetReader(str(corpus), glob_pattern="*.parquet")
    theirs = DocumentTokenizer(str(tmp_path / "theirs"), tokenizer, shuffle_documents=False)
    theirs.run(reader.run(None, 0, 1), 0, 1)
    prepared = prepare(job_of(corpus / "a.parquet", tmp_path / "ours", tokenizer, bos=bos, eos=eos, encoder=encoder))
    run_task_here(prepared)
    assert shard_bytes(tmp_path / "ours") == shard_bytes(tmp_path / "theirs")
    outcome = summarize(prepared)
    assert (outcome.documents, outcome.encoders) == (100, (encoder,))


def test_datatroves_eos_option_gives_the_same_bytes(corpus: Path, tokenizer: str, tmp_path: Path) -> None:
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    theirs = DocumentTokenizer(str(tmp_path / "theirs"), tokenizer, eos_token=EOS, shuffle_documents=False)
    theirs.run(ParquetReader(str(corpus), glob_pattern="*.parquet").run(None, 0, 1), 0, 1)
    run_task_here(prepare(job_of(corpus / "a.parquet", tmp_path / "ours", tokenizer, bos=False, eos=True)))
    assert shard_bytes(tmp_path / "ours") == shard_bytes(tmp_path / "theirs")


def test_every_document_is_read_back_by_datatroves_reader(corpus: Path, tokenizer: str, tmp_path: Path) -> None:
    from datatrove.utils.dataset import DatatroveFolderDataset

    prepared = prepare(job_of(corpus, tmp_path / "out", tokenizer, num_tasks=9))
    for rank in range(4):
        run_task_here(prepared, rank)
    outcome = summarize(prepared)
    assert (outcome.num_tasks, outcome.documents) == (4, 230)
    shards = list_shards(tmp_path / "out")
    assert sum(shard.num_tokens for shard in shards) == outcome.tokens
    dataset = DatatroveFolderDataset(str(tmp_path / "out"), 32, token_size=2)
    assert len(dataset) == sum(shard.num_tokens // 33 for shard in shards)
    assert dataset[0]["input_ids"][0] == 0  # BOS


def test_a_rerun_does_only_what_is_missing(corpus: Path, tokenizer: str, tmp_path: Path) -> None:
    job = job_of(corpus, tmp_path / "out", tokenizer, num_tasks=4)
    run(job)
    whole = shard_bytes(tmp_path / "out")
    kept, lost = tmp_path / "out" / "00000_unshuffled.ds", tmp_path / "out" / "00002_unshuffled.ds"
    before = kept.stat().st_mtime_ns
    lost.write_bytes(lost.read_bytes()[:-2])
    (tmp_path / "out" / "logs" / "results" / "00001.json").write_bytes(b"")  # as after a loss of power
    outcome = run(replace(job, num_tasks=None))
    assert (outcome.num_complete, outcome.documents) == (4, 230)
    stats = json.loads((tmp_path / "out" / "logs" / "stats" / "00002.json").read_text())
    assert stats[1]["stats"]["tokens"]["total"] == list_shards(tmp_path / "out")[2].num_tokens
    assert shard_bytes(tmp_path / "out") == whole
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "word"),
    [({"eos": True}, "eos_token"), ({"num_tasks": 2}, "4 tasks, now 2"), ({"text_column": "id"}, "text_column")],
)
def test_another_tokenization_does_not_mix_in(
    change: dict[str, Any], word: str, corpus: Path, tokenizer: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        lines = (corpus / "b.jsonl").read_text().replace("{", '{"id": "x", ')
        (tmp_path / "in" / f"{number}.jsonl").write_text(lines)
    job = job_of(tmp_path / "in", tmp_path / "out", tokenizer, num_tasks=4)
    prepare(job)
    with pytest.raises(InputError, match=word):
        prepare(replace(job, **change))


def test_changed_inputs_and_foreign_shards_are_refused(corpus: Path, tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jsonl").write_text('{"text": "a"}\n')
    job = job_of(tmp_path / "in", tmp_path / "out", tokenizer, num_tasks=1)
    prepare(job)
    (tmp_path / "in" / "2.jsonl").write_text('{"text": "b"}\n')
    with pytest.raises(InputError, match=r"2\.jsonl is new"):
        prepare(job)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "0.ds").write_bytes(b"")
    with pytest.raises(InputError, match="did not make"):
        prepare(replace(job, output=tmp_path / "foreign"))


def test_unreadable_inputs_are_reported_and_can_be_redone(corpus: Path, tokenizer: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.parquet").write_bytes((corpus / "a.parquet").read_bytes())
    (folder / "b.jsonl").write_text('{"text": "good"}\n{"text": broken}\n')
    command = [sys.executable, "-c", "from nanotron_zagreus.cli.app import main; main()", "tokenize", "--input"]
    command += [str(folder), "--output", str(tmp_path / "out"), "--tokenizer", tokenizer, "--tasks", "2"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 1
    assert "b.jsonl at row 1" in first.stderr and "--redo-failed" in first.stderr
    assert "101 documents" in first.stdout
    (folder / "b.jsonl").write_text('{"text": "good"}\n{"text": "mended, and longer"}')
    second = subprocess.run([*command, "--redo-failed", "--json"], capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)[0]["documents"] == 102


def test_a_task_without_documents_leaves_no_shard(tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": ""}\n')
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "x"}\n' * 3)
    job = job_of(tmp_path / "in", tmp_path / "out", tokenizer, num_tasks=2)
    assert run(job).num_complete == 2
    assert [shard.num_documents for shard in list_shards(tmp_path / "out")] == [3]
    assert run(job).num_complete == 2


def test_a_mismatch_sends_the_task_back_to_the_reference(
    corpus: Path, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gigatoken")
    from nanotron_zagreus.data import encoders, shard_writer

    right = encoders.GigatokenEncoder.encode

    def wrong(self: Any, texts: Any) -> Any:
        tokens, lengths = right(self, texts)
        if any("Document 120:" in text for text in texts):
            tokens = tokens.copy()
            tokens[3] ^= 1
        return tokens, lengths

    monkeypatch.setattr(encoders.GigatokenEncoder, "encode", wrong)
    monkeypatch.setattr(encoders, "_CHECKED_SHARE", 1.0)
    monkeypatch.setattr(shard_writer, "_BATCH_DOCUMENTS", 50)  # batches are written before the wrong one comes
    broken = prepare(job_of(corpus, tmp_path / "broken", tokenizer, num_tasks=1))
    run_task_here(broken)
    outcome = summarize(broken)
    assert outcome.encoders == ("tokenizers",)
    assert "gigatoken gives" in outcome.mismatches[0]
    monkeypatch.undo()
    run_task_here(prepare(job_of(corpus, tmp_path / "fast", tokenizer, num_tasks=1)))
    assert shard_bytes(tmp_path / "broken") == shard_bytes(tmp_path / "fast")


def test_a_full_disk_fails_the_task_and_keeps_the_finished_shards(
    corpus: Path, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.data.shard_file import ShardFile

    prepared = prepare(job_of(corpus, tmp_path / "out", tokenizer, num_tasks=4))
    run_task_here(prepared, 0)
    before = shard_bytes(tmp_path / "out")

    def full(self: Any, tokens: Any, lengths: Any) -> None:
        self._tokens.write(b"half a batch")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardFile, "write", full)
    with pytest.raises(OSError, match="No space"):
        run_task_here(prepared, 1)
    assert shard_bytes(tmp_path / "out") == before
    assert not list((tmp_path / "out" / ".partial").iterdir())


def test_a_failed_task_is_named_with_its_reason(corpus: Path, tokenizer: str, tmp_path: Path) -> None:
    prepared = prepare(job_of(corpus, tmp_path / "out", tokenizer, num_tasks=4))
    (tmp_path / "out" / "00001_unshuffled.ds").mkdir()  # nothing can be renamed over a folder
    with pytest.raises(WorkError, match=r"1 of 4 tasks.*task 1"):
        tokenize_locally(prepared)
    assert len(list((tmp_path / "out").glob("*.index"))) >= 3


def test_bad_input_is_refused_before_work(corpus: Path, tokenizer: str, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="nowhere"):
        prepare(job_of(tmp_path / "nowhere", tmp_path / "out", tokenizer))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no text"):
        prepare(job_of(empty, tmp_path / "out", tokenizer))
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        prepare(job_of(corpus, tmp_path / "out", str(empty)))
    with pytest.raises(InputError, match="--text-column"):
        prepare(job_of(corpus, tmp_path / "out", tokenizer, text_column="content"))
    with pytest.raises(InputError, match="one dataset id"):
        prepare(replace(job_of(corpus, tmp_path / "out", tokenizer), inputs=("a/b", "c/d")))
    assert not (tmp_path / "out").exists()


def test_a_hub_dataset_goes_through_datatroves_reader(
    corpus: Path, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` reads a folder where the hub is out of reach; the reader and its division are the same."""
    import datasets

    datasets.disable_progress_bars()
    real = datasets.load_dataset

    def local(dataset: str, **options: Any) -> Any:
        assert (dataset, options) == ("owner/name", {"split": "train", "name": "por", "streaming": True})
        return real("parquet", data_files=str(corpus / "a.parquet"), split="train", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", local)
    prepared = prepare(
        TokenizationJob(
            inputs=("owner/name:por",), output=tmp_path / "out", tokenizer=tokenizer, num_tasks=2, encoder="tokenizers"
        )
    )
    for rank in range(2):
        run_task_here(prepared, rank)
    assert summarize(prepared).documents == 100
    assert list_failures(prepared) == []


def test_rows_of_a_hub_dataset_without_text_are_counted(
    tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a", "", None, "b"], "content": list("wxyz")}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: rows)
    outcomes = []
    for column in ("text", "body"):
        job = TokenizationJob(
            inputs=("owner/name",), output=tmp_path / column, tokenizer=tokenizer, num_tasks=1, text_column=column
        )
        prepared = prepare(job)
        run_task_here(prepared)
        outcomes.append((prepared, summarize(prepared)))
    (_, good), (prepared, wrong) = outcomes
    assert (good.documents, good.empty, good.failures) == (2, 2, 0)
    assert (wrong.documents, wrong.empty, wrong.failures) == (0, 0, 4)
    assert list_failures(prepared)[3]["row"] == 3
    assert "no column 'body', it has text, content" in list_failures(prepared)[0]["error"]


def test_a_source_without_any_document_fails(tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n{"text": null}\n')
    job = job_of(tmp_path / "a.jsonl", tmp_path / "out", tokenizer)
    outcome = run(job)
    assert (outcome.documents, outcome.empty) == (0, 2)
    assert "no document" in problems_of(prepare(job), outcome)[0]
