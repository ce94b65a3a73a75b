"""Finding, dividing and reading text: nothing lost, what is damaged reported with file and row."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nanotron_zagreus.data import corpus_reader
from nanotron_zagreus.data.corpus import CorpusFile, HubDataset, check_text_column, divide_files, find_files
from nanotron_zagreus.data.corpus_reader import CorpusReader
from nanotron_zagreus.errors import InputError, MissingInputError


def read(tmp_path, files, column="text", num_empty=None):
    """Return the texts of ``files`` as one task reads them, and the failures it reports."""
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"tasks": [[list(vars(file).values()) for file in files]]}))
    reader = CorpusReader(plan, column, tmp_path / "failures")
    texts = [document.text for document in reader.run(None, 0, 1)]
    lines = (tmp_path / "failures" / "00000.jsonl").read_text().splitlines()
    assert reader.num_bytes_read == reader.num_bytes_total
    assert reader.num_failures == len(lines)
    assert reader.num_cut == sum("left out" in line for line in lines)
    assert num_empty is None or reader.num_empty == num_empty
    return texts, [json.loads(line) for line in lines]


def jsonl(texts):
    return "".join(json.dumps({"text": text, "other": 1}) + "\n" for text in texts).encode()


def test_every_format_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "corpus"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["a", "b"], "url": ["x", "y"]}), folder / "1.parquet")
    (folder / "2.jsonl").write_bytes(jsonl(["c", "d"]))
    (folder / "3.jsonl.gz").write_bytes(gzip.compress(jsonl(["e"])))
    # Two zstd frames, as files that were appended to have.
    frames = zstandard.ZstdCompressor().compress(jsonl(["f"])) + zstandard.ZstdCompressor().compress(jsonl(["g"]))
    (folder / "4.jsonl.zst").write_bytes(frames)
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": ["h", "i"]}).save_to_disk(str(folder / "5"))
    with (
        pa.OSFile(str(folder / "6.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, pa.schema([("text", pa.string())])) as w,
    ):
        w.write_table(pa.table({"text": ["j"]}))
    (folder / "README.md").write_text("not text to train on")
    files = find_files([str(folder)])
    assert [file.format for file in files] == ["parquet", "jsonl", "jsonl", "jsonl", "arrow", "arrow"]
    assert read(tmp_path, files) == (list("abcdefghij"), [])


def test_patterns_and_urls_name_files(tmp_path):
    for name in ("a_1.jsonl", "a_2.jsonl", "b_1.jsonl"):
        (tmp_path / name).write_bytes(jsonl([name]))
    assert [Path(file.path).name for file in find_files([f"{tmp_path}/a_*.jsonl"])] == ["a_1.jsonl", "a_2.jsonl"]
    by_url = find_files([f"file://{tmp_path}"])
    assert len(by_url) == 3
    assert read(tmp_path, by_url)[0] == ["a_1.jsonl", "a_2.jsonl", "b_1.jsonl"]


def test_what_exists_under_a_patterns_name_is_meant_itself(tmp_path, monkeypatch):
    folder = tmp_path / "sp ace [1]"
    folder.mkdir()
    for name in ("a.jsonl", "b?.jsonl"):
        (folder / name).write_bytes(jsonl([name]))
    (folder / "bb.jsonl").write_bytes(jsonl(["bb"]))
    assert [Path(file.path).name for file in find_files([str(folder)])] == ["a.jsonl", "b?.jsonl", "bb.jsonl"]
    assert [Path(file.path).name for file in find_files([str(folder / "b?.jsonl")])] == ["b?.jsonl"]
    (tmp_path / "sp ace 1").mkdir()
    (tmp_path / "sp ace 1" / "c.jsonl").write_bytes(jsonl(["c"]))
    monkeypatch.chdir(tmp_path)
    assert len(find_files(["sp ace [1]"])) == 3
    folder.rename(tmp_path / "moved")
    assert [Path(file.path).name for file in find_files(["sp ace [1]"])] == ["c.jsonl"]


def test_only_arrow_files_are_taken_for_caches_by_their_names(tmp_path):
    for name in ("tmp.jsonl", "cache-fr.jsonl.gz", "cache-0123.arrow", "tmp0123.arrow", ".hidden.jsonl"):
        (tmp_path / name).write_bytes(b"")
    assert [Path(file.path).name for file in find_files([str(tmp_path)])] == ["cache-fr.jsonl.gz", "tmp.jsonl"]
    assert len(find_files([str(tmp_path / "tmp.jsonl")])) == 1


def test_text_in_a_format_that_is_not_read_is_told_of(tmp_path, caplog):
    kept = ("a.jsonl", "README.md", "state.json", "dataset_info.json", "cache-01.arrow", "out/tokenization.json")
    unread = ("b.jsonl.bz2", "c.JSONL", "d.json", "deep/e.txt.xz", "f.csv")
    for name in (*kept, *unread):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jsonl(["x"]))
    for inputs in ([str(tmp_path)], [f"{tmp_path}/*"], [f"file://{tmp_path}"]):
        caplog.clear()
        assert [Path(file.path).name for file in find_files(inputs)] == ["a.jsonl"]
        assert "5 files" in caplog.text and "b.jsonl.bz2" in caplog.text and inputs[0] in caplog.text
    caplog.clear()
    find_files([str(tmp_path / "a.jsonl")])
    assert not caplog.text


def test_the_logs_of_a_tokenization_below_its_input_are_no_text(tmp_path):
    for name in ("a.jsonl", "tokenized/tokenization.json", "tokenized/logs/failures/00000.jsonl", "logs/b.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [Path(file.path).name for file in find_files([str(tmp_path)])] == ["a.jsonl", "b.jsonl"]


def test_a_file_named_twice_is_read_once(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(["x"]))
    assert len(find_files([str(tmp_path), str(tmp_path / "a.jsonl")])) == 1


def test_links_are_followed_and_a_file_is_read_once(tmp_path):
    """As the cache of the hub has it: snapshots are folders of links to files without a telling name."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    (snapshot / "data").mkdir(parents=True)
    for number in range(2):
        (blobs / f"{number}0abc").write_bytes(jsonl([f"text {number}"]))
        (snapshot / "data" / f"{number}.jsonl").symlink_to(blobs / f"{number}0abc")
    (tmp_path / "linked").symlink_to(snapshot, target_is_directory=True)
    for name in ("more", "again"):
        (snapshot / name).symlink_to(snapshot / "data", target_is_directory=True)
    (snapshot / "data" / "up").symlink_to(snapshot, target_is_directory=True)
    for inputs in ([str(snapshot)], [str(tmp_path / "linked")], [f"{snapshot}/data/*.jsonl"]):
        files = find_files(inputs)
        assert [file.num_bytes for file in files] == [len(jsonl(["text 0"]))] * 2
        assert read(tmp_path, files)[0] == ["text 0", "text 1"]
    assert find_files([str(snapshot / "data" / "0.jsonl")])[0].format == "jsonl"
    (snapshot / "data" / "2.jsonl").symlink_to(blobs / "gone")
    with pytest.raises(MissingInputError, match=r"2\.jsonl is a link to nothing"):
        find_files([str(snapshot)])


