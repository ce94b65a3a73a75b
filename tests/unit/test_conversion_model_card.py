"""The model card says what the record, the user and lm-eval know, and its metadata is the hub's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from nanotron_zagreus.cli.app import run
from nanotron_zagreus.conversion.eval_scores import EvaluatedModel, read_scores
from nanotron_zagreus.conversion.from_hf import import_folder
from nanotron_zagreus.conversion.hub import plan_push, push, step_branch
from nanotron_zagreus.conversion.model_card import read_card_details, write_model_card
from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError, WorkError
from nanotron_zagreus.resources import find_config
from tests.unit.conversion_fixtures import TINY, write_checkpoint, write_tokenizer_folder

DETAILS = """
model_name: mii-llm/zagreus-tiny-por
language: [en, pt]
license: apache-2.0
datasets: [HuggingFaceFW/fineweb-2]
"""
RESULTS = {
    "results": {
        "arc_pt": {"alias": "arc_pt", "acc,none": 0.25, "acc_stderr,none": 0.01, "sample_len": 4},
        "m_mmlu_pt": {"alias": " - mmlu", "acc,none": 0.2688, "acc_stderr,none": "N/A"},
    },
    "n-shot": {"arc_pt": 0, "m_mmlu_pt": 5},
    "model_name": "elsewhere/hf",
}
MODEL = EvaluatedModel(names=("hf",), step=20)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("card")
    write_checkpoint(root / "20", replace(TINY, tie_word_embeddings=True), dtype=torch.bfloat16)
    shutil.copy(find_config("smollm2/zagreus_350M_por_mixed.yaml"), root / "20/config.yaml")
    convert_checkpoint(root / "20", root / "hf", write_tokenizer_folder(root / "tokenizer"))
    return root / "hf"


@pytest.fixture
def hf(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "hf"))


def test_the_card_states_the_run_s_figures(hf: Path) -> None:
    card = ModelCard.load(hf / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.base_model is None
    for text in ("1,048,576", "2,621,440", "0.003", "903,675", "bit for bit", "starcoder", "| 400 |", "Llama 3.2"):
        assert text in card.text, text


def test_details_and_scores_are_in_metadata_and_text(hf: Path, tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(DETAILS)
    (tmp_path / "results_1.json").write_text(json.dumps(RESULTS))
    scores, notices = read_scores(tmp_path / "results_1.json", MODEL)
    assert not notices
    write_model_card(hf, read_card_details(tmp_path / "card.yaml"), scores)
    card = ModelCard.load(hf / "README.md")
    assert card.data.language == ["en", "pt"]
    assert card.data.license == "apache-2.0"
    assert card.data.model_name == "mii-llm/zagreus-tiny-por"
    assert [(r.dataset_name, r.metric_value) for r in card.data.eval_results] == [
        ("arc_pt", 0.25),
        ("m_mmlu_pt", 0.2688),
    ]
    assert "| m_mmlu_pt | 5 | acc | 0.2688 | - |" in card.text
    assert "A inteligência" in card.text


@pytest.mark.parametrize(
    ("text", "word"), [("languages: [en]", "language"), ("language: en", "list"), ("[]", "mapping")]
)
def test_card_details_are_read_strictly(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(InputError, match=word):
        read_card_details(tmp_path / "card.yaml")


def test_results_that_are_not_lm_eval_s_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        read_scores(tmp_path / "nowhere", MODEL)
    with pytest.raises(MissingInputError, match="results"):
        read_scores(tmp_path, MODEL)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(InputError, match="lm-eval"):
        read_scores(tmp_path, MODEL)


def test_a_checkpoint_without_configuration_still_gets_a_card(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "20")
    convert_checkpoint(tmp_path / "20", tmp_path / "hf", write_tokenizer_folder(tmp_path / "tokenizer"), verify=False)
    text = (tmp_path / "hf/README.md").read_text()
    assert "no training configuration" in text
    assert "was not verified" in text


def test_a_push_is_planned_without_the_network(hf: Path) -> None:
    plan = plan_push(hf, "mii-llm/zagreus-tiny", branch="auto")
    assert plan.branch == "step20-tokens2.62M"
    assert plan.files["model.safetensors"] == (hf / "model.safetensors").stat().st_size
    assert set(plan.files) == {path.name for path in hf.iterdir()}
    assert "model.safetensors" not in plan.removable and "model-F32.gguf" in plan.removable
    assert plan_push(hf, "mii-llm/zagreus-tiny").branch == "main"
    with pytest.raises(InputError, match="hub id"):
        plan_push(hf, "not a name")


def test_an_unverified_folder_is_not_pushed(hf: Path) -> None:
    record = json.loads((hf / "conversion.json").read_text())
    (hf / "conversion.json").write_text(json.dumps(record | {"verification": None}))
    with pytest.raises(InputError, match="verification"):
        plan_push(hf, "mii-llm/zagreus-tiny")


class FakeHub:
    """Records what a push asks of the hub's client."""

    def __init__(self, failure: Exception | None = None, remote: Sequence[str] = ()) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.failure, self.remote = failure, list(remote)

    def create_repo(self, repository: str, **options: Any) -> None:
        if self.failure:
            raise self.failure
        self.calls.append(("repo", {"name": repository, **options}))

    def create_branch(self, repository: str, **options: Any) -> None:
        self.calls.append(("branch", {"name": repository, **options}))

    def list_repo_files(self, repository: str, **options: Any) -> list[str]:
        return self.remote

    def upload_folder(self, **options: Any) -> SimpleNamespace:
        self.calls.append(("upload", options))
        return SimpleNamespace(commit_url="https://hub/commit/1")


