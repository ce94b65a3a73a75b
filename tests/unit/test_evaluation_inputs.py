"""What `evaluate` is given: models by path or name, local data, and requests that cannot work."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from nanotron_zagreus.errors import InputError, MissingInputError
from nanotron_zagreus.evaluation.batching import choose_batch_size, choose_device
from nanotron_zagreus.evaluation.fingerprints import model_fingerprint
from nanotron_zagreus.evaluation.local_data import (
    DataNeed,
    data_fingerprint,
    data_need,
    form_of_data,
    local_overrides,
    missing_data,
)
from nanotron_zagreus.evaluation.requests import EvaluationRequest, run_request
from nanotron_zagreus.evaluation.subjects import find_subjects


@pytest.mark.parametrize("record", [{"training": ["a"]}, {"step": ["a"], "training": {"tokens_trained": ["a"]}}])
def test_a_record_of_a_conversion_edited_into_something_else_tells_no_progress(tmp_path: Path, record: object) -> None:
    folder = folder_of(tmp_path / "hf", config__json={}, conversion__json=record)
    (found,) = find_subjects([str(folder)])
    assert (found.step, found.tokens) == (None, None)


def folder_of(path: Path, **files: object) -> Path:
    """Make a folder with ``files``; a double underscore in a name stands for the dot."""
    path.mkdir(parents=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return path


def checkpoint(path: Path, step: int, samples: int) -> Path:
    """Make what a checkpoint is recognised by."""
    return folder_of(
        path,
        checkpoint_metadata__json={"metas": {"last_train_step": step, "consumed_train_samples": samples}},
        model_config__json={},
        config__yaml="tokens: {sequence_length: 4096}\ntokenizer: {tokenizer_name_or_path: meta-llama/Llama-3.2-1B}\n",
    )


def test_a_checkpoint_tells_its_steps_and_tokens(tmp_path: Path) -> None:
    (found,) = find_subjects([str(checkpoint(tmp_path / "5000", 5000, 1_280_000))])
    assert (found.label, found.kind, found.step, found.tokens) == ("5000", "checkpoint", 5000, 1_280_000 * 4096)


def test_a_converted_folder_tells_its_steps_by_the_record_of_its_conversion(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "5000", 5000, 100)
    record = {"step": 5000, "consumed_samples": 100, "checkpoint": str(source)}
    folder = folder_of(tmp_path / "best", config__json={}, conversion__json=record)
    (found,) = find_subjects([str(folder)])
    assert (found.label, found.kind, found.step, found.tokens) == ("best", "folder", 5000, 409_600)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("153000", 153_000),
        ("153k", 153_000),
        ("step70-tokens2.56K", 70),
        ("zagreus-0.4B", None),
        ("llama-3", None),
        ("hf", None),
    ],
)
def test_a_step_is_read_from_a_folders_name_only_where_it_says_so(tmp_path: Path, name: str, step: int | None) -> None:
    (found,) = find_subjects([str(folder_of(tmp_path / name, config__json={}))])
    assert found.step == step


def test_a_folder_of_checkpoints_is_expanded_by_step_and_unfinished_ones_left_out(tmp_path: Path) -> None:
    for step in (20_000, 5000, 10_000):
        checkpoint(tmp_path / str(step), step, step)
    checkpoint(tmp_path / ".saving-25000", 25_000, 25_000)
    assert [found.step for found in find_subjects([str(tmp_path)])] == [5000, 10_000, 20_000]
    named = find_subjects([f"run2={tmp_path}"])
    assert [found.label for found in named] == ["run2-5000", "run2-10000", "run2-20000"]


def test_hub_ids_are_what_is_no_folder(tmp_path: Path) -> None:
    plain, revised = find_subjects(["mii-llm/zagreus-0.4B-por", "q=Qwen/Qwen3-0.6B-Base@main"])
    assert (plain.kind, plain.label) == ("hub", "mii-llm__zagreus-0.4B-por")
    assert (revised.kind, revised.label, revised.source) == ("hub", "q", "Qwen/Qwen3-0.6B-Base@main")
    with pytest.raises(MissingInputError, match="no such folder"):
        find_subjects([str(tmp_path / "missing")])


def test_models_that_would_share_a_folder_of_results_are_refused(tmp_path: Path) -> None:
    one, other = (folder_of(tmp_path / run / "5000", config__json={}) for run in ("a", "b"))
    with pytest.raises(InputError, match=f"another-name={other}"):
        find_subjects([str(one), str(other)])
    assert [found.label for found in find_subjects([str(one), f"b5000={other}"])] == ["5000", "b5000"]


@pytest.mark.parametrize("label", ["..", ".", ".x", "-x", "_x", "a b", ""])
def test_a_label_that_is_no_plain_name_is_refused(tmp_path: Path, label: str) -> None:
    folder = folder_of(tmp_path / "5000", config__json={})
    with pytest.raises(InputError, match="begins with a letter or digit"):
        find_subjects([f"{label}={folder}"])


def test_a_label_holds_no_slash(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "5000", config__json={})
    with pytest.raises(InputError, match="no such folder"):
        find_subjects([f"../out={folder}"])


@pytest.mark.parametrize(("name", "label"), [(".hidden", "hidden"), ("._", "model"), ("-a b", "a_b")])
def test_a_label_taken_from_a_folder_is_a_plain_name(tmp_path: Path, name: str, label: str) -> None:
    """Results in a hidden folder would not be read again."""
    (found,) = find_subjects([str(folder_of(tmp_path / name, config__json={}))])
    assert found.label == label


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        find_subjects([str(folder_of(tmp_path / "empty"))])
    with pytest.raises(InputError, match="checkpoint is damaged"):
        find_subjects([str(folder_of(tmp_path / "5", checkpoint_metadata__json="{", model_config__json="{}"))])


def test_the_fingerprint_follows_weights_and_tokenizer_and_nothing_else(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", config__json={}, model__safetensors="weights", tokenizer__json="{}")
    first = model_fingerprint(folder)
    (folder / "README.md").write_text("card", encoding="utf-8")
    assert model_fingerprint(folder) == first
    (folder / "tokenizer.json").write_text("{ }", encoding="utf-8")
    second = model_fingerprint(folder)
    (folder / "model.safetensors").write_text("Weights", encoding="utf-8")
    assert len({first, second, model_fingerprint(folder), model_fingerprint(folder, "tokenizer")}) == 4
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        model_fingerprint(folder)


MMLU = {
    "dataset_path": "alexandrainst/m_mmlu",
    "dataset_name": "pt",
    "test_split": "test",
    "fewshot_split": "train",
    "path": Path("tasks/m_mmlu_pt.yaml"),
}


def test_a_task_says_what_it_reads() -> None:
    need = data_need(MMLU)
    assert need == DataNeed(dataset="alexandrainst/m_mmlu", config="pt", splits=("test", "train"))
    assert need.download_command.endswith("alexandrainst/m_mmlu --local-dir DIR/alexandrainst/m_mmlu")
    assert data_need({"dataset_path": "json"}) is None


def test_plain_files_are_read_by_split(tmp_path: Path) -> None:
    folder = tmp_path / "alexandrainst/m_mmlu/pt"
    folder.mkdir(parents=True)
    need = data_need(MMLU)
    assert need is not None
    (folder / "test.jsonl").touch()
    with pytest.raises(MissingInputError, match=r"train.*hf download .* alexandrainst/m_mmlu .*eval-data") as caught:
        local_overrides(MMLU, tmp_path)
    assert f"--local-dir {tmp_path}/alexandrainst/m_mmlu" in str(caught.value)
    assert missing_data([need], tmp_path) == [need] and form_of_data(need, tmp_path) is None
    (folder / "train.jsonl").touch()
    changes = local_overrides(MMLU, tmp_path)
    assert changes["dataset_path"] == "json" and changes["dataset_name"] is None
    assert changes["dataset_kwargs"]["data_files"]["train"] == [str(folder / "train.jsonl")]
    assert missing_data([need], tmp_path) == [] and form_of_data(need, tmp_path) == "plain files"
    (tmp_path / "alexandrainst/m_mmlu/README.md").touch()
    assert form_of_data(need, tmp_path) == "hub copy"


def test_the_command_that_fetches_a_copy_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    data = tmp_path / "my DIR's data"
    with pytest.raises(MissingInputError, match="hf download") as caught:
        local_overrides(MMLU, data)
    words = shlex.split(str(caught.value).split("or run: ")[1].split("; `zagreus")[0])
    assert words[-2:] == ["--local-dir", str(data / "alexandrainst/m_mmlu")]


def test_the_hubs_export_of_a_script_is_read_by_split(tmp_path: Path) -> None:
    task = {"dataset_path": "ruanchaves/faquad-nli", "test_split": "test", "path": Path("faquad_nli.yaml")}
    for number in (1, 0):
        file = tmp_path / f"ruanchaves/faquad-nli/default/test/000{number}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    changes = local_overrides(task, tmp_path)
    assert changes["dataset_path"] == "parquet"
    assert [Path(file).name for file in changes["dataset_kwargs"]["data_files"]["test"]] == [
        "0000.parquet", "0001.parquet"
    ]  # fmt: skip


def test_a_copy_of_the_hubs_repository_is_left_to_datasets(tmp_path: Path) -> None:
    folder = tmp_path / "alexandrainst/m_mmlu"
    folder.mkdir(parents=True)
    (folder / "README.md").touch()
    (folder / "data").mkdir()
    (folder / "data" / "test-00000-of-00001.parquet").touch()
    need = data_need(MMLU)
    assert need is not None and missing_data([need], tmp_path) == []
    assert local_overrides(MMLU, tmp_path) == {"dataset_path": str(folder)}
    assert local_overrides(MMLU, None) == {}


@pytest.mark.parametrize(
    "file", ["README.md", "dataset_infos.json", ".cache/huggingface/download/test.parquet", "x.py"]
)
def test_a_copy_without_data_is_none(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "alexandrainst/m_mmlu"
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").touch()
    (folder / file).touch()
    need = data_need(MMLU)
    assert need is not None and missing_data([need], tmp_path) == [need]
    if not file.endswith(".py"):  # a loading script gets an error of its own from `datasets`
        with pytest.raises(MissingInputError, match="no copy of alexandrainst/m_mmlu"):
            local_overrides(MMLU, tmp_path)


CARD = """---
configs:
- config_name: de
  data_files: de/*.parquet
- config_name: pt
  data_files:
  - {split: train, path: data/train-*}
  - {split: test, path: [data/test.jsonl]}
---
"""


def test_a_copy_whose_download_was_interrupted_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "alexandrainst/m_mmlu"
    names = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test.jsonl"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    need = data_need(MMLU)
    assert need is not None
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    assert form_of_data(need, tmp_path) == "hub copy"
    for name, declared in zip(names, ["data/train-*", "data/train-*", "data/test.jsonl"], strict=True):
        (folder / name).rename(folder / "unfinished")
        assert missing_data([need], tmp_path) == [need]
        with pytest.raises(MissingInputError) as refusal:
            local_overrides(MMLU, tmp_path)
        assert f"lacks {declared}, which its README.md declares" in str(refusal.value)
        (folder / "unfinished").rename(folder / name)
    # What cannot be judged is left to `datasets`.
    for card in (CARD.replace("pt", "fr"), CARD.replace(": pt", ": pt\n  data_dir: x"), "---\nconfigs: [\n---\n", ""):
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / names[2]).unlink(missing_ok=True)
        assert form_of_data(need, tmp_path) == "hub copy", card


@pytest.mark.parametrize(
    ("declared", "files"),
    [
        ("[data/a-00000-of-00002.parquet, data/a-00001-of-00002.parquet]", "01"),
        ("data/a-0000[0-1]-of-00003.parquet", "01"),
        ("data/**", "01"),
        ("'**/a-*'", "01"),
        ("./data/a-00000-of-00002.parquet", "0"),
        ("data/**.parquet", "01"),
    ],
)
def test_a_copy_is_whole_however_its_card_names_the_files(tmp_path: Path, declared: str, files: str) -> None:
    """Shards one by one, some of a series, or a whole folder; `datasets` explains a pattern that it does not read."""
    folder = tmp_path / "alexandrainst/m_mmlu"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(f"---\nconfigs:\n- {{config_name: pt, data_files: {declared}}}\n---\n")
    for number in files:
        count = 3 if "00003" in declared else 2
        (folder / f"data/a-0000{number}-of-0000{count}.parquet").touch()
    need = data_need(MMLU)
    assert need is not None and missing_data([need], tmp_path) == []


