"""lm-eval's results files: read whoever wrote them, written whole or not at all; plots that can be drawn."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanotron_zagreus.errors import InputError, MissingInputError, WorkError
from nanotron_zagreus.evaluation import extras
from nanotron_zagreus.evaluation.plots import check_plot_path, choose_axis, draw_tables, panel_grid
from nanotron_zagreus.evaluation.progression import Row, build_tables
from nanotron_zagreus.evaluation.published_values import published_rows
from nanotron_zagreus.evaluation.results import has_samples, newest_results, read_results, set_aside, write_results


def lm_eval_file(**changes: Any) -> dict[str, Any]:
    """Return what `lm-eval --tasks m_mmlu_pt --num_fewshot 5` writes, as far as it is read."""
    return {
        "results": {"m_mmlu_pt": {"alias": "m_mmlu_pt", "sample_len": 10, "acc,none": 0.25, "acc_stderr,none": 0.01}},
        "versions": {"m_mmlu_pt": 0.0},
        "n-shot": {"m_mmlu_pt": 5},
        "n-samples": {"m_mmlu_pt": {"original": 10, "effective": 10}},
        "config": {"limit": None},
        "date": 100.0,
        "model_name": "hf_checkpoints/153000",
        "chat_template": None,
        **changes,
    }


def put(folder: Path, name: str, content: dict[str, Any]) -> Path:
    """Write a results file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results_{name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_files_of_the_plain_command_are_read_too(tmp_path: Path) -> None:
    put(tmp_path / "hf_checkpoints__153000", "1", lm_eval_file())
    (found,) = read_results(tmp_path)
    assert (found.label, found.task, found.fingerprint) == ("hf_checkpoints__153000", "m_mmlu_pt", None)
    assert (found.step, found.tokens) == (153_000, None)
    assert found.scores == {"acc": 0.25} and found.errors == {"acc": 0.01}
    assert (found.conditions.num_fewshot, found.conditions.version, found.num_documents) == (5, "0.0", 10)


@pytest.mark.parametrize(
    ("config", "dtypes"),
    [
        ({"model": "hf", "model_args": "pretrained=m,dtype=float16", "model_dtype": "torch.float16"}, {"float16"}),
        ({"model": "hf", "model_args": "pretrained=m", "model_dtype": "torch.bfloat16"}, {"auto", "bfloat16"}),
        ({"model": "hf", "model_args": {"dtype": "auto"}, "model_dtype": "torch.float32"}, {"auto", "float32"}),
        ({"model": "vllm", "model_args": {"pretrained": "m"}}, set()),
        ({}, set()),
    ],
)
def test_what_a_model_was_computed_in_is_read(tmp_path: Path, config: dict[str, Any], dtypes: set[str]) -> None:
    put(tmp_path, "1", lm_eval_file(config={"limit": None, **config}))
    (found,) = read_results(tmp_path)
    assert found.conditions.dtypes == dtypes


@pytest.mark.parametrize(
    ("name", "step"),
    [("checkpoints/step-70", 70), ("/runs/hf/153k", 153_000), ("153000", 153_000), ("Qwen/Qwen3-0.6B-Base", None)],
)
def test_a_step_is_read_from_the_name_that_the_plain_command_recorded(
    tmp_path: Path, name: str, step: int | None
) -> None:
    put(tmp_path, "1", lm_eval_file(model_name=name))
    put(tmp_path, "2", lm_eval_file(model_name=name, zagreus={"label": "m", "step": 5}))
    assert [found.step for found in read_results(tmp_path)] == [step, 5]


@pytest.mark.parametrize("arguments", [{"revision": "step5000-tokens5.24B"}, "revision=step5000-tokens5.24B"])
def test_revisions_of_one_hub_model_are_models_of_their_own(tmp_path: Path, arguments: Any) -> None:
    """Plain lm-eval writes them all into one folder, under one name."""
    folder, name = tmp_path / "mii-llm__zagreus", {"model_name": "mii-llm/zagreus"}
    put(folder, "1", lm_eval_file(**name, config={"limit": None, "model_args": {"revision": "main"}}))
    put(folder, "2", lm_eval_file(**name, config={"limit": None, "model_args": arguments}))
    found = [(result.label, result.step) for result in newest_results(read_results(tmp_path))]
    assert found == [("mii-llm__zagreus", None), ("mii-llm__zagreus@step5000-tokens5.24B", 5000)]
    put(folder, "2", lm_eval_file(**name, config={"limit": None, "model_args": "revision=refs/pr/12"}))
    assert newest_results(read_results(tmp_path))[1].step is None, "the number of a pull request"


def test_a_model_given_by_its_whole_path_is_called_by_its_name(tmp_path: Path) -> None:
    put(tmp_path, "1", lm_eval_file(model_name="/runs/hf/153k"))
    assert [found.label for found in read_results(tmp_path)] == ["153k"]


def test_a_folder_named_after_a_path_that_leads_up_is_read(tmp_path: Path) -> None:
    """Plain lm-eval calls it so for pretrained=../hf/5000."""
    put(tmp_path / "..__hf__5000", "1", lm_eval_file(model_name="../hf/5000"))
    (found,) = read_results(tmp_path)
    assert (found.label, found.step) == ("hf__5000", 5000)


def test_the_cards_own_commands_give_a_curve(tmp_path: Path) -> None:
    for step in (207_000, 153_000):
        put(tmp_path / f"hf_checkpoints__{step}", "1", lm_eval_file(model_name=f"hf_checkpoints/{step}"))
    (table,) = build_tables(newest_results(read_results(tmp_path)), tokens_per_step=1_048_576)
    rows = [(row.label, row.step) for row in table.rows]
    assert rows == [("hf_checkpoints__153000", 153_000), ("hf_checkpoints__207000", 207_000)]
    assert choose_axis(table.rows) == ("step", 1_048_576)


def test_who_cut_long_prompts_is_read(tmp_path: Path) -> None:
    put(tmp_path, "1", lm_eval_file())
    put(tmp_path, "2", lm_eval_file(zagreus={"context": {"m_mmlu_pt": "whole-shots"}}))
    put(tmp_path, "3", lm_eval_file(zagreus={"label": "m"}))
    assert [found.conditions.context for found in read_results(tmp_path)] == ["lm-eval", "whole-shots", None]


def test_what_evaluate_recorded_of_each_task_is_read_and_groups_are_no_tasks(tmp_path: Path) -> None:
    facts = {"data": "d1", "documents": "d2", "shots": {"asked": 5}}
    own = {"label": "m", "fingerprint": "f", "step": 7, "tokens": 70} | {
        name: {"m_mmlu_pt": value} for name, value in facts.items()
    }
    results = {"m_mmlu_pt": {"acc,none": 0.5}, "m_mmlu": {"acc,none": 0.5}}
    put(tmp_path, "1", lm_eval_file(results=results, groups={"m_mmlu": {"acc,none": 0.5}}, zagreus=own))
    (found,) = read_results(tmp_path)
    assert (found.label, found.task, found.fingerprint) == ("m", "m_mmlu_pt", "f")
    assert (found.data, found.documents, found.shots) == ("d1", "d2", {"asked": 5})
    assert (found.step, found.tokens, found.num_documents) == (7, 70, 10)


def test_what_is_no_number_is_no_score(tmp_path: Path) -> None:
    """As of a model that diverged: it must not stand in a table, nor be the best there."""
    values = {"acc,none": math.nan, "acc_stderr,none": math.nan, "f1,none": 0.5, "f1_stderr,none": "N/A"}
    put(tmp_path, "1", lm_eval_file(results={"m_mmlu_pt": values}))
    (found,) = read_results(tmp_path)
    assert found.scores == {"f1": 0.5} and found.errors == {}


def test_the_newest_result_of_a_task_wins_whatever_the_files_name(tmp_path: Path) -> None:
    newer = {"m_mmlu_pt": {"acc,none": 0.5, "acc_stderr,none": "N/A"}}
    put(tmp_path / "m", "a", lm_eval_file(date=200.0, results=newer))
    put(tmp_path / "m", "b", lm_eval_file())
    put(tmp_path / "m" / ".replaced", "c", lm_eval_file(date=300.0))
    (found,) = newest_results(read_results(tmp_path))
    assert found.scores == {"acc": 0.5} and found.errors == {}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = put(tmp_path, "1", lm_eval_file())
    path.write_text(path.read_text(encoding="utf-8")[:-10], encoding="utf-8")
    with pytest.raises(InputError, match=r"results_1\.json.*delete it"):
        read_results(tmp_path)
    put(tmp_path, "1", {"config": {}})
    with pytest.raises(InputError, match="not a results file"):
        read_results(tmp_path)


def test_set_aside_files_are_kept_and_not_read(tmp_path: Path) -> None:
    path = put(tmp_path, "1", lm_eval_file())
    set_aside([path])
    assert read_results(tmp_path) == [] and (tmp_path / ".replaced" / path.name).is_file()


def test_folders_that_vanish_meanwhile_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes results there, or deletes the copy of a checkpoint, while a table is being made."""
    put(tmp_path, "1", lm_eval_file())
    wanted = read_results(tmp_path)
    scan = os.scandir
    for name in (".writing-1", ".converted", "gone"):
        (tmp_path / name).mkdir()

    def scan_meanwhile(path: Any) -> Any:
        if Path(path) != tmp_path:
            Path(path).rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_meanwhile)
    assert wanted and read_results(tmp_path) == wanted


class Tracker:
    """Stands in for lm-eval's EvaluationTracker, which warns and goes on when it cannot write."""

    output_path: str

    def __init__(self, *, works: bool, samples: dict[str, Any] | None = None) -> None:
        self.works, self.samples = works, samples or {"t": [1]}

    def save_results_aggregated(self, results: dict[str, Any], samples: dict[str, Any]) -> None:
        if self.works:
            assert samples == self.samples
            put(Path(self.output_path).parent, "now", results)

    def save_results_samples(self, task_name: str, samples: list[Any]) -> None:
        Path(self.output_path).with_name(f"samples_{task_name}_now.jsonl").write_text(json.dumps(samples))


def test_results_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="free space"):
        write_results(tmp_path / "m", {"samples": {}}, keep_samples=False, tracker=Tracker(works=False))
    assert list((tmp_path / "m").iterdir()) == []
    path = write_results(
        tmp_path / "m", {**lm_eval_file(), "samples": {"t": [1]}}, keep_samples=False, tracker=Tracker(works=True)
    )
    assert list((tmp_path / "m").iterdir()) == [path] and read_results(tmp_path)[0].path == path


