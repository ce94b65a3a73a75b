"""Subcommands of this stage: evaluate models, show how they progress, say which data the suites read."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from nanotron_zagreus.evaluation.progression import Table
    from nanotron_zagreus.evaluation.runner import TaskOutcome

_PATHS = typer.Argument(..., metavar="PATH…", help="HF folders, hub ids, Nanotron checkpoints, or folders of them.")
_RESULTS = typer.Argument(..., metavar="DIR", help="Folder of results: what `zagreus evaluate` was given as --output.")
_SUITE = typer.Option(None, "--suite", help="progression-por, -ita, -spa, -fra, or leaderboard-pt.")
_TASKS = typer.Option(None, "--tasks", help="lm-eval tasks, comma-separated; beside or instead of --suite.")
_INCLUDE = typer.Option(None, "--include-path", help="Folder with your own lm-eval task files; may be repeated.")
_OUTPUT = typer.Option(..., "--output", help="Folder of results; what it holds already is not evaluated again.")
_DATA = typer.Option(None, "--data", help="Folder with local copies of the data sets (see `zagreus eval-data`).")
_LIMIT = typer.Option(None, "--limit", help="Documents per task, or their fraction below 1.")
_TOKENIZER = typer.Option(None, "--tokenizer", help="For checkpoints, instead of the one their config names.")
_BATCH = typer.Option("auto", "--batch-size", help="Requests per forward pass, or auto.")
_DEVICE = typer.Option("auto", "--device", help="auto, cpu, cuda, cuda:1, …")
_DTYPE = typer.Option("auto", "--dtype", help="auto (as saved), float32, bfloat16, float16.")
_CHAT = typer.Option(False, "--apply-chat-template", help="Send prompts through the tokenizer's chat template.")
_SHOTS = typer.Option(None, "--num-fewshot", help="Shots for the tasks of --tasks.")
_SAMPLES = typer.Option(False, "--log-samples", help="Also keep every document's prompt and answer.")
_AGAIN = typer.Option(False, "--again", help="Evaluate also what the folder of results holds already.")
_REPLACE = typer.Option(False, "--replace", help="Set results of other model files under a model's name aside.")
_KEEP = typer.Option(True, help="Keep converted checkpoints for the next evaluation.")
_KEEP_WATCHED = typer.Option(False, help="Keep the converted copy of every checkpoint that --watch evaluated.")
_JSON = typer.Option(False, "--json", help="Print JSON.")
_FORMAT = typer.Option("table", "--format", help="table, markdown, csv or json.")
_PLOT = typer.Option(None, "--plot", help="Also draw the scores over steps and tokens: .png, .svg or .pdf.")
_PUBLISHED = typer.Option(False, "--published", help="Add the scores that the model card prints, marked as such.")
_PER_STEP = typer.Option(0, "--tokens-per-step", help="For models that know only their step.")
_WATCH = typer.Option(None, "--watch", help="Checkpoints of a running training: evaluate each as it appears.")
_INTERVAL = typer.Option(30.0, "--interval", help="Seconds between two looks of --watch.")
_GIVE_UP = typer.Option(24.0, "--give-up-after", help="Hours without a new step after which --watch ends (inf: never).")


def register(app: typer.Typer) -> None:
    """Add the stage's subcommands to ``app``."""
    app.command("evaluate")(evaluate)
    app.command("progress")(progress)
    app.command("eval-data")(eval_data)


def evaluate(
    paths: list[str] = _PATHS,
    suite: str | None = _SUITE,
    tasks: str | None = _TASKS,
    include_path: list[Path] | None = _INCLUDE,
    output: Path = _OUTPUT,
    data: Path | None = _DATA,
    limit: float | None = _LIMIT,
    tokenizer: str | None = _TOKENIZER,
    batch_size: str = _BATCH,
    device: str = _DEVICE,
    dtype: str = _DTYPE,
    apply_chat_template: bool = _CHAT,
    num_fewshot: int | None = _SHOTS,
    keep_converted: bool = _KEEP,
    log_samples: bool = _SAMPLES,
    again: bool = _AGAIN,
    replace: bool = _REPLACE,
    as_json: bool = _JSON,
) -> None:
    """Evaluate models with lm-eval, many in one process.

    What is already in the output folder is skipped, so the same command goes on after an interruption.
    A model's results carry the name of its folder; NAME=PATH gives another one.

    Example: `zagreus evaluate hf_checkpoints/ --suite progression-por --output results`
    """
    from nanotron_zagreus.evaluation.requests import EvaluationRequest, run_request

    _prepare_process()
    request = EvaluationRequest(
        paths=tuple(paths),
        suite=suite,
        tasks=tuple(name.strip() for name in (tasks or "").split(",") if name.strip()),
        include_paths=tuple(include_path or ()),
        output=output,
        data=data,
        limit=limit,
        tokenizer=tokenizer,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        apply_chat_template=apply_chat_template,
        num_fewshot=num_fewshot,
        keep_converted=keep_converted,
        keep_samples=log_samples,
        again=again,
        replace_old=replace,
    )
    outcomes = run_request(request, report=_say)
    found = [outcome.result for outcome in outcomes if outcome.result]
    if found:
        from nanotron_zagreus.evaluation.progression import build_tables

        _print_tables(build_tables(found), "json" if as_json else "table")
    _raise_failures(outcomes)