def test_a_tasks_own_files_are_found_beside_its_yaml(tmp_path: Path) -> None:
    (tmp_path / "heldout.jsonl").touch()
    config = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "heldout.jsonl"}}}
    changes = local_overrides({**config, "path": tmp_path / "heldout.yaml"}, None)
    assert changes["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / "heldout.jsonl")}
    with pytest.raises(MissingInputError, match=r"heldout\.jsonl"):
        local_overrides({**config, "path": tmp_path / "elsewhere" / "heldout.yaml"}, None)


def test_the_fingerprint_of_data_follows_files_and_own_task_files(tmp_path: Path) -> None:
    (tmp_path / "quiz.jsonl").write_text("{}", encoding="utf-8")
    own = {"dataset_path": "json", "dataset_kwargs": {"data_files": "quiz.jsonl"}, "path": tmp_path / "quiz.yaml"}
    first = data_fingerprint(own, None)
    second = data_fingerprint({**own, "doc_to_text": "other"}, None)
    (tmp_path / "quiz.jsonl").write_text("{ }", encoding="utf-8")
    assert len({first, second, data_fingerprint(own, None)}) == 3 and first is not None
    assert data_fingerprint(MMLU, None) is None and data_fingerprint(MMLU, tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "--suite progression-por"),
        ({"suite": "progression-pt"}, "did you mean 'progression-por'"),
        ({"suite": "progression-por", "limit": -1}, "--limit -1"),
        ({"suite": "progression-por", "limit": 1.5}, "--limit 1.5"),
        ({"tasks": ("x",), "num_fewshot": -1}, "--num-fewshot -1"),
        ({"suite": "progression-por", "num_fewshot": 3}, "--num-fewshot 3: .* --tasks"),
        ({"suite": "progression-por", "data": Path("nowhere")}, "--data nowhere"),
        ({"suite": "progression-por", "output": Path(__file__)}, "is a file"),
        ({"suite": "progression-por", "paths": ("./nowhere",)}, "no such folder"),
    ],
)
def test_a_request_that_cannot_work_is_refused_at_once(
    tmp_path: Path, changes: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanotron_zagreus.evaluation.requests.require", lambda *_: None)
    request = EvaluationRequest(**{"paths": (str(tmp_path),), "output": tmp_path / "out", **changes})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        run_request(request)
    assert not (tmp_path / "out").exists()


def test_batch_size_on_a_cpu_follows_the_memory_of_the_logits(tmp_path: Path) -> None:
    small = folder_of(tmp_path / "small", config__json={"vocab_size": 600, "max_position_embeddings": 256})
    large = folder_of(tmp_path / "large", config__json={"vocab_size": 10**9, "max_position_embeddings": 4096})
    assert choose_batch_size("auto", "cpu", small) == 64
    assert choose_batch_size("auto", "cpu", large) == 1
    assert choose_batch_size("auto", "cuda", large) == "auto"
    assert choose_batch_size("8", "cpu", small) == 8
    for wrong in ("0", "-1", "many", "1.5"):
        with pytest.raises(InputError, match="--batch-size"):
            choose_batch_size(wrong, "cpu", small)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(InputError, match="sees no CUDA device"):
        choose_device("cuda:0")