def test_samples_stand_beside_their_results_which_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed, replace_path = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: (renamed.append(path.name), replace_path(path, to))[1])
    samples = {"m_mmlu_pt": [1]}
    with pytest.raises(WorkError, match="free space"):
        write_results(tmp_path / "m", {"samples": samples}, keep_samples=True, tracker=Tracker(works=False))
    assert list((tmp_path / "m").iterdir()) == []
    results = {**lm_eval_file(), "samples": samples}
    path = write_results(tmp_path / "m", results, keep_samples=True, tracker=Tracker(works=True, samples=samples))
    assert path.name == "results_now.json" and renamed == ["samples_m_mmlu_pt_now.jsonl", "results_now.json"]
    (result,) = read_results(tmp_path)
    assert has_samples(result)
    path.with_name("samples_m_mmlu_pt_now.jsonl").unlink()
    assert not has_samples(result)


def test_every_table_gets_a_picture_with_a_panel_per_column(tmp_path: Path) -> None:
    tables = build_tables([], "progression-por", published_rows)
    drawn = draw_tables([*tables, replace(tables[0], name="other")], tmp_path / "both.svg")
    assert [path.name for path in drawn] == ["both-progression-por.svg", "both-other.svg"]
    assert sorted(tmp_path.glob("both*")) == sorted(drawn)
    svg = (tmp_path / "both-other.svg").read_text(encoding="utf-8")
    assert svg.count('id="axes_') == 6  # four panels, and the two upper ones have tokens above


