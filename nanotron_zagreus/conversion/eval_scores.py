"""Read one model's scores out of lm-eval's own result files, for the model card.

A folder of results often holds those of many checkpoints. A card states its own model's and no other's: what another
model scored, or what nothing tells the model of, is left out and named.
"""

from __future__ import annotations

import fnmatch
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.architecture import read_json
from nanotron_zagreus.checkpoints.layout import is_step_folder
from nanotron_zagreus.checkpoints.weights_digest import weights_digest
from nanotron_zagreus.config.yaml_text import section_of
from nanotron_zagreus.conversion.record import last_part, public_name
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError
from nanotron_zagreus.units import first_few

_NOT_METRICS = ("alias", "name", "sample_len")
OWN_SECTION = "zagreus"
"""Key under which a result file holds what lm-eval does not record; `zagreus evaluate` writes it."""
_MAX_NAMED = 4

ResultRank = tuple[bool, int, float]


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """Which model's scores are wanted."""

    names: tuple[str, ...]
    """Paths of its folder and of the checkpoint it was made from, and its hub id."""
    step: int | None
    """Optimizer steps it was trained for, where that is known."""
    checkpoint_sha256: str | None = None
    """Identifies the checkpoint it was made from, whose path a published record does not tell."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one task."""

    task: str
    metric: str
    """As lm-eval names it, the filter after a comma left out when it is `none`."""
    value: float
    error: str
    """Standard error as text; a dash when lm-eval gives none."""
    num_shots: str
    limit: float | None = None
    """The first so many documents were evaluated, below one their share; None: all of them."""

    @property
    def label(self) -> str:
        """The task's name, and in parentheses which documents were evaluated when it was not all of them."""
        if self.limit is None:
            return self.task
        which = f"{self.limit:.3g} of the" if self.limit < 1 else f"{self.limit:g}"
        return f"{self.task} (first {which} documents)"


def read_scores(path: Path, model: EvaluatedModel) -> tuple[list[Score], list[str]]:
    """Return the model's scores, and what was left out.

    Of several results of a task the newest on all documents counts; without such a one, that on the most documents,
    again the newest: what `zagreus progress` shows.

    Args:
        path: an lm-eval result file, or a folder with result files of any models under it, hidden folders left out.
        model: whose scores to take.

    Raises:
        MissingInputError: nothing there.
        InputError: a file that lm-eval did not write, or none of this model's.
    """
    if not path.exists():
        raise MissingInputError(f"{path}: no such file or folder of lm-eval results")
    files = [path] if path.is_file() else result_files(path, "results*.json")
    if not files:
        raise MissingInputError(f"{path}: no results*.json under it; give the folder that lm-eval wrote to")
    counting: dict[str, tuple[ResultRank, list[Score]]] = {}  # by task
    foreign: dict[str, str] = {}  # what each is called here -> what may be published of it
    digest_of = cache(_digest)  # many results are often one checkpoint's, and its files may be large
    for file in files:
        data = read_json(file)
        results = data.get("results")
        if not isinstance(results, dict):
            raise InputError(f"{file}: no `results` in it; expected a result file of lm-eval")
        name, step = _model_of(data)
        if not _is_same(model, name, step, digest_of):
            unnamed = f"a model that {file.name} does not name"
            foreign[name or unnamed] = public_name(name) if name else unnamed
            continue
        for task, metrics in results.items():
            rank = _rank(task, data, file)
            if isinstance(metrics, dict) and (task not in counting or rank >= counting[task][0]):
                counting[task] = rank, _task_scores(task, metrics, data)
    scores = [score for _, found in counting.values() for score in found]
    if not scores and foreign:
        raise InputError(
            f"{path}: no results of {model.names[0]}, only of {first_few(list(foreign), _MAX_NAMED)}; give its own "
            "results"
        )
    # Kept in what is published: without the paths of this machine.
    others = list(dict.fromkeys(foreign.values()))
    notices = (
        [f"{last_part(path)}: results of {first_few(others, _MAX_NAMED)} left out: another model's"] if foreign else []
    )
    return sorted(scores, key=lambda score: (score.task, score.metric)), notices