def test_damage_is_reported_with_its_row_and_the_rest_is_read(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "1.jsonl").write_bytes(jsonl(["a"]) + b'{"text": \n' + b"[1]\n\n" + b'{"text": 5}\n' + jsonl(["b", ""]))
    (folder / "2.jsonl.gz").write_bytes(gzip.compress(jsonl(["c"] * 30_000))[:-12])
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(30)]}), folder / "3.parquet", row_group_size=10)
    place = pq.ParquetFile(folder / "3.parquet").metadata.row_group(1).column(0).dictionary_page_offset
    damaged = bytearray((folder / "3.parquet").read_bytes())
    damaged[place : place + 20] = b"\xff" * 20
    (folder / "3.parquet").write_bytes(damaged)
    (folder / "4.parquet").write_bytes(b"PAR1 this is none PAR1")
    pq.write_table(pa.table({"content": ["x"]}), folder / "5.parquet")
    (folder / "6.jsonl").write_bytes(jsonl(["d"]))
    texts, failures = read(tmp_path, find_files([str(folder)]))
    assert [text for text in texts if text != "c"] == [
        "a", "b", *(f"row {n}" for n in range(10)), *(f"row {n}" for n in range(20, 30)), "d"
    ]  # fmt: skip
    found = [(Path(failure["file"]).name, failure["row"]) for failure in failures]
    assert found[:3] == [("1.jsonl", 1), ("1.jsonl", 2), ("1.jsonl", 4)]
    assert found[4:] == [("3.parquet", 10), ("4.parquet", 0), ("5.parquet", 0)]
    assert found[3][0] == "2.jsonl.gz" and found[3][1] == texts.count("c") > 20_000
    assert "has content" in failures[-1]["error"]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_compressed_file_that_was_cut_is_a_failure_whatever_it_held(pack, tmp_path):
    """Also where no line shows it: of two parts that were written one after the other the second is missing an end."""
    suffix = "gz" if pack is gzip.compress else "zst"
    file = tmp_path / f"a.jsonl.{suffix}"
    file.write_bytes(pack(jsonl(["a"])) + pack(jsonl(["b", "c"]))[:-5])
    texts, failures = read(tmp_path, find_files([str(file)]))
    assert len(failures) == 1 and "the rest of the file is left out" in failures[0]["error"]
    assert set(texts) <= {"a"}