def progress(
    results: Path = _RESULTS,
    suite: str | None = _SUITE,
    output_format: str = _FORMAT,
    plot: Path | None = _PLOT,
    published: bool = _PUBLISHED,
    tokens_per_step: int = _PER_STEP,
    watch: Path | None = _WATCH,
    interval: float = _INTERVAL,
    give_up_after: float = _GIVE_UP,
    data: Path | None = _DATA,
    limit: float | None = _LIMIT,
    tokenizer: str | None = _TOKENIZER,
    batch_size: str = _BATCH,
    device: str = _DEVICE,
    keep_converted: bool = _KEEP_WATCHED,
) -> None:
    """Show how scores develop over training: a table with standard errors, and a plot.

    With --watch it first evaluates the checkpoints of a running training as they appear (--suite says on
    what), and ends when the training has finished or failed, or, with exit code 1, when there was no new step for
    --give-up-after hours; the options from --data on are for that. Without it, --limit N shows the results of trials
    with that limit, which otherwise stand back behind those on all documents.

    Example: `zagreus progress results --suite progression-por --published --plot progress.png`
    """
    from nanotron_zagreus.evaluation.plots import check_plot_path, draw_tables
    from nanotron_zagreus.evaluation.rendering import check_format

    check_format(output_format)
    if plot is not None:
        check_plot_path(plot)

    def show() -> None:
        tables = _tables(results, suite=suite, published=published, tokens_per_step=tokens_per_step, limit=limit)
        _print_tables(tables, output_format)
        if plot is not None:
            _tell(f"drawn: {', '.join(map(str, draw_tables(tables, plot)))}")

    if watch is None:
        show()
        return
    from nanotron_zagreus.evaluation.requests import EvaluationRequest
    from nanotron_zagreus.evaluation.watching import follow_training

    _prepare_process()
    request = EvaluationRequest(
        paths=(), suite=suite, output=results, data=data, limit=limit, tokenizer=tokenizer, batch_size=batch_size,
        device=device, keep_converted=keep_converted,
    )  # fmt: skip
    outcomes = follow_training(
        watch, request, show, report=_say, tell=_tell, interval_seconds=interval, give_up_after_hours=give_up_after
    )
    _raise_failures(outcomes)


def eval_data(
    suite: str = typer.Option(..., "--suite", help="progression-por, -ita, -spa, -fra, or leaderboard-pt."),
    data: Path | None = typer.Option(None, "--data", help="Also say what this folder lacks (exit code 3 if anything)."),
    as_json: bool = _JSON,
) -> None:
    """Say which data sets a suite reads, where their copies belong, and how to fetch them.

    Example: `zagreus eval-data --suite leaderboard-pt --data eval_data`
    """
    from nanotron_zagreus.evaluation.data_report import describe_needs, needs_of, print_needs, refuse_lacking

    needs = needs_of(suite)
    if as_json:
        print(describe_needs(needs, data))
    else:
        print_needs(needs, data)
    if data is not None:
        refuse_lacking(needs, data)


def _prepare_process() -> None:
    """Refuse to be one of several ranks, and keep progress bars out of log files.

    lm-eval, datasets and transformers read the variables when they are imported.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from nanotron_zagreus.errors import InputError

        raise InputError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: one evaluation is one process; start one per GPU instead, each "
            "with other PATHs and --device cuda:N, all with the same --output"
        )
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def _say(outcome: TaskOutcome) -> None:
    """Tell on stderr what became of one (model, task)."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    name = f"{outcome.number}/{outcome.total} {outcome.label} · {outcome.task}"
    if outcome.result is None:
        console.print(f"{name}: failed: {outcome.error}", style="red", markup=False)
        return
    scores = ", ".join(f"{metric} {value:.4f}" for metric, value in outcome.result.scores.items())
    after = "already there" if outcome.status == "skipped" else f"{outcome.seconds:.1f} s"
    console.print(f"{name}: {scores} ({after})", markup=False)


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _tables(
    folder: Path, *, suite: str | None, published: bool, tokens_per_step: int, limit: float | None
) -> list[Table]:
    from nanotron_zagreus.errors import MissingInputError
    from nanotron_zagreus.evaluation.progression import build_tables
    from nanotron_zagreus.evaluation.published_values import published_rows
    from nanotron_zagreus.evaluation.results import newest_results, read_results

    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder of results; run `zagreus evaluate … --output {folder}`")
    rows = published_rows if published else None
    results = [result for result in read_results(folder) if limit is None or result.conditions.limit == limit]
    return build_tables(newest_results(results), suite, rows, tokens_per_step)


def _print_tables(tables: list[Table], output_format: str) -> None:
    from rich.console import Console

    from nanotron_zagreus.evaluation.rendering import as_csv, as_json, as_markdown, as_rich

    if output_format == "json":
        print(as_json(tables))
        return
    for table in tables:
        if output_format == "table":
            Console().print(as_rich(table))
        else:
            print(as_markdown(table) if output_format == "markdown" else as_csv(table), end="")


def _raise_failures(outcomes: list[TaskOutcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        from nanotron_zagreus.errors import WorkError

        names = ", ".join(f"{outcome.label} on {outcome.task} ({outcome.error})" for outcome in failed)
        raise WorkError(
            f"{len(failed)} of {len(outcomes)} evaluations failed: {names}; the others are kept, and the same command "
            "evaluates only what is missing"
        )
