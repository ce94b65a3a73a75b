"""The model card says what the record, the user and lm-eval know, and its metadata is the hub's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from nanotron_zagreus.conversion.eval_scores import read_scores
from nanotron_zagreus.conversion.hub import plan_push, push
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
}


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
    write_model_card(hf, read_card_details(tmp_path / "card.yaml"), read_scores(tmp_path / "results_1.json"))
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
        read_scores(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match="results"):
        read_scores(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(InputError, match="lm-eval"):
        read_scores(tmp_path)


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

    def __init__(self, failure: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.failure = failure

    def create_repo(self, repository: str, **options: Any) -> None:
        if self.failure:
            raise self.failure
        self.calls.append(("repo", {"name": repository, **options}))

    def create_branch(self, repository: str, **options: Any) -> None:
        self.calls.append(("branch", {"name": repository, **options}))

    def upload_folder(self, **options: Any) -> SimpleNamespace:
        self.calls.append(("upload", options))
        return SimpleNamespace(commit_url="https://hub/commit/1")


def test_a_push_is_one_commit_to_the_planned_branch(hf: Path) -> None:
    hub = FakeHub()
    assert push(hf, plan_push(hf, "mii-llm/tiny", branch="auto", private=True), hub) == "https://hub/commit/1"
    assert [name for name, _ in hub.calls] == ["repo", "branch", "upload"]
    assert hub.calls[0][1]["private"] is True
    assert hub.calls[1][1]["branch"] == hub.calls[2][1]["revision"] == "step20-tokens2.62M"
    assert "step 20" in hub.calls[2][1]["commit_message"]
    # Weights that the branch got from main and this folder does not have are removed by the same commit.
    stale = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "model-Q8_0.gguf"]
    patterns = hub.calls[2][1]["delete_patterns"]
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in stale)
    assert not any(fnmatch("README.md", pattern) for pattern in patterns)


def test_weights_changed_since_their_verification_are_not_pushed(hf: Path) -> None:
    path = hf / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(VerificationError, match=r"model\.safetensors"):
        plan_push(hf, "mii-llm/zagreus-tiny")


def test_an_unreachable_hub_is_one_clear_error(hf: Path) -> None:
    with pytest.raises(WorkError, match="hf auth login"):
        push(hf, plan_push(hf, "mii-llm/tiny"), FakeHub(OSError("no route to host")))
