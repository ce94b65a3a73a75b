"""lm-eval's Hugging Face model, told to drop whole shots where a prompt is too long for the model.

Stock lm-eval cuts such a prompt in the middle of a word, wherever the room ends. The Portuguese
leaderboard drops shots from the end until the prompt fits; so does this class, for every task whose
shots come in a fixed order, and it keeps count. What fits is passed on untouched.
"""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.samplers import FirstNSampler
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation import leaderboard_rules

if TYPE_CHECKING:
    import torch

# A byte-level tokenizer makes no more tokens than bytes, plus a BOS and a leading space.
_TOKENS_BEYOND_BYTES = 2


@dataclass
class ShotCount:
    """What became of one task's prompts."""

    asked: int
    """Shots asked for."""
    documents: int = 0
    shortened: int = 0
    """Documents whose prompt lost at least one shot."""
    fewest: int | None = None
    """Shots of the document that kept the fewest."""
    kept: int = 0
    """Shots kept, summed over all documents."""
    cut: int = 0
    """Documents too long even without shots, or with shots in random order: lm-eval cuts their first tokens."""

    def add(self, shots: int, *, cut: bool) -> None:
        """Count one document."""
        self.documents += 1
        self.kept += shots
        self.shortened += shots < self.asked
        self.fewest = shots if self.fewest is None else min(self.fewest, shots)
        self.cut += cut


class ShotFittingLM(HFLM):
    """HFLM whose prompts hold as many whole shots as fit into the model's context."""

    def prepare(self, tasks: dict[str, ConfigurableTask], *, apply_chat_template: bool) -> None:
        """Tell the model which tasks its coming requests belong to, and forget earlier counts.

        Tasks of the Portuguese leaderboard share the context between prompt and answer by its rules.
        """
        self._tasks = tasks
        # Prompts that do not fit are found here and shortened; the tokenizer's own warning would only worry.
        self.tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
        self._context_options: dict[str, Any] = {}
        if apply_chat_template:
            self._context_options = {
                "apply_chat_template": True,
                "fewshot_as_multiturn": True,
                "chat_template": self.apply_chat_template,
            }
        self._is_leaderboard = all(leaderboard_rules.applies(task.config.metadata) for task in tasks.values())
        # The BOS token of a chat is its template's, which the leaderboard takes for any other token.
        self._keeps_bos = self._is_leaderboard and not apply_chat_template
        self.shot_counts = {name: ShotCount(asked=task.config.num_fewshot or 0) for name, task in tasks.items()}
        for task in tasks.values():
            if leaderboard_rules.applies(task.config.metadata):
                room = {"max_gen_toks": leaderboard_rules.generation_tokens(self.max_length)}
                task.set_config("generation_kwargs", room, update=True)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations; see HFLM."""

        def fits(context: str, request: Instance) -> bool:
            continuation = request.args[1]
            # A continuation's last token is predicted, never read, so one token more than the context fits.
            if len((context + continuation).encode()) + _TOKENS_BEYOND_BYTES <= self.max_length:
                return True
            return sum(map(len, self._encode_pair(context, continuation))) <= self.max_length + 1

        self._fit(requests, fits)
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty())

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts; see HFLM."""
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty())

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Score tokens without a bar where nobody sees it; HFLM asks for one per batch of a long text."""
        quiet = disable_tqdm or not sys.stderr.isatty()
        return super()._loglikelihood_tokens(requests, disable_tqdm=quiet, override_bs=override_bs)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate continuations; see HFLM."""
        if self.tokenizer.eos_token_id is None:
            raise InputError(
                "its tokenizer names no end of text, without which lm-eval generates nothing; name one as eos_token in "
                "its tokenizer_config.json"
            )

        def fits(context: str, request: Instance) -> bool:
            room = self.max_length - normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"]
            return len(context.encode()) + _TOKENS_BEYOND_BYTES <= room or len(self.tok_encode(context)) <= room

        self._fit(requests, fits)
        return super().generate_until(requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty())

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the prompt that the tokenizer's chat template makes of ``chat_history``; see HFLM."""
        turns = leaderboard_rules.chat_turns(chat_history) if self._is_leaderboard else chat_history
        return super().apply_chat_template(turns, add_generation_prompt)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids and attention mask of ``strings``, [batch, longest]; see HFLM."""
        if not (self._keeps_bos and left_truncate_len and padding_side == "left"):
            return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)
        tokens, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        return leaderboard_rules.cut_to_last_tokens(tokens, mask, left_truncate_len, self.tokenizer.bos_token_id)

    def _fit(self, requests: Sequence[Instance], fits: Callable[[str, Instance], bool]) -> None:
        """Replace the contexts that do not fit by ones with fewer shots, the same number in all of a document."""
        documents: dict[tuple[str, int], list[Instance]] = defaultdict(list)
        for request in requests:
            documents[(str(request.task_name), int(request.doc_id or 0))].append(request)
        for (name, _), group in documents.items():
            task, count = self._tasks[name], self.shot_counts[name]
            if all(fits(request.args[0], request) for request in group):
                count.add(count.asked, cut=False)
            elif count.asked == 0 or not isinstance(task.sampler, FirstNSampler):
                count.add(count.asked, cut=True)
            else:
                shots, cut = self._drop_shots(task, group, fits)
                count.add(shots, cut=cut)

    def _drop_shots(
        self, task: ConfigurableTask, group: Sequence[Instance], fits: Callable[[str, Instance], bool]
    ) -> tuple[int, bool]:
        """Give the requests of one document the most shots that fit; return (shots, still too long)."""

        @functools.cache
        def written(shots: int) -> str | list[str]:
            return self._write(task, group[0].doc, shots)

        def context(request: Instance, shots: int) -> str:
            text = written(shots)
            return text if isinstance(text, str) else text[request.idx]

        fewest, most = -1, (task.config.num_fewshot or 0) - 1  # `fewest` is known to fit, or is none at all
        while fewest < most:
            middle = (fewest + most + 1) // 2
            if all(fits(context(request, middle), request) for request in group):
                fewest = middle
            else:
                most = middle - 1
        shots = max(0, fewest)
        for request in group:
            request.arguments = (context(request, shots), *request.args[1:])
        return shots, fewest < 0

    def _write(self, task: ConfigurableTask, doc: Any, shots: int) -> str | list[str]:
        """Return the document's context, or one per choice, written anew with ``shots`` shots."""
        context: str | list[str] = task.fewshot_context(
            doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc), **self._context_options
        )
        if shots > 0 or self._context_options or not leaderboard_rules.applies(task.config.metadata):
            return context
        assert isinstance(context, str)  # the leaderboard's tasks generate; only choices have one context each
        return leaderboard_rules.prompt_without_shots(context, task.config.description, task.config.fewshot_delimiter)
