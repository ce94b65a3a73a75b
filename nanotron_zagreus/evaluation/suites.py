"""The suites: which lm-eval tasks belong together, with how many shots, and which metric the tables print.

Knows names only: task files stand in ``tasks/`` and in lm-eval itself, running them is the runner's work.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from nanotron_zagreus.errors import InputError

# okapi's translations in lm-eval: the language's code there, by the code of our configs.
_OKAPI_CODE = {"por": "pt", "ita": "it", "spa": "es", "fra": "fr"}
_MMLU_SHOTS = 5  # the card's `--num_fewshot 5`; hellaswag and arc run without shots


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table: a task and the metric printed for it."""

    task: str
    """Name of the task in lm-eval."""
    metric: str
    """Name of the metric in lm-eval's results, without its filter."""
    title: str
    """Heading of the column."""
    num_fewshot: int | None = None
    """Shots to ask for; None leaves what the task file says."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks that are evaluated and averaged together."""

    name: str
    columns: tuple[Column, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the columns."""
        return tuple(column.task for column in self.columns)


def suite_names() -> list[str]:
    """Return the names that :func:`find_suite` knows."""
    return list(_SUITES)


def find_suite(name: str) -> Suite:
    """Return the suite called ``name``.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    if name in _SUITES:
        return _SUITES[name]
    by_lm_eval_code = {f"progression-{code}": f"progression-{language}" for language, code in _OKAPI_CODE.items()}
    near = difflib.get_close_matches(name, _SUITES, n=1, cutoff=0.4)
    meant = by_lm_eval_code.get(name, near[0] if near else None)
    advice = f"did you mean {meant!r}?" if meant else f"choose one of {', '.join(_SUITES)}"
    raise InputError(f"suite {name!r}: unknown; {advice}")


def _progression(language: str) -> Suite:
    """Return the three okapi tasks of the card's progression table, in its column order."""
    code = _OKAPI_CODE[language]
    return Suite(
        name=f"progression-{language}",
        columns=(
            Column(task=f"arc_{code}", metric="acc_norm", title=f"ARC {code.upper()}", num_fewshot=0),
            Column(task=f"hellaswag_{code}", metric="acc_norm", title=f"HellaSwag {code.upper()}", num_fewshot=0),
            Column(task=f"m_mmlu_{code}", metric="acc", title=f"MMLU {code.upper()}", num_fewshot=_MMLU_SHOTS),
        ),
    )


# Column order and headings of the card's table against Qwen3-0.6B-Base.
_LEADERBOARD_PT = Suite(
    name="leaderboard-pt",
    columns=(
        Column(task="assin2_rte", metric="f1_macro", title="RTE"),
        Column(task="assin2_sts", metric="pearson", title="STS"),
        Column(task="bluex", metric="acc", title="BLUEX"),
        Column(task="enem_challenge", metric="acc", title="ENEM"),
        Column(task="faquad_nli", metric="f1_macro", title="FaQuAD NLI"),
        Column(task="hatebr_offensive", metric="f1_macro", title="HateBR"),
        Column(task="oab_exams", metric="acc", title="OAB"),
        Column(task="portuguese_hate_speech", metric="f1_macro", title="PT Hate"),
        Column(task="tweetsentbr", metric="f1_macro", title="TweetSent"),
    ),
)

_SUITES = {suite.name: suite for suite in (*map(_progression, _OKAPI_CODE), _LEADERBOARD_PT)}