def test_a_push_is_one_commit_to_the_planned_branch(hf: Path) -> None:
    stale = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "model-Q8_0.gguf"]
    theirs = ["README.md", "model-Q4_K_M.gguf", "model-mlx.safetensors", "modelling.py", "model.safetensors"]
    hub, said = FakeHub(remote=[*stale, *theirs]), []
    plan = plan_push(hf, "mii-llm/tiny", branch="auto", private=True)
    assert push(hf, plan, hub, said.append) == "https://hub/commit/1"
    assert [name for name, _ in hub.calls] == ["repo", "branch", "upload"]
    assert hub.calls[0][1]["private"] is True
    assert hub.calls[1][1]["branch"] == hub.calls[2][1]["revision"] == "step20-tokens2.62M"
    assert "step 20" in hub.calls[2][1]["commit_message"]
    # Weights that the branch got from main and this folder does not have are removed by the same commit.
    patterns = hub.calls[2][1]["delete_patterns"]
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in stale)
    assert not any(fnmatch(name, pattern) for name in theirs for pattern in patterns)
    assert len(said) == 3 and all(any(name in line for line in said) for name in stale)
    # The usage example loads what was pushed, from where it was pushed to.
    assert 'from_pretrained("mii-llm/tiny", revision="step20-tokens2.62M")' in (hf / "README.md").read_text()
    push(hf, plan_push(hf, "mii-llm/tiny"), hub)
    assert 'from_pretrained("mii-llm/tiny", torch_dtype' in (hf / "README.md").read_text()


def test_weights_changed_since_their_verification_are_not_pushed(hf: Path) -> None:
    path = hf / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(VerificationError, match=r"model\.safetensors"):
        plan_push(hf, "mii-llm/zagreus-tiny")


class NoRoute(HfHubHTTPError.__bases__[0]):  # type: ignore[misc]
    """What the hub client's HTTP library raises when nothing answers."""

    def __init__(self) -> None:
        Exception.__init__(self)


@pytest.mark.parametrize("error", [OSError("no route to host"), NoRoute(), HFValidationError("not a name")])
def test_an_unreachable_hub_is_one_clear_error(hf: Path, error: Exception) -> None:
    with pytest.raises(WorkError, match="hf auth login"):
        push(hf, plan_push(hf, "mii-llm/tiny"), FakeHub(error))