def test_a_line_without_the_key_is_a_failure_and_one_without_text_is_empty(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(["x", ""]) + b'{"content": "lost"}\n{"text": null}\n')
    texts, failures = read(tmp_path, find_files([str(tmp_path / "a.jsonl")]), num_empty=2)
    assert texts == ["x"]
    assert [(failure["row"], failure["error"]) for failure in failures] == [(2, "no key 'text', it has content")]


@pytest.mark.parametrize(("num_characters", "num_rows"), [(1 << 17, 31), (1, 10_000)])
def test_long_documents_are_read_a_few_at_a_time(num_characters, num_rows, tmp_path):
    """About 4 MiB of the text column, whatever the others hold."""
    columns = {"other": ["y" * 1000] * 8, "text": [f"{number}" + "x" * num_characters for number in range(8)]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", compression="none", use_dictionary=False)
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    assert corpus_reader._rows_per_batch(group, "text") == num_rows


def test_text_that_is_no_utf_8_is_one_failure(tmp_path):
    raw = pa.array([b"ok", b"\xff\xfe", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"text": raw}), tmp_path / "a.parquet")
    texts, failures = read(tmp_path, find_files([str(tmp_path / "a.parquet")]))
    assert texts == ["ok", "fine"]
    assert [failure["row"] for failure in failures] == [1]


