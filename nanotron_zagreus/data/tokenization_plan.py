"""Plan the tokenization of one source, and refuse to continue another one in its folder.

The plan (which task reads which files) is written once and changes in the sizes of mended files alone, so that a rerun
of the same command does exactly what is missing. `tokenization` runs it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.data.attempts import write_whole
from nanotron_zagreus.data.corpus import CorpusFile, HubDataset, check_text_column, divide_files, find_files
from nanotron_zagreus.data.encoders import EncoderName
from nanotron_zagreus.data.plan_file import plan_path, read_plan
from nanotron_zagreus.data.progress import read_failures
from nanotron_zagreus.data.tokenizer_identity import RECORD_NAME, read_record
from nanotron_zagreus.data.tokenizer_loading import TokenizerChoice, choose_tokenizer, load_tokenizer, vocabulary_size
from nanotron_zagreus.errors import InputError

_PLAN_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class TokenizationJob:
    """One source to make."""

    inputs: tuple[str, ...]
    """Files, folders, patterns, URLs; or one dataset on the hub, `owner/name[:config[:split]]`."""
    output: Path
    """Folder of the shards."""
    tokenizer: str
    text_column: str = "text"
    num_tasks: int | None = None
    """Shards to make at most; None: those of an earlier run, else one per core, but not more than files."""
    bos: bool = True
    """Write BOS before each document, as the published models' shards have it."""
    eos: bool = False
    """Write EOS after each document; the published models' shards have none."""
    bos_token: str | None = None
    eos_token: str | None = None
    encoder: EncoderName = "auto"


@dataclass(frozen=True)
class Preparation:
    """A job that was checked and planned."""

    job: TokenizationJob
    choice: TokenizerChoice
    token_size: int
    num_tasks: int
    num_files: int
    """0 for a hub dataset, which is not divided by files."""

    @property
    def logs(self) -> Path:
        """datatrove's logging folder."""
        return self.job.output / "logs"

    @property
    def results(self) -> Path:
        """Folder of one JSON file per task: how far it is, or what it did."""
        return self.logs / "results"


def prepare(job: TokenizationJob) -> Preparation:
    """Return the checked plan of ``job`` alone: see `prepare_all`."""
    return prepare_all([job])[0]


def prepare_all(jobs: Sequence[TokenizationJob]) -> list[Preparation]:
    """Return the checked plans of ``jobs``; continue those in their output folders if there are any.

    Plans are written down when all jobs are usable: a refused command binds no folder to what was wrong in it.

    Raises:
        InputError: a tokenizer, inputs or a column are not usable, or a folder was begun with other ones.
    """
    for output, times in Counter(job.output.resolve() for job in jobs).items():
        if times > 1:
            raise InputError(f"--output: {times} sources would be written into {output}; give each a name of its own")
    checked = [_check(job) for job in jobs]
    for _, files in checked:
        for path, content in files.items():
            write_whole(path, json.dumps(content, indent=1))
    return [prepared for prepared, _ in checked]


