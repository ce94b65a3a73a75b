"""Run the tokenization of one source: what is missing of its plan, on this machine.

Beside the shards the folder holds `tokenization.json`, which says with which tokenizer they were made, and
`logs/` with datatrove's logs, the plan, and what each task did and failed to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.data.corpus import HubDataset
from nanotron_zagreus.data.plan_file import plan_path, read_plan
from nanotron_zagreus.data.progress import read_failures, read_task_results
from nanotron_zagreus.data.shard_file import shard_name
from nanotron_zagreus.data.shards import read_shard
from nanotron_zagreus.data.tokenization_plan import Preparation, available_cores
from nanotron_zagreus.errors import InputError, WorkError


@dataclass(frozen=True)
class TokenizationOutcome:
    """What stands in the output folder after a run."""

    num_tasks: int
    num_complete: int
    documents: int
    tokens: int
    failures: int
    """Documents or files that could not be read and were left out."""
    empty: int
    """Documents without text, which leave nothing in a shard."""
    encoders: tuple[str, ...]
    mismatches: tuple[str, ...]
    """What made tasks give up the fast encoder."""
    fallbacks: tuple[str, ...]
    """Why tasks with encoder `auto` did not begin with the fast one, each reason once."""
    cut: int = 0
    """Failures that left out more than one document, and nobody knows how many."""


def make_pipeline(prepared: Preparation, *, parallel: bool = False) -> list[Any]:
    """Return datatrove's pipeline: reader and writer.

    Args:
        parallel: let each task use all cores.
    """
    from nanotron_zagreus.data.shard_writer import ShardWriter

    reader = _make_reader(prepared)
    writer = ShardWriter(
        prepared.job.output.resolve(),
        prepared.choice,
        reader,
        token_size=prepared.token_size,
        encoder=prepared.job.encoder,
        results_folder=prepared.results.resolve(),
        parallel=parallel,
    )
    return [reader, writer]


def tokenize_locally(
    prepared: Preparation, *, workers: int | None = None, on_progress: Callable[[int, int], None] | None = None
) -> TokenizationOutcome:
    """Run what is missing on this machine.

    Args:
        workers: tasks at a time; None: one per core.
        on_progress: called with bytes read so far and in all.

    Raises:
        WorkError: tasks failed; the shards of the others are whole, and a rerun does the failed ones.
    """
    from nanotron_zagreus.data.local_tasks import LocalTasks

    cores = available_cores()
    workers = min(workers or cores, prepared.num_tasks)
    forget_lost_shards(prepared)
    executor = LocalTasks(
        make_pipeline(prepared, parallel=workers == 1 and cores > 1),
        tasks=prepared.num_tasks,
        workers=workers,
        logging_dir=str(prepared.logs.resolve()),
    )
    total = _total_bytes(prepared)

    def poll() -> None:
        if on_progress is not None:
            on_progress(
                sum(
                    result["bytes_read"] for result in read_task_results(prepared.results, prepared.num_tasks).values()
                ),
                total,
            )

    failed = executor.run_tasks(poll)
    if failed:
        rank, reason = min(failed.items())
        words = _last_words(executor.log_path(rank), reason)
        raise WorkError(
            f"{len(failed)} of {prepared.num_tasks} tasks did not finish (task {rank}: {words}); the finished shards "
            "are whole, run the same command again to do the rest"
        )
    return summarize(prepared)


def summarize(prepared: Preparation) -> TokenizationOutcome:
    """Return what the tasks have done so far, in this run and before."""
    results = [result for result in read_task_results(prepared.results, prepared.num_tasks).values() if result["done"]]
    complete = len(list((prepared.logs / "completions").glob("*")))
    return TokenizationOutcome(
        num_tasks=prepared.num_tasks,
        num_complete=complete,
        documents=sum(result["documents"] for result in results),
        tokens=sum(result["tokens"] for result in results),
        failures=sum(result["failures"] for result in results),
        empty=sum(result.get("empty", 0) for result in results),
        encoders=tuple(sorted({result["encoder"] for result in results})),
        mismatches=tuple(result["mismatch"] for result in results if result["mismatch"]),
        fallbacks=tuple(sorted({result["fallback"] for result in results if result.get("fallback")})),
        cut=sum(result.get("cut", result["failures"]) for result in results),
    )


def problems_of(prepared: Preparation, outcome: TokenizationOutcome, *, max_failures: int = 0) -> list[str]:
    """Return a sentence for what a finished source lacks: documents that were left out, or any document at all.

    Args:
        max_failures: documents that may be left out; parts of files, which hold any number of them, may not.
    """
    problems = []
    first = next(iter(list_failures(prepared)), None)
    is_allowed = 0 < outcome.failures <= max_failures and not outcome.cut
    if first is not None and not is_allowed:
        without = "" if outcome.cut else f"; --max-failures {outcome.failures} does without them"
        problems.append(
            f"{outcome.failures} documents or files could not be read and were left out, first {first['file']} at row "
            f"{first['row']}: {first['error']}. The shards are whole; {prepared.logs}/failures lists them all, and "
            f"--redo-failed tries their tasks again{without}"
        )
    elif not outcome.documents:
        problems.append(
            f"{prepared.job.output}: no document in {', '.join(prepared.job.inputs)} ({outcome.empty} empty ones); "
            "check the input and --text-column"
        )
    return problems


def forget_lost_shards(prepared: Preparation) -> None:
    """Take back the completion mark of tasks whose result or shard is gone or damaged, so that they are done again."""
    results = read_task_results(prepared.results, prepared.num_tasks)
    for rank in range(prepared.num_tasks):
        if rank not in results or not _left_what_it_says(prepared.job.output / shard_name(rank), results[rank]):
            (prepared.logs / "completions" / f"{rank:05d}").unlink(missing_ok=True)


def list_failures(prepared: Preparation) -> list[dict[str, Any]]:
    """Return what tasks could not read: file, row (None: unknown) and error, at most 1000 a file."""
    return read_failures(prepared.logs / "failures")


def forget_failed(prepared: Preparation) -> None:
    """Take back the completion mark of tasks that left something out, so that they are done again."""
    for rank, result in read_task_results(prepared.results, prepared.num_tasks).items():
        if result["failures"]:
            (prepared.logs / "completions" / f"{rank:05d}").unlink(missing_ok=True)


def _left_what_it_says(shard: Path, result: dict[str, Any]) -> bool:
    try:
        return not result["documents"] or read_shard(shard).num_tokens == result["tokens"]
    except (InputError, OSError):
        return False


def _make_reader(prepared: Preparation) -> Any:
    job, logs = prepared.job, prepared.logs.resolve()
    failures = logs / "failures"
    if prepared.num_files:
        from nanotron_zagreus.data.corpus_reader import CorpusReader

        return CorpusReader(plan_path(job.output.resolve()), job.text_column, failures)
    from nanotron_zagreus.data.hub_reader import HubReader

    dataset = HubDataset.parse(job.inputs[0])
    assert dataset is not None  # without files the plan holds one
    return HubReader(dataset, job.text_column, failures)


def _total_bytes(prepared: Preparation) -> int:
    plan = read_plan(plan_path(prepared.job.output))
    assert plan is not None  # `prepare` found it or wrote it
    return sum(entry[1] for task in plan["tasks"] for entry in task)


def _last_words(log: Path, reason: str) -> str:
    """Return the last error in a task's log, or ``reason`` and where to read on."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    errors = [line for line in lines if line and not line.startswith((" ", "\t")) and "Error" in line.split(":")[0]]
    return f"{errors[-1] if errors and reason == 'failed' else reason}, see {log}"