def test_a_new_repository_is_private_unless_asked_otherwise(hf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_push(hf, "mii-llm/tiny").private is True
    assert run(["push", str(hf), "mii-llm/tiny", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "if it is new: private" in said
    assert "removed there" in said and "model-Q8_0.gguf" in said
    assert run(["push", str(hf), "mii-llm/tiny", "--dry-run", "--public"]) == 0
    assert "if it is new: public" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (999, "999"), (1000, "1K"), (999_499, "999K"), (999_600, "1M"), (2_621_440, "2.62M"), (610 * 10**9, "610B"),
        (999_600_000_000, "1T"), (1_500_000_000_000, "1.5T"), (2345 * 10**12, "2345T"),
    ],
)  # fmt: skip
def test_tokens_are_counted_as_people_write_them(tokens: int, text: str) -> None:
    branch = step_branch({"step": 7, "training": {"tokens_trained": tokens}})
    assert branch == f"step7-tokens{text}"


def write_results(folder: Path, accuracy: float, **facts: Any) -> Path:
    folder.mkdir(parents=True)
    path = folder / "results_2026-01-01.json"
    path.write_text(json.dumps({"results": {"arc_pt": {"acc,none": accuracy}}, **facts}))
    return path


def test_another_checkpoint_s_scores_do_not_come_onto_the_card(
    hf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    write_results(results / "20", 0.25, zagreus={"source": "elsewhere/20", "step": 20})
    write_results(results / "40", 0.5, zagreus={"source": "elsewhere/40", "step": 40})
    write_results(results / "plain", 0.75, config={"model_args": "pretrained=hf/10000,dtype=float32"})
    write_results(results / "unnamed", 0.8)
    assert run(["card", str(hf), "--results", str(results)]) == 0
    said = capsys.readouterr().out
    assert "elsewhere/40, hf/10000, a model that results_2026-01-01.json does not name left out" in said
    assert [result.metric_value for result in ModelCard.load(hf / "README.md").data.eval_results] == [0.25]
    assert run(["card", str(hf), "--results", str(results / "40")]) == 2
    assert "only of elsewhere/40" in capsys.readouterr().err


def test_results_given_to_a_conversion_must_be_its_checkpoint_s(converted: Path, tmp_path: Path) -> None:
    checkpoint, tokenizer = converted.parent / "20", converted.parent / "tokenizer"
    other = write_results(tmp_path / "a", 0.5, zagreus={"source": "elsewhere/40", "step": 40})
    with pytest.raises(InputError, match="only of elsewhere/40"):
        convert_checkpoint(checkpoint, tmp_path / "hf", tokenizer, verify=False, results=other)
    own = write_results(tmp_path / "b", 0.25, zagreus={"source": str(checkpoint), "step": 20})
    convert_checkpoint(checkpoint, tmp_path / "hf", tokenizer, verify=False, results=own.parent)
    assert [result.metric_value for result in ModelCard.load(tmp_path / "hf/README.md").data.eval_results] == [0.25]


def test_scores_of_some_documents_say_so_and_stay_out_of_the_metadata(hf: Path, tmp_path: Path) -> None:
    limited = write_results(tmp_path / "a", 0.25, model_name=str(hf), config={"limit": 2.0})
    scores, _ = read_scores(limited, EvaluatedModel(names=(str(hf),), step=20))
    write_model_card(hf, None, scores)
    card = ModelCard.load(hf / "README.md")
    assert "| arc_pt (first 2 documents) |" in card.text
    assert not card.data.eval_results


def test_the_card_states_the_results_that_progress_shows(hf: Path, tmp_path: Path) -> None:
    """The newest on all documents, whatever a later trial on some says, and nothing that was set aside."""
    results = tmp_path / "results"
    write_results(results / "copied-last", 0.25, model_name=str(hf), date=1.0)
    write_results(results / "again", 0.5, model_name=str(hf), date=2.0)
    write_results(results / "longer", 0.75, model_name=str(hf), date=4.0, config={"limit": 0.5})
    write_results(results / "trial", 1.0, model_name=str(hf), date=3.0, config={"limit": 2})
    aside = write_results(results / "again/.replaced", 0.0, model_name=str(hf), date=5.0)
    aside.write_text(aside.read_text().replace("arc_pt", "hellaswag_pt"))
    os.utime(results / "copied-last/results_2026-01-01.json", (2e9, 2e9))
    model = EvaluatedModel(names=(str(hf),), step=20)
    scores, _ = read_scores(results, model)
    assert [(score.task, score.value, score.limit) for score in scores] == [("arc_pt", 0.5, None)]
    for whole in ("copied-last", "again"):
        shutil.rmtree(results / whole)
    assert [score.value for score in read_scores(results, model)[0]] == [0.75]
    trial = results / "trial/results_2026-01-01.json"
    trial.write_text(json.dumps(json.loads(trial.read_text()) | {"n-samples": {"arc_pt": {"effective": 2}}}))
    assert [score.value for score in read_scores(results, model)[0]] == [1.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_none(hf: Path, tmp_path: Path, value: float) -> None:
    path = write_results(tmp_path / "a", value, model_name=str(hf))
    assert read_scores(path, EvaluatedModel(names=(str(hf),), step=20)) == ([], [])


def test_a_card_written_again_keeps_what_is_not_given_again(hf: Path, tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(DETAILS + "citation: us\n")
    write_model_card(hf, read_card_details(tmp_path / "card.yaml"))
    results = write_results(tmp_path / "results", 0.25, model_name=str(hf))
    assert run(["card", str(hf), "--results", str(results)]) == 0
    for _ in range(2):
        card = ModelCard.load(hf / "README.md")
        assert (card.data.license, card.data.language) == ("apache-2.0", ["en", "pt"])
        assert card.data.datasets == ["HuggingFaceFW/fineweb-2"]
        assert [result.metric_value for result in card.data.eval_results] == [0.25]
        assert "## Citation" in card.text
        assert run(["card", str(hf)]) == 0


def test_sources_are_named_without_the_cluster_s_paths(hf: Path) -> None:
    text = (hf / "README.md").read_text()
    assert "`starcoder_tokenized/bos_eos`" in text
    assert "/training/" not in text


def test_groups_of_sources_are_told_with_their_tokens(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "20")
    (tmp_path / "20/config.yaml").write_text(
        """
data_stages:
- {name: all, start_training_step: 1, data: {dataset: {dataset_groups: {
    code: {dataset_folder: /data/tok/python, tokens: 200000000000},
    english: {dataset_folder: [/data/tok/fineweb-1, /data/tok/fineweb-2], tokens: 400000000000}}}}}
"""
    )
    convert_checkpoint(tmp_path / "20", tmp_path / "hf", write_tokenizer_folder(tmp_path / "tokenizer"), verify=False)
    lines = (tmp_path / "hf/README.md").read_text().splitlines()
    assert "- code, 200,000,000,000 tokens: `python`" in lines
    assert "- english, 400,000,000,000 tokens: `fineweb-1`, `fineweb-2`" in lines
    assert not [line for line in lines if "in proportion to their size" in line]


def test_continued_pretraining_is_not_called_training_from_scratch(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "20")
    (tmp_path / "20/config.yaml").write_text("model: {init_method: {path: /cluster/home/imported-smol}}")
    convert_checkpoint(tmp_path / "20", tmp_path / "hf", write_tokenizer_folder(tmp_path / "tokenizer"), verify=False)
    assert json.loads((tmp_path / "hf/conversion.json").read_text())["started_from"] == "imported-smol"
    text = (tmp_path / "hf/README.md").read_text()
    assert "from scratch" not in text and "/cluster" not in text
    assert "starting from the weights of another checkpoint (`imported-smol`)" in text
    (tmp_path / "card.yaml").write_text("base_model: HuggingFaceTB/SmolLM2-135M")
    write_model_card(tmp_path / "hf", read_card_details(tmp_path / "card.yaml"))
    card = ModelCard.load(tmp_path / "hf/README.md")
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M"
    assert "from the weights of [HuggingFaceTB/SmolLM2-135M]" in card.text


@pytest.mark.parametrize("command", [["card"], ["push"]])
def test_the_record_of_an_import_is_not_a_conversion_s(
    hf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    import_folder(hf, tmp_path / "imported", verify=False)
    arguments = [*command, str(tmp_path / "imported")]
    assert run([*arguments, "mii-llm/tiny", "--dry-run"] if command == ["push"] else arguments) == 2
    assert "of an imported checkpoint" in capsys.readouterr().err
