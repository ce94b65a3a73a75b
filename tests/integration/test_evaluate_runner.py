"""Evaluation end to end on tiny models: every Portuguese task, resume, failures, memory, what is recorded."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_fixtures import (
    LEADERBOARD,
    leaderboard_rows,
    progression_rows,
    write_data,
    write_hub_card,
    write_rows,
    write_tiny_model,
)

pytest.importorskip("lm_eval")

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.requests import EvaluationRequest, run_request
from nanotron_zagreus.evaluation.results import newest_results, read_results
from nanotron_zagreus.evaluation.runner import Outcome

pytestmark = pytest.mark.integration

PROGRESSION = ("arc_pt", "hellaswag_pt", "m_mmlu_pt")
QUIZ = """\
task: quiz
dataset_path: json
dataset_kwargs: {data_files: {test: quiz.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{pergunta}}"
doc_to_choice: opcoes
doc_to_target: certa
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
HELDOUT = """\
task: heldout
dataset_path: json
dataset_kwargs: {data_files: {test: heldout.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
metadata: {version: 1.0}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local copies of every data set that the Portuguese suites read."""
    return write_data(tmp_path_factory.mktemp("data"), {**leaderboard_rows(3), **progression_rows(6)})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two tiny models called 1000 and 2000."""
    folder = tmp_path_factory.mktemp("models")
    for seed, step in enumerate((1000, 2000)):
        write_tiny_model(folder / str(step), seed=seed, context=768)
    return folder


@pytest.fixture(scope="module")
def own_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two task files and their data beside them."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "quiz.yaml").write_text(QUIZ, encoding="utf-8")
    (folder / "heldout.yaml").write_text(HELDOUT, encoding="utf-8")
    rows = [{"pergunta": f"Quanto é {n} + 1?", "opcoes": [str(n), str(n + 1)], "certa": 1} for n in range(4)]
    write_rows(folder / "quiz.jsonl", rows)
    write_rows(folder / "heldout.jsonl", [{"text": "O rio corre para o mar."}, {"text": "A noite caiu cedo."}])
    return folder


def request(models: Path, output: Path, **changes: Any) -> EvaluationRequest:
    """Return a request for all of ``models``."""
    return EvaluationRequest(**{"paths": (str(models),), "output": output, "device": "cpu", **changes})


def by_status(outcomes: list[Outcome]) -> dict[str, list[tuple[str, str]]]:
    """Return the (model, task) pairs by what became of them."""
    found: dict[str, list[tuple[str, str]]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.status, []).append((outcome.label, outcome.task))
    return found


def test_all_twelve_portuguese_tasks_run_on_local_data(data: Path, models: Path, tmp_path: Path) -> None:
    for suite, tasks in (("progression-por", PROGRESSION), ("leaderboard-pt", LEADERBOARD)):
        outcomes = run_request(request(models / "1000", tmp_path, suite=suite, data=data, limit=2))
        assert [outcome.error for outcome in outcomes if outcome.error] == []
        assert by_status(outcomes) == {"done": [("1000", task) for task in tasks]}
    results = {result.task: result for result in read_results(tmp_path)}
    assert len(results) == 12
    assert {result.num_documents for result in results.values()} == {2}
    assert {result.step for result in results.values()} == {1000}
    assert {result.conditions.context for result in results.values()} == {"whole-shots", "leaderboard-pt"}
    mmlu = results["m_mmlu_pt"].conditions
    assert (mmlu.num_fewshot, mmlu.version, mmlu.limit, mmlu.chat_template) == (5, "0.0", 2, False)
    rte = results["assin2_rte"]
    assert set(rte.scores) == {"f1_macro", "acc"} and set(rte.errors) == {"f1_macro", "acc"}
    recorded = json.loads(results["arc_pt"].path.read_text(encoding="utf-8"))
    assert len(recorded["zagreus"]["fingerprint"]) == 16 and recorded["task_hashes"]["arc_pt"]
    assert recorded["config"]["model_num_parameters"] > 1000 and recorded["lm_eval_version"]


@pytest.mark.parametrize(("language", "code"), [("ita", "it"), ("spa", "es"), ("fra", "fr")])
def test_the_progression_of_every_language_runs(models: Path, tmp_path: Path, language: str, code: str) -> None:
    data = write_data(tmp_path / "data", progression_rows(2, code))
    outcomes = run_request(request(models / "1000", tmp_path / "out", suite=f"progression-{language}", data=data))
    assert by_status(outcomes) == {"done": [("1000", f"{task}_{code}") for task in ("arc", "hellaswag", "m_mmlu")]}


def test_scores_equal_those_of_the_cards_commands(
    data: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock lm-eval, tasks named as on the card, in a folder of hub copies."""
    import lm_eval.tasks
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    copies = write_data(tmp_path / "copies", progression_rows(6))
    write_hub_card(copies / "alexandrainst/m_mmlu", {"pt": ["train", "test"]})
    write_hub_card(copies / "alexandrainst/m_hellaswag", {"pt": ["val"]})
    write_hub_card(copies / "alexandrainst/m_arc", {"pt": ["train", "validation", "test"]})
    run_request(request(models / "1000", tmp_path / "out", suite="progression-por", data=data, batch_size="1"))
    run_request(request(models / "1000", tmp_path / "copied", suite="progression-por", data=copies, batch_size="1"))
    monkeypatch.chdir(copies)
    manager = TaskManager(include_path=str(Path(lm_eval.tasks.__file__).parent / "okapi"), include_defaults=False)
    arguments = {"model": "hf", "model_args": f"pretrained={models / '1000'}", "task_manager": manager, "device": "cpu"}
    stock: dict[str, Any] = {}
    for tasks, shots in ((["m_mmlu_pt"], 5), (["hellaswag_pt", "arc_pt"], None)):
        stock |= simple_evaluate(tasks=tasks, num_fewshot=shots, batch_size=1, **arguments)["results"]
    for folder in ("out", "copied"):
        for result in read_results(tmp_path / folder):
            for metric, value in result.scores.items():
                assert value == stock[result.task][f"{metric},none"]
                assert result.errors[metric] == stock[result.task][f"{metric}_stderr,none"]


def test_an_interrupted_evaluation_goes_on_where_it_stopped(own_tasks: Path, models: Path, tmp_path: Path) -> None:
    asked = request(models, tmp_path, tasks=("quiz", "heldout"), include_paths=(own_tasks,))

    def stop_after_three(outcome: Outcome) -> None:
        if outcome.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_request(asked, report=stop_after_three)
    outcomes = run_request(asked)
    assert by_status(outcomes) == {
        "skipped": [("1000", "quiz"), ("1000", "heldout"), ("2000", "quiz")],
        "done": [("2000", "heldout")],
    }
    assert by_status(run_request(asked)).keys() == {"skipped"}
    limited = run_request(request(models, tmp_path, tasks=("quiz",), include_paths=(own_tasks,), limit=2))
    assert by_status(limited).keys() == {"done"}  # other conditions are another evaluation
    assert by_status(run_request(asked)).keys() == {"skipped"}  # and do not undo the first
    changed = tmp_path / "changed"
    shutil.copytree(own_tasks, changed)
    write_rows(changed / "quiz.jsonl", [{"pergunta": "?", "opcoes": ["a", "b"], "certa": 1}])
    outcomes = run_request(request(models, tmp_path, tasks=("quiz", "heldout"), include_paths=(changed,)))
    assert by_status(outcomes)["done"] == [("1000", "quiz"), ("2000", "quiz")]  # other data is another evaluation


def test_what_was_asked_for_is_not_already_there(own_tasks: Path, models: Path, tmp_path: Path) -> None:
    asked = request(models / "1000", tmp_path, tasks=("quiz",), include_paths=(own_tasks,))
    (first,) = run_request(asked)
    assert first.result is not None and first.result.conditions.dtypes == {"auto", "float32"}
    for changes, status in (
        ({"dtype": "float32"}, "skipped"),  # what auto came to
        ({"dtype": "bfloat16"}, "done"),
        ({"dtype": "bfloat16"}, "skipped"),
        ({}, "skipped"),
        ({"keep_samples": True}, "done"),
        ({"keep_samples": True}, "skipped"),
        ({"again": True}, "done"),
    ):
        (outcome,) = run_request(EvaluationRequest(**{**vars(asked), **changes}))
        assert (changes, outcome.status) == (changes, status)
    assert len(list(tmp_path.rglob("results_*.json"))) == 4 and len(list(tmp_path.rglob("samples_*.jsonl"))) == 1


def test_a_task_that_crashes_costs_only_itself(own_tasks: Path, models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "tasks"
    broken.mkdir()
    (broken / "crash.yaml").write_text(
        QUIZ.replace("task: quiz", "task: crash")
        .replace("{{pergunta}}", "{{1 // (certa - 1)}}")
        .replace("quiz.", "c."),
        encoding="utf-8",
    )
    # the first document, on which lm-eval tries the file out, works; the second divides by zero
    rows = [{"pergunta": "?", "opcoes": ["a", "b"], "certa": certa} for certa in (0, 1)]
    write_rows(broken / "c.jsonl", rows)
    asked = request(models, tmp_path / "out", tasks=("crash", "quiz"), include_paths=(own_tasks, broken))
    outcomes = run_request(asked)
    assert by_status(outcomes) == {
        "failed": [("1000", "crash"), ("2000", "crash")],
        "done": [("1000", "quiz"), ("2000", "quiz")],
    }
    assert "ZeroDivisionError" in str(outcomes[0].error)
    write_rows(broken / "c.jsonl", rows[:1])
    repaired = run_request(asked)
    assert by_status(repaired)["done"] == [("1000", "crash"), ("2000", "crash")]


def test_a_model_that_cannot_be_loaded_costs_only_itself(own_tasks: Path, models: Path, tmp_path: Path) -> None:
    bad = tmp_path / "models" / "bad"
    bad.mkdir(parents=True)
    (bad / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (bad / "model.safetensors").write_bytes(b"no weights")
    asked = request(models, tmp_path / "out", tasks=("quiz",), include_paths=(own_tasks,))
    asked = EvaluationRequest(**{**vars(asked), "paths": (str(bad), str(models))})
    outcomes = run_request(asked)
    assert [outcome.status for outcome in outcomes] == ["failed", "done", "done"]
    assert "could not be loaded" in str(outcomes[0].error)


def test_a_broken_task_file_is_refused_before_any_model_is_loaded(models: Path, tmp_path: Path) -> None:
    (tmp_path / "quiz.yaml").write_text(QUIZ.replace("opcoes", "alternativas"), encoding="utf-8")
    write_rows(tmp_path / "quiz.jsonl", [{"pergunta": "?", "opcoes": ["a"], "certa": 0}])
    with pytest.raises(InputError, match=r"quiz\.yaml does not fit its data"):
        run_request(request(models, tmp_path / "out", tasks=("quiz",), include_paths=(tmp_path,)))
    (tmp_path / "quiz.jsonl").unlink()
    with pytest.raises(InputError, match=r"quiz\.jsonl"):
        run_request(request(models, tmp_path / "out", tasks=("quiz",), include_paths=(tmp_path,)))


@pytest.mark.parametrize(("task", "context", "lines"), [("tweetsentbr", 640, (0, 2)), ("m_mmlu_pt", 160, (5,))])
def test_shots_that_do_not_fit_are_dropped_whole_and_recorded(
    data: Path, tmp_path: Path, task: str, context: int, lines: tuple[int, ...]
) -> None:
    model = write_tiny_model(tmp_path / "short", context=context)
    asked = request(model, tmp_path / "out", tasks=(task,), data=data, num_fewshot=5, keep_samples=True)
    (outcome,) = run_request(asked)
    assert outcome.error is None and outcome.result is not None and outcome.result.shots is not None
    shots, path = outcome.result.shots, outcome.result.path
    assert outcome.result.conditions.num_fewshot == shots["asked"] == 5
    assert 0 < shots["fewest"] < 5 and shots["shortened"] == shots["documents"] and shots["cut"] == 0
    (samples,) = path.parent.glob(f"samples_{task}_*.jsonl")
    for line in samples.read_text(encoding="utf-8").splitlines():
        prompt = json.loads(line)["arguments"]["gen_args_0"]["arg_0"]
        assert prompt.startswith(("Abaixo contém", "O que comprou o menino 100?"))  # the first stay, the last go
        assert all(example.count("\n") in lines for example in prompt.split("\n\n"))  # no example is cut


@pytest.mark.parametrize("task", ["tweetsentbr", "m_mmlu_pt"])
def test_prompts_written_once_serve_models_of_every_context(
    data: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.api.task import ConfigurableTask

    contexts = (1024, 200, 640)
    for context in contexts:
        write_tiny_model(tmp_path / "models" / f"of-{context}", context=context)
    kept: dict[str, Any] = {"tasks": (task,), "data": data, "num_fewshot": 5, "keep_samples": True}
    alone = [run_request(request(tmp_path / "models" / f"of-{n}", tmp_path / "alone", **kept))[0] for n in contexts]
    written: list[int] = []
    build = ConfigurableTask.build_all_requests
    monkeypatch.setattr(ConfigurableTask, "build_all_requests", lambda *a, **k: written.append(1) or build(*a, **k))
    paths = tuple(str(tmp_path / "models" / f"of-{context}") for context in contexts)
    together = run_request(EvaluationRequest(**{**vars(request(tmp_path, tmp_path / "all", **kept)), "paths": paths}))
    assert written == [1]
    for one, other in zip(alone, together, strict=True):
        assert one.result is not None and other.result is not None
        assert (one.result.scores, one.result.shots) == (other.result.scores, other.result.shots)
        texts = [next(r.path.parent.glob("samples_*.jsonl")).read_text("utf-8") for r in (one.result, other.result)]
        assert texts[0] == texts[1]
    assert len({str(outcome.result.shots) for outcome in together if outcome.result}) > 1


def test_an_empty_block_of_shots_still_ends_in_a_blank_line(data: Path, tmp_path: Path) -> None:
    """The leaderboard joins the shots that are left, none included, and adds the blank line after them."""
    model = write_tiny_model(tmp_path / "short", context=330)
    asked = request(model, tmp_path / "out", tasks=("tweetsentbr",), data=data, keep_samples=True)
    (outcome,) = run_request(asked)
    assert outcome.result is not None and outcome.result.shots is not None
    assert outcome.result.shots["kept"] == outcome.result.shots["cut"] == 0
    (samples,) = outcome.result.path.parent.glob("samples_tweetsentbr_*.jsonl")
    for line in samples.read_text(encoding="utf-8").splitlines():
        prompt = json.loads(line)["arguments"]["gen_args_0"]["arg_0"]
        assert "Responda apenas com uma das opções.\n\n\n\nTexto: O menino 900" in prompt


def test_a_prompt_too_long_without_shots_keeps_its_first_token_and_its_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.evaluation.language_model import ShotFittingLM

    read: list[list[int]] = []
    generate = ShotFittingLM._model_generate

    def note(self: Any, context: Any, **options: Any) -> Any:
        read.extend(context.tolist())
        return generate(self, context=context, **options)

    monkeypatch.setattr(ShotFittingLM, "_model_generate", note)
    model = write_tiny_model(tmp_path / "tiny", context=64)
    (outcome,) = run_request(request(model, tmp_path / "out", tasks=("tweetsentbr",), data=data))
    assert outcome.result is not None and outcome.result.shots is not None
    assert outcome.result.shots["fewest"] == 0 and outcome.result.shots["cut"] == outcome.result.shots["documents"] == 3
    assert len(read) == 3
    for tokens in read:  # 64 tokens of context, 32 of them for the answer
        assert len(tokens) == 32 and tokens[0] == 0 and 0 not in tokens[1:]


def test_one_model_at_a_time_is_in_memory(own_tasks: Path, models: Path, tmp_path: Path) -> None:
    from nanotron_zagreus.evaluation.language_model import ShotFittingLM

    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, ShotFittingLM) for thing in gc.get_objects())

    counts: list[int] = []
    asked = request(models, tmp_path, tasks=("quiz",), include_paths=(own_tasks,))
    run_request(asked, report=lambda outcome: counts.append(alive()))
    assert counts == [1, 1] and alive() == 0


def test_results_of_other_weights_are_never_mixed_in(own_tasks: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model", seed=0)
    asked = request(model, tmp_path / "out", tasks=("quiz",), include_paths=(own_tasks,))
    (first,) = run_request(asked)
    write_tiny_model(tmp_path / "model", seed=1)
    with pytest.raises(InputError, match=r"other files.*--replace"):
        run_request(asked)
    (second,) = run_request(EvaluationRequest(**{**vars(asked), "replace_old": True}))
    assert second.status == "done" and first.result and second.result
    assert first.result.fingerprint != second.result.fingerprint
    assert [result.fingerprint for result in read_results(tmp_path / "out")] == [second.result.fingerprint]


def test_a_chat_template_is_asked_for_and_recorded(own_tasks: Path, models: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    model = write_tiny_model(tmp_path / "chat", chat_template=template)
    asked = {"tasks": ("quiz",), "include_paths": (own_tasks,), "apply_chat_template": True, "keep_samples": True}
    (outcome,) = run_request(request(model, tmp_path / "out", **asked))
    assert outcome.result is not None and outcome.result.conditions.chat_template
    recorded = json.loads(outcome.result.path.read_text(encoding="utf-8"))
    assert recorded["chat_template"] == template
    (lines,) = outcome.result.path.parent.glob("samples_quiz_*.jsonl")
    prompt = json.loads(lines.read_text(encoding="utf-8").splitlines()[0])["arguments"]["gen_args_0"]["arg_0"]
    assert prompt == "<user>Quanto é 0 + 1?<assistant>"
    (refused,) = run_request(request(models / "1000", tmp_path / "out", **asked))
    assert refused.status == "failed" and "no chat template" in str(refused.error)


@pytest.mark.parametrize("context", [1536, 64])
def test_the_leaderboards_chat_prompts_are_its_own(
    data: Path, tmp_path: Path, context: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The description without its blank line; and no BOS put back before a prompt that had to be cut."""
    from nanotron_zagreus.evaluation.language_model import ShotFittingLM

    read: list[str] = []
    generate = ShotFittingLM._model_generate

    def note(self: Any, context: Any, **options: Any) -> Any:
        read.extend(self.tokenizer.batch_decode(context))
        return generate(self, context=context, **options)

    monkeypatch.setattr(ShotFittingLM, "_model_generate", note)
    template = "<bos>{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    model = write_tiny_model(tmp_path / "chat", context=context, chat_template=template)
    asked = request(model, tmp_path / "out", tasks=("tweetsentbr",), data=data, apply_chat_template=True)
    (outcome,) = run_request(EvaluationRequest(**{**vars(asked), "limit": 1, "batch_size": "1"}))
    assert outcome.error is None and len(read) == 1
    if context == 64:
        assert "<bos>" not in read[0] and read[0].endswith("<assistant>")
    else:
        assert read[0].startswith("<bos><system>") and "uma das opções.<user>Texto: O menino 0" in read[0]


@pytest.fixture
def only_given_folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Spare the scan of all of lm-eval's own tasks, which takes half a minute."""
    import lm_eval.tasks

    class SmallManager(lm_eval.tasks.TaskManager):
        def __init__(self, include_path: Any = None, include_defaults: bool = False) -> None:
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", SmallManager)
    yield


@pytest.mark.usefixtures("only_given_folders")
def test_an_unknown_task_is_refused_with_the_nearest_name(models: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'enem_challenge'"):
        run_request(request(models, tmp_path / "out", tasks=("enem_chalenge",)))
    with pytest.raises(InputError, match="--include-path"):
        run_request(request(models, tmp_path / "out", tasks=("quiz",), include_paths=(tmp_path / "none",)))


def test_missing_data_is_refused_with_the_command_that_fetches_it(models: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"hf download --repo-type dataset alexandrainst/m_arc"):
        run_request(request(models, tmp_path / "out", suite="progression-por", data=tmp_path / "empty"))
    rows = leaderboard_rows(1)
    rows["nilc-nlp/assin2", "train"] = rows["nilc-nlp/assin2", "train"][:-1]
    with pytest.raises(InputError, match=r"sentence_pair_id 3275 are missing from the data's 49 rows"):
        run_request(request(models, tmp_path / "out", tasks=("assin2_rte",), data=write_data(tmp_path / "part", rows)))


def test_a_data_set_kept_as_a_script_is_refused_with_the_way_round(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "ruanchaves" / "faquad-nli"
    folder.mkdir(parents=True)
    (folder / "README.md").touch()
    (folder / "faquad-nli.py").touch()
    with pytest.raises(InputError, match=r"loading script.*--revision refs/convert/parquet"):
        run_request(request(models, tmp_path / "out", tasks=("faquad_nli",), data=tmp_path / "data"))


def test_a_nanotron_checkpoint_is_converted_once_and_scores_as_its_folder(
    own_tasks: Path, models: Path, tmp_path: Path
) -> None:
    from nanotron_zagreus.conversion.from_hf import import_folder

    checkpoint = tmp_path / "checkpoints" / "1000"
    import_folder(models / "1000", checkpoint)
    asked = request(
        tmp_path / "checkpoints", tmp_path / "out", tasks=("heldout",), include_paths=(own_tasks,), dtype="float32",
        tokenizer=str(models / "1000"),
    )  # fmt: skip
    (outcome,) = run_request(asked)
    assert outcome.error is None and outcome.result is not None
    converted = tmp_path / "out" / ".converted" / "1000" / "model.safetensors"
    made = converted.stat().st_mtime_ns
    with pytest.raises(InputError, match=r"other files.*a checkpoint and its converted folder are two models"):
        run_request(request(models / "1000", tmp_path / "out", tasks=("heldout",), include_paths=(own_tasks,)))
    run_request(request(models / "1000", tmp_path / "hf", tasks=("heldout",), include_paths=(own_tasks,)))
    (plain,) = newest_results(read_results(tmp_path / "hf"))
    assert outcome.result.scores == plain.scores
    (again,) = run_request(EvaluationRequest(**{**vars(asked), "tasks": ("quiz",)}))
    assert again.status == "done" and converted.stat().st_mtime_ns == made
    changes = {"tasks": ("quiz",), "limit": 1, "keep_converted": False}
    (last,) = run_request(EvaluationRequest(**{**vars(asked), **changes}))
    assert last.status == "done" and not converted.parent.exists()