def result_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files under ``folder`` whose names match, but for those in hidden folders, sorted.

    Hidden are converted checkpoints, results set aside, and results being written, which come and go meanwhile.
    """
    found = []
    for base, folders, names in os.walk(folder):
        # Plain lm-eval calls the folder of ../hf/5000 ..__hf__5000, which is not hidden on purpose.
        folders[:] = [name for name in folders if not name.startswith(".") or name.startswith("..")]
        found += [Path(base, name) for name in fnmatch.filter(names, pattern)]
    return sorted(found)


def model_arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return lm-eval's --model_args that a result file records, as text or as a mapping; empty where it has none."""
    arguments = section_of(data, "config").get("model_args")
    if isinstance(arguments, str):
        return dict(part.partition("=")[::2] for part in arguments.split(","))
    return arguments if isinstance(arguments, dict) else {}


def revision_of(data: Mapping[str, Any]) -> str | None:
    """Return the branch of the hub's repository that a result file is about, which its model's name leaves out.

    None: main, or no other is named.
    """
    revision = model_arguments(data).get("revision")
    return str(revision) if revision not in (None, "", "main") else None


def rank_of_result(limit: float | None, num_documents: int | None, newness: float) -> ResultRank:
    """Return what orders the results of one task: those on all documents last, and the newest last among equals.

    Args:
        limit: lm-eval's, by which documents were left out; None: none were.
        num_documents: documents that were evaluated, where that is known.
        newness: seconds since the epoch.
    """
    is_whole = limit is None
    return is_whole, 0 if is_whole else num_documents or 0, newness


def _rank(task: str, data: dict[str, Any], file: Path) -> ResultRank:
    date, num_documents = data.get("date"), section_of(section_of(data, "n-samples"), task).get("effective")
    return rank_of_result(
        _limit(data),
        num_documents if isinstance(num_documents, int) else None,
        float(date) if isinstance(date, int | float) else file.stat().st_mtime,
    )


def _limit(data: dict[str, Any]) -> float | None:
    limit = section_of(data, "config").get("limit")
    return float(limit) if isinstance(limit, int | float) else None


def _model_of(data: dict[str, Any]) -> tuple[str | None, int | None]:
    """Return the path or hub id of the model in a result file, and its step where the file says it."""
    own = section_of(data, OWN_SECTION)
    pretrained, revision = model_arguments(data).get("pretrained"), revision_of(data)
    name = own.get("source") or pretrained or data.get("model_name")
    name = f"{name}@{revision}" if revision and not own.get("source") else name
    step = own.get("step")
    return (name if isinstance(name, str) else None), (step if isinstance(step, int) else None)


def _is_same(
    model: EvaluatedModel, name: str | None, step: int | None, digest_of: Callable[[Path], str | None]
) -> bool:
    """Tell whether a result file's model is ``model``.

    Steps decide first. A checkpoint that exists here must have the very weights that the model was made from, where
    those are known, and any other path must be one of the model's; results made elsewhere name a path that does not
    exist, of which the last part must be the model's.
    """
    if name is None or (step is not None and model.step is not None and step != model.step):
        return False
    if model.checkpoint_sha256 and is_step_folder(Path(name)):
        return digest_of(Path(name).resolve()) == model.checkpoint_sha256
    if name in model.names:
        return True
    if Path(name).exists():
        return Path(name).resolve() in {Path(own).resolve() for own in model.names}
    return Path(name).name in {Path(own).name for own in model.names}


def _digest(checkpoint: Path) -> str | None:
    try:
        return weights_digest(checkpoint)
    except (InputError, VerificationError):  # its manifest cannot be used: nothing tells that it is the same
        return None


def _task_scores(task: str, metrics: dict[str, Any], data: dict[str, Any]) -> list[Score]:
    num_shots = section_of(data, "n-shot").get(task)
    found = []
    for key, value in metrics.items():
        name, _, filter_name = key.partition(",")
        if name in _NOT_METRICS or name.endswith("_stderr") or isinstance(value, bool):
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            continue
        error = metrics.get(f"{name}_stderr,{filter_name}")
        found.append(
            Score(
                task=task,
                metric=name if filter_name in ("", "none") else f"{name},{filter_name}",
                value=float(value),
                error=f"{error:.4f}" if isinstance(error, float) and math.isfinite(error) else "-",
                num_shots="-" if num_shots is None else str(num_shots),
                limit=_limit(data),
            )
        )
    return found
