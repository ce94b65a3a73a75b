"""Which prompts a model reads: as many whole shots as fit, written once, as a chat when asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_fixtures import (
    write_tiny_model,
)
from evaluation_requests import request

pytest.importorskip("lm_eval")

from nanotron_zagreus.evaluation.requests import EvaluationRequest, run_request

pytestmark = pytest.mark.integration


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


def test_only_documents_that_lost_a_shot_are_counted_as_shortened() -> None:
    from nanotron_zagreus.evaluation.language_model import ShotCount

    count = ShotCount(asked=5)
    for shots, cut in ((5, False), (2, False), (3, True)):
        count.add(shots, cut=cut)
    assert count == ShotCount(asked=5, documents=3, shortened=2, fewest=2, kept=10, cut=1)


def test_a_prompt_fits_when_all_but_the_last_token_of_its_answer_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last token is predicted, never read; what is generated needs its room."""
    from types import SimpleNamespace

    from lm_eval.models.huggingface import HFLM

    from nanotron_zagreus.evaluation.language_model import ShotFittingLM

    class OneTokenALetter(ShotFittingLM):
        max_length, max_gen_toks, tokenizer = 10, 4, SimpleNamespace(eos_token_id=0)

        def __init__(self) -> None:
            self.lengths_that_fit: list[int] = []

        def tok_encode(self, string: str) -> list[int]:  # type: ignore[override]
            return list(range(len(string)))

        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            return self.tok_encode(context), self.tok_encode(continuation)

        def _fit(self, requests: Any, fits: Any) -> None:
            self.lengths_that_fit = [n for n in range(20) if fits("x" * n, requests[0])]

    for name in ("loglikelihood", "generate_until"):
        monkeypatch.setattr(HFLM, name, lambda *_, **__: [])
    model = OneTokenALetter()
    model.loglikelihood([SimpleNamespace(args=("", "yyy"))])  # type: ignore[list-item]
    assert model.lengths_that_fit == list(range(10 - 3 + 1 + 1))
    model.generate_until([SimpleNamespace(args=("", {"max_gen_toks": 4, "until": ["z"]}))])  # type: ignore[list-item]
    assert model.lengths_that_fit == list(range(10 - 4 + 1))


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
