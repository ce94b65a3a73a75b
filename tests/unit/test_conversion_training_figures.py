"""What a run's config.yaml says of its data, in every form that it may stand there."""

from __future__ import annotations

from typing import Any

import pytest

from nanotron_zagreus.conversion.training_figures import training_figures


def stage_of(dataset: dict[str, Any]) -> dict[str, Any]:
    """Return the one stage of a run with this data set."""
    stages = [{"name": "all", "start_training_step": 1, "data": {"dataset": dataset}}]
    (stage,) = training_figures({"data_stages": stages}, None)["stages"]
    return stage


@pytest.mark.parametrize(
    ("folders", "weights", "sources", "shares"),
    [
        ("/data/english", None, ["english"], None),
        (["/data/english", "/data/code"], [0.75, 0.25], ["english", "code"], [0.75, 0.25]),
        ({"/data/english": 3, "/data/code": 1}, None, ["english", "code"], [3, 1]),
        (None, None, [], None),
    ],
)
def test_folders_are_named_with_their_weights(folders: Any, weights: Any, sources: list[str], shares: Any) -> None:
    stage = stage_of({"dataset_folder": folders, "dataset_weights": weights})
    assert (stage["sources"], stage["weights"], stage["groups"]) == (sources, shares, None)


def test_of_paths_that_end_alike_only_names_are_told_and_nobody_s_home() -> None:
    folders = ["/a/english/tok", "/b/../c/french/tok", "/c/french/tok", "~alice/code", "/code"]
    assert stage_of({"dataset_folder": folders})["sources"] == [
        "english/tok", "french/tok", "french/tok", "code", "code"
    ]  # fmt: skip


def test_a_run_without_a_configuration_has_no_figures_and_tokens_need_both_factors() -> None:
    assert training_figures({}, 640) == {}
    tokens = {"tokens": {"sequence_length": 8}}
    assert training_figures(tokens, 640) == {"sequence_length_tokens": 8, "tokens_trained": 5120}
    assert "tokens_trained" not in training_figures(tokens, None)