def test_a_wrong_column_is_refused_with_the_right_ones(tmp_path):
    pq.write_table(pa.table({"content": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"no 'text'.*content, id"):
        check_text_column(find_files([str(tmp_path)])[0], "text")
    check_text_column(find_files([str(tmp_path)])[0], "content")
    (tmp_path / "a.parquet").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        check_text_column(find_files([str(tmp_path)])[0], "text")
    (tmp_path / "b.jsonl").write_bytes(b"\n")
    check_text_column(find_files([str(tmp_path / "b.jsonl")])[0], "text")  # nothing in it is wrong
    for line in (b'[{"text": "a"}, {"text": "b"}]', b'["text"]', b"5"):
        (tmp_path / "b.jsonl").write_bytes(b"\n" + line)
        with pytest.raises(InputError, match="no JSON object"):
            check_text_column(find_files([str(tmp_path / "b.jsonl")])[0], "text")


def test_inputs_that_hold_nothing_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(MissingInputError, match=r"holds no text.*plain text goes into a \.jsonl"):
        find_files([str(tmp_path)])
    with pytest.raises(MissingInputError, match="does not exist"):
        find_files([str(tmp_path / "nowhere")])
    with pytest.raises(MissingInputError, match="holds no text"):
        find_files([str(tmp_path / "*.parquet")])
    with pytest.raises(InputError, match=r"no known format.*plain text goes into a \.jsonl"):
        find_files([str(tmp_path / "notes.txt")])


def test_a_file_system_that_cannot_be_asked_is_named():
    import fsspec

    class Unreachable(fsspec.AbstractFileSystem):
        protocol = "unreachable"

        def find(self, path, **options):
            raise RuntimeError("[Errno -2] Name or service not known")

    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    with pytest.raises(MissingInputError, match=r"unreachable://x cannot be listed \(.*not known\)"):
        find_files(["unreachable://x"])


@pytest.mark.parametrize("num_errors", [3, 10])
def test_a_network_that_fails_for_a_moment_loses_nothing(num_errors, tmp_path, monkeypatch):
    """Beyond the last attempt the file counts as unreadable from there on."""
    import fsspec

    errors = iter(range(num_errors))

    class Flaky(fsspec.implementations.local.LocalFileSystem):
        protocol = "flaky"

        @classmethod
        def _strip_protocol(cls, path):
            return str(path).removeprefix("flaky://")

        def open(self, path, mode="rb", **options):
            file = Path(path).open(mode)  # noqa: SIM115 - the reader closes it
            return FlakyFile(file)

    class FlakyFile:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def read(self, size):
            if self.file.tell() and next(errors, None) is not None:
                raise ConnectionError("reset by peer")
            return self.file.read(size)

    monkeypatch.setattr("nanotron_zagreus.data.remote_file.RETRY_SECONDS", (0, 0, 0, 0))
    monkeypatch.setattr("nanotron_zagreus.data.remote_file._BUFFER_BYTES", 1000)
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    (tmp_path / "a.jsonl").write_bytes(jsonl([str(n) for n in range(1000)]))
    pq.write_table(pa.table({"text": [str(n) for n in range(1000)]}), tmp_path / "b.parquet")
    kinds = [(name, (tmp_path / name).stat().st_size, name.split(".")[1]) for name in ("a.jsonl", "b.parquet")]
    files = [CorpusFile(f"flaky://{tmp_path}/{name}", size, kind, None) for name, size, kind in kinds]
    texts, failures = read(tmp_path, files)
    if num_errors == 3:
        assert texts == [str(n) for n in range(1000)] * 2
        assert failures == []
    else:
        assert "reset by peer" in failures[0]["error"]


def test_a_dataset_of_several_splits_asks_for_one(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    part = datasets.Dataset.from_dict({"text": ["h"]})
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "x"))
    for _ in range(2):
        with pytest.raises(InputError, match="test, train"):
            find_files([str(tmp_path / "x")])
        (tmp_path / "x" / "dataset_dict.json").write_text("")  # as a full disk leaves it
    assert len(find_files([str(tmp_path / "x" / "train")])) == 1


@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=40), num_tasks=st.integers(1, 8))
def test_files_are_divided_by_bytes(sizes, num_tasks):
    files = [CorpusFile(f"f{number:03d}", size, "jsonl", None) for number, size in enumerate(sizes)]
    tasks = divide_files(files, num_tasks)
    assert sorted(file.path for task in tasks for file in task) == [file.path for file in files]
    loads = [sum(file.num_bytes for file in task) for task in tasks]
    assert max(loads) - min(loads) <= max(sizes)
    assert tasks == divide_files(list(reversed(files)), num_tasks)


def test_hub_ids_name_configuration_and_split(tmp_path):
    assert HubDataset.parse("HuggingFaceFW/fineweb-2:por_Latn") == HubDataset(
        "HuggingFaceFW/fineweb-2", "por_Latn", "train"
    )
    assert HubDataset.parse("bigcode/starcoderdata::validation") == HubDataset(
        "bigcode/starcoderdata", None, "validation"
    )
    assert HubDataset.parse("hf://datasets/a/b") is None
    assert HubDataset.parse("./a/b") is None
    assert HubDataset.parse(str(tmp_path)) is None


def test_a_mistyped_path_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    assert HubDataset.parse("corpus/englsh") is None
    with pytest.raises(MissingInputError, match="corpus/englsh does not exist"):
        find_files(["corpus/englsh"])
