"""What a conversion publishes identifies the checkpoint and says nothing of where files lay on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from nanotron_zagreus.checkpoints.manifest import FileRecord, write_manifest
from nanotron_zagreus.checkpoints.weights_digest import weights_digest
from nanotron_zagreus.cli.app import run
from nanotron_zagreus.conversion import eval_scores
from nanotron_zagreus.conversion.record import is_of_other_weights, last_part, public_name
from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.subjects import find_subjects
from nanotron_zagreus.file_hash import hash_file
from tests.unit.conversion_fixtures import write_checkpoint, write_tokenizer_folder

CONFIG = """
general: {{project: p, run: zagreus-por, seed: 1}}
tokenizer: {{tokenizer_name_or_path: {root}/tokenizer}}
tokens: {{sequence_length: 4096}}
model: {{init_method: {{path: {root}/home/imported-smol}}}}
data_stages:
- {{name: all, start_training_step: 1, data: {{dataset: {{dataset_folder: {root}/home/alice/tokenized/english}}}}}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of checkpoints whose newest has a manifest and a configuration full of paths, and a tokenizer."""
    home = tmp_path / "home"
    step = home / "checkpoints/20"
    write_checkpoint(step)
    write_checkpoint(home / "checkpoints/10")
    (home / "checkpoints/latest.txt").write_text("20")
    (step / "config.yaml").write_text(CONFIG.format(root=tmp_path))
    files = [path for path in sorted(step.rglob("*")) if path.is_file()]
    records = [
        FileRecord(path=str(path.relative_to(step)), bytes=path.stat().st_size, sha256=hash_file(path))
        for path in files
    ]
    write_manifest(step, records, {"data": {"sources": {"0": {"tokenizer_sha256": "f" * 64}}}})
    tokenizer = write_tokenizer_folder(home / "tokenizer")
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    # As transformers before 4.2x saved it.
    config |= {"name_or_path": str(home / "start"), "special_tokens_map_file": str(home / ".cache/map.json")}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    return home


def write_results(path: Path, source: Path | str, step: int, value: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {"source": str(source), "step": step}
    path.write_text(json.dumps({"results": {"arc_pt": {"acc,none": value}}, "zagreus": own}))
    return path


def published(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "conversion.json").read_text())


def test_no_local_path_is_in_a_converted_folder(home: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    write_results(results / "20/results_1.json", home / "checkpoints/20", 20, 0.25)
    write_results(results / "10/results_1.json", home / "checkpoints/10", 10, 0.5)
    convert_checkpoint(
        home / "checkpoints", tmp_path / "hf", home / "tokenizer", accept_tokenizer=True, results=results
    )
    record, content = record_of(tmp_path / "hf"), published(tmp_path / "hf")
    assert str(tmp_path).encode() not in content
    assert len(record["notices"]) >= 3 and any("accepted as asked" in notice for notice in record["notices"])
    assert (record["checkpoint"], record["step"], record["training"]["run"]) == ("20", 20, "zagreus-por")
    assert (record["tokenizer"], record["started_from"]) == ("tokenizer", "imported-smol")
    assert record["tokenizer_sha256"] == hash_file(home / "tokenizer/tokenizer.json")
    assert record["checkpoint_sha256"] == weights_digest(home / "checkpoints/20")


@pytest.mark.parametrize("root", ["..", "~", "./../home", "/scratch"])
def test_no_local_path_is_in_a_converted_folder_however_it_was_written(
    home: Path, tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (home / "checkpoints/20/manifest.json").unlink()
    config = f"""
tokenizer: {{tokenizer_name_or_path: {root}/alice/secret/mytok}}
model: {{init_method: {{path: {root}/alice/start}}}}
data_stages:
- {{name: all, data: {{dataset: {{dataset_folder: [{root}/alice/english, {root}/alice/french]}}}}}}
"""
    (home / "checkpoints/20/config.yaml").write_text(config)
    names = {"name_or_path": f"{root}/alice/tok", "tokenizer_file": f"{root}/alice/tok/tokenizer.json"}
    (home / "tokenizer/tokenizer_config.json").write_text(json.dumps(names))
    results = tmp_path / "results"
    write_results(results / "20/results_1.json", home / "checkpoints/20", 20, 0.25)
    write_results(results / "10/results_1.json", f"{root}/alice/other", 10, 0.5)
    convert_checkpoint(Path("../home/checkpoints/20"), tmp_path / "hf", "~/tokenizer", verify=False, results=results)
    record, content = record_of(tmp_path / "hf"), published(tmp_path / "hf").decode(errors="replace")
    assert not [line for line in content.splitlines() if "alice" in line]
    assert record["training"]["tokenizer"] == "mytok" and record["started_from"] == "start"
    assert record["training"]["stages"][0]["sources"] == ["english", "french"]
    assert any("results of other left out" in notice for notice in record["notices"])


def test_an_unusable_configuration_is_named_without_its_path(home: Path, tmp_path: Path) -> None:
    (home / "checkpoints/20/manifest.json").unlink()
    (home / "checkpoints/20/config.yaml").write_text("a: [")
    convert_checkpoint(home / "checkpoints/20", tmp_path / "hf", home / "tokenizer", verify=False)
    assert any("config.yaml" in notice for notice in record_of(tmp_path / "hf")["notices"])
    assert str(tmp_path).encode() not in published(tmp_path / "hf")


def test_a_hub_id_stays_and_of_a_path_only_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs/tok").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs")
    assert [last_part(name) for name in ("tok", "./tok/", "../runs/tok", ".")] == ["tok", "tok", "tok", "runs"]
    assert last_part(Path("/scratch/alice/5000")) == "5000"
    (tmp_path / "runs/mine/tok").mkdir(parents=True)
    names = ["org/tok", "org/tok@step/5", "gpt2", "mine/tok", "a/b/tok", "~/tok", "~nobody-here/tok", "../tok", "./tok"]
    assert [public_name(name) for name in names] == ["org/tok", "org/tok@step/5", "gpt2", *["tok"] * 6]


def test_scores_of_the_checkpoint_itself_are_found_by_its_weights(home: Path, tmp_path: Path) -> None:
    """The record does not say where the checkpoint lies; another run's of the same step is another one."""
    other, damaged = tmp_path / "other/20", tmp_path / "damaged/20"
    write_checkpoint(other, seed=1)
    write_checkpoint(damaged)
    (damaged / "manifest.json").write_text("{")
    results = tmp_path / "results"
    write_results(results / "own/results_1.json", home / "checkpoints/20", 20, 0.25)
    write_results(results / "other/results_2.json", other, 20, 0.5)
    write_results(results / "damaged/results_3.json", damaged, 20, 0.75)
    hf = tmp_path / "hf"
    convert_checkpoint(home / "checkpoints/20", hf, home / "tokenizer", accept_tokenizer=True, verify=False)
    assert run(["card", str(hf), "--results", str(results)]) == 0
    assert [result.metric_value for result in ModelCard.load(hf / "README.md").data.eval_results] == [0.25]


def test_whose_weights_a_folder_has_is_told_without_reading_any(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion job asks it of every step at each of its starts."""
    checkpoint, hf = home / "checkpoints/20", tmp_path / "hf"
    convert_checkpoint(checkpoint, hf, home / "tokenizer", accept_tokenizer=True, verify=False)
    shutil.copytree(hf, tmp_path / "other")
    (tmp_path / "other/conversion.json").write_text(json.dumps(record_of(hf) | {"checkpoint_sha256": "0" * 64}))
    monkeypatch.setattr("nanotron_zagreus.checkpoints.weights_digest.hash_file", None)
    assert not is_of_other_weights(hf, checkpoint) and is_of_other_weights(tmp_path / "other", checkpoint)
    (checkpoint / "manifest.json").write_text("{")
    assert not is_of_other_weights(tmp_path / "other", checkpoint)
    (checkpoint / "manifest.json").unlink()  # as of another Nanotron
    assert not is_of_other_weights(tmp_path / "other", checkpoint)


@pytest.mark.parametrize(
    ("source", "is_own"),
    [("a/hf", True), ("b/../a/hf", True), ("b/hf", False), ("gone/hf", True), ("gone/other", False)],
)
def test_a_path_that_exists_must_be_the_model_s_and_one_that_does_not_end_alike(
    tmp_path: Path, source: str, is_own: bool
) -> None:
    for run_folder in ("a", "b"):
        (tmp_path / run_folder / "hf").mkdir(parents=True)
    path = write_results(tmp_path / "results_1.json", tmp_path / source, 20, 0.25)
    model = eval_scores.EvaluatedModel(names=(str(tmp_path / "a/hf"),), step=20)
    if is_own:
        assert [score.value for score in eval_scores.read_scores(path, model)[0]] == [0.25]
    else:
        with pytest.raises(InputError, match=f"only of .*{source}"):
            eval_scores.read_scores(path, model)


def test_a_checkpoint_s_weights_are_hashed_once_for_all_its_results(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    digest = eval_scores.weights_digest
    monkeypatch.setattr(eval_scores, "weights_digest", lambda folder: (hashed.append(folder), digest(folder))[1])
    for number in range(9):
        write_results(tmp_path / f"results/results_{number}.json", home / f"{'./' * number}checkpoints/20", 20, 0.25)
    sha256 = digest(home / "checkpoints/20")
    model = eval_scores.EvaluatedModel(names=("hf",), step=20, checkpoint_sha256=sha256)
    assert [score.value for score in eval_scores.read_scores(tmp_path / "results", model)[0]] == [0.25]
    assert len(hashed) == 1


def test_scores_of_the_branch_that_a_push_made_are_the_checkpoint_s(home: Path, tmp_path: Path) -> None:
    """By the plain command, and by `zagreus evaluate`."""
    hf, results = tmp_path / "hf", tmp_path / "results"
    convert_checkpoint(home / "checkpoints/20", hf, home / "tokenizer", accept_tokenizer=True, verify=False)
    record = record_of(hf)
    changed = {"training": {"tokens_trained": 10**9}, "card": {"model_name": "a/b"}}
    (hf / "conversion.json").write_text(json.dumps(record | changed))
    write_results(results / "own/results_1.json", "a/b@step20-tokens1B", 20, 0.25)
    plain = {"pretrained": "a/b", "revision": "step20-tokens1B"}
    written = {"results": {"arc_pt": {"acc,none": 0.5}}, "config": {"model_args": plain}, "date": 1}
    (results / "results_2.json").write_text(json.dumps(written))
    for value in (0.25, 0.5):
        assert run(["card", str(hf), "--results", str(results)]) == 0
        assert [result.metric_value for result in ModelCard.load(hf / "README.md").data.eval_results] == [value]
        (results / "own/results_1.json").unlink(missing_ok=True)


def test_another_revision_of_the_hub_s_model_is_another_model(tmp_path: Path) -> None:
    arguments = {"pretrained": "a/b", "revision": "step20-tokens1B"}
    written = {"results": {"arc_pt": {"acc,none": 0.25}}, "config": {"model_args": arguments}, "model_name": "a/b"}
    (tmp_path / "results_1.json").write_text(json.dumps(written))
    model = eval_scores.EvaluatedModel(names=("hf", "a/b"), step=40)
    with pytest.raises(InputError, match="only of a/b@step20-tokens1B"):
        eval_scores.read_scores(tmp_path, model)
    (tmp_path / "results_1.json").write_text(json.dumps(written).replace("step20-tokens1B", "main"))
    assert [score.value for score in eval_scores.read_scores(tmp_path, model)[0]] == [0.25]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("dtype", ["BF16"], "dtype: got a list, expected text"),
        ("dtype", "BF17", "dtype: got 'BF17', expected one of"),
        ("checkpoint", {"a": 1}, "checkpoint: got a mapping, expected text"),
        ("tokenizer", ["a/b"], "tokenizer: got a list, expected text"),
        ("checkpoint_sha256", ["a"], "checkpoint_sha256: got a list, expected text"),
        ("started_from", ["a"], "started_from: got a list, expected text"),
        ("architecture", ["a"], "architecture: got a list, expected a mapping"),
        ("training", ["a"], "training: got a list, expected a mapping"),
        ("training", {"run": ["a"]}, "training.run: got a list, expected text"),
        ("training", {"tokenizer": {"a": 1}}, "training.tokenizer: got a mapping, expected text"),
        ("card", {"model_name": ["a"]}, "card.model_name: got a list, expected text"),
        ("weights", {"a": 1}, "weights: got a mapping, expected a list"),
        ("weights", ["a"], "weights: got 'a', expected"),
        ("weights", [{"name": ["a"], "sha256": "b"}], "weights: got {'name': ['a'], 'sha256': 'b'}, expected"),
    ],
)
def test_a_record_edited_into_something_else_is_one_clear_error(
    home: Path, tmp_path: Path, field: str, value: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hf = tmp_path / "hf"
    convert_checkpoint(home / "checkpoints/20", hf, home / "tokenizer", accept_tokenizer=True, verify=False)
    (hf / "conversion.json").write_text(json.dumps(record_of(hf) | {field: value}))
    capsys.readouterr()
    write_results(tmp_path / "results/results_1.json", home / "checkpoints/20", 20, 0.25)
    assert run(["card", str(hf), "--results", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert f"conversion.json: {words}" in error and error.count("\n") == 1


def test_records_with_paths_are_read_as_before(home: Path, tmp_path: Path) -> None:
    hf = tmp_path / "hf"
    convert_checkpoint(home / "checkpoints/20", hf, home / "tokenizer", accept_tokenizer=True, verify=False)
    record = record_of(hf)
    old = {key: value for key, value in record.items() if key not in ("checkpoint_sha256", "tokenizer_sha256")}
    old |= {"checkpoint": str(home / "checkpoints/20"), "tokenizer": str(home / "tokenizer"), "training": {}}
    (hf / "conversion.json").write_text(json.dumps(old))
    write_results(tmp_path / "results/results_1.json", home / "checkpoints/20", 20, 0.25)
    assert run(["card", str(hf), "--results", str(tmp_path / "results")]) == 0
    assert [result.metric_value for result in ModelCard.load(hf / "README.md").data.eval_results] == [0.25]
    assert str(tmp_path) not in (hf / "README.md").read_text()
    assert find_subjects([str(hf)])[0].tokens == 640 * 4096


def test_the_tokens_of_a_folder_are_known_where_its_checkpoint_is_not(home: Path, tmp_path: Path) -> None:
    convert_checkpoint(
        home / "checkpoints/20", tmp_path / "hf", home / "tokenizer", accept_tokenizer=True, verify=False
    )
    home.rename(tmp_path / "gone")
    (found,) = find_subjects([str(tmp_path / "hf")])
    assert (found.step, found.tokens) == (20, 640 * 4096)