def available_cores() -> int:
    """Return the cores this process may use, where the system says so, else those there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(job: TokenizationJob) -> tuple[Preparation, dict[Path, dict[str, Any]]]:
    """Return what `prepare` does of ``job``, and what is to be written down of it, by file; nothing is written."""
    choice = choose_tokenizer(job.tokenizer, bos=job.bos, eos=job.eos, bos_token=job.bos_token, eos_token=job.eos_token)
    known, record_path, path = read_record(job.output), job.output / RECORD_NAME, plan_path(job.output)
    if known is not None and known.get("tokenizer_sha256") == choice.sha256:
        # A path has many spellings, a folder's shards have one.
        choice = dataclasses.replace(choice, name=known["tokenizer"])
    vocab_size = vocabulary_size(load_tokenizer(choice))
    plan, record = _make_plan(job), _make_record(job, choice, vocab_size)
    if known is not None:
        old = _plan_begun(path)
        _check_same(job, known, record, old, plan)
        whole, plan = {**known, **record}, _with_sizes_of(plan, old)
        files = {} if whole == known else {record_path: whole}  # it counted the tokens of a tokenizer with gaps
        files |= {} if plan == old else {path: plan}  # files were mended
    elif any(job.output.glob("*.ds")):
        raise InputError(
            f"--output: {job.output} holds shards that `zagreus tokenize` did not make; give an empty folder"
        )
    else:
        files = {path: plan, record_path: record}
    prepared = Preparation(
        job=job,
        choice=choice,
        token_size=_token_size(vocab_size),
        num_tasks=len(plan["tasks"]),
        num_files=sum(len(task) for task in plan["tasks"]),
    )
    return prepared, files


def _token_size(vocab_size: int) -> int:
    """Return the bytes that a token takes."""
    return 4 if vocab_size > 2**16 else 2


def _make_plan(job: TokenizationJob) -> dict[str, Any]:
    """Return which files each task reads, as JSON data."""
    hub = [name for name in job.inputs if HubDataset.parse(name) is not None]
    if not job.inputs or (hub and len(job.inputs) > 1):
        raise InputError(
            f"--input: got {', '.join(job.inputs) or 'nothing'}; expected files, folders and URLs, or one dataset id "
            "on the hub alone (several: give each its own output, a mixture takes several folders)"
        )
    if job.num_tasks is not None and job.num_tasks < 1:
        raise InputError(f"--tasks: got {job.num_tasks}, expected at least 1")
    if hub:
        return {"format": _PLAN_FORMAT, "inputs": list(job.inputs), "tasks": [[] for _ in range(_num_tasks(job, None))]}
    files = find_files(job.inputs)
    check_text_column(files[0], job.text_column)
    tasks = divide_files(files, _num_tasks(job, files))
    return {"format": _PLAN_FORMAT, "tasks": [[list(asdict(file).values()) for file in task] for task in tasks]}


def _num_tasks(job: TokenizationJob, files: Sequence[CorpusFile] | None) -> int:
    wanted = job.num_tasks
    if wanted is None:
        begun = read_plan(plan_path(job.output))
        wanted = available_cores() if begun is None else len(begun["tasks"])
    return wanted if files is None else min(wanted, len(files))


def _plan_begun(path: Path) -> dict[str, Any]:
    """Return the plan of a tokenization that left a record."""
    plan = read_plan(path)
    if plan is None:
        raise InputError(
            f"--output: {path} is gone, without which nothing tells which files the shards there are of; restore it, "
            "or give another folder"
        )
    return plan


def _make_record(job: TokenizationJob, choice: TokenizerChoice, vocab_size: int) -> dict[str, Any]:
    return {
        "tokenizer": choice.name,
        "tokenizer_sha256": choice.sha256,
        "vocab_size": vocab_size,
        "bos_token": choice.bos_token,
        "eos_token": choice.eos_token,
        "text_column": job.text_column,
    }


def _check_same(
    job: TokenizationJob, known: dict[str, Any], record: dict[str, Any], old: dict[str, Any], new: dict[str, Any]
) -> None:
    """Refuse to mix shards of different settings or of overlapping inputs in one folder."""
    if _token_size(known.get("vocab_size") or 0) == _token_size(record["vocab_size"]):
        record = {**record, "vocab_size": known.get("vocab_size")}  # the hash says whether the tokenizer is the same
    changes = [
        f"{key} was {known.get(key)!r}, is {value!r}" for key, value in record.items() if known.get(key) != value
    ]
    if len(old.get("tasks", [])) != len(new["tasks"]):
        changes.append(f"there were {len(old.get('tasks', []))} tasks, now {len(new['tasks'])}")
    if old.get("inputs") != new.get("inputs"):
        changes.append(f"the input was {old.get('inputs')}, is {new.get('inputs')}")
    before, now = ({entry[0]: entry[1] for task in plan.get("tasks", []) for entry in task} for plan in (old, new))
    mended = {failure["file"] for failure in read_failures(job.output / "logs" / "failures")}
    changes += [f"{path} is gone" for path in sorted(set(before) - set(now))[:3]]
    changes += [f"{path} is new" for path in sorted(set(now) - set(before))[:3]]
    changes += [
        f"{path} had {before[path]} bytes, has {now[path]}"
        for path in sorted((set(now) & set(before)) - mended)
        if before[path] != now[path]
    ][:3]
    if changes:
        raise InputError(
            f"--output: {job.output} was begun differently: {'; '.join(changes)}. Repeat the command that began it, or "
            "give another folder (a mixture takes several)"
        )


def _with_sizes_of(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Return the plan ``old``, which divides the same files, with their sizes of now."""
    num_bytes = {entry[0]: entry[1] for task in new["tasks"] for entry in task}
    return {**old, "tasks": [[[path, num_bytes[path], *rest] for path, _, *rest in task] for task in old["tasks"]]}