@pytest.mark.parametrize(("num_panels", "shape"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (10, (2, 5))])
def test_panels_stand_in_two_rows_when_one_would_be_too_wide(num_panels: int, shape: tuple[int, int]) -> None:
    assert panel_grid(num_panels) == shape


def test_runs_of_other_batch_sizes_are_drawn_over_tokens() -> None:
    def row(step: int | None, tokens: int | None) -> Row:
        return Row(label=str(step), cells=(), average=None, step=step, tokens=tokens)

    assert choose_axis([row(10, 1000), row(20, 2000), row(None, None)]) == ("step", 100.0)
    assert choose_axis([row(10, 1000), row(10, 5000)]) == ("tokens", None)
    assert choose_axis([row(10, 1000), row(20, None)]) == ("step", 100.0)
    assert choose_axis([row(10, 1000), row(20, None), row(10, 5000)]) == ("step", None)  # one of them has no place
    assert choose_axis([row(None, None)]) == (None, None)


def test_an_unknown_picture_format_is_refused() -> None:
    with pytest.raises(InputError, match=r"\.png, \.svg"):
        check_plot_path(Path("progress.jpeg"))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingInputError, match=r'pip install "nanotron-zagreus\[eval\]"'):
        extras.require("lm_eval", "evaluation")
    with pytest.raises(MissingInputError, match=r"nanotron-zagreus\[plots\]"):
        check_plot_path(Path("progress.png"))


def test_an_old_lm_eval_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(extras.importlib.metadata, "version", lambda name: "0.4.9.2")
    with pytest.raises(MissingInputError, match=r"0\.4\.13 or later, 0\.4\.9\.2 is installed"):
        extras.require("lm_eval", "evaluation")
    monkeypatch.setattr(extras.importlib.metadata, "version", lambda name: "0.4.13")
    extras.require("lm_eval", "evaluation")
