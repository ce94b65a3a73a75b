"""`zagreus tokenize`: text in, shards out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanotron_zagreus.cli.system_errors import describe
from nanotron_zagreus.cli.tokenization_reports import print_outcome, print_status, progress_bar

if TYPE_CHECKING:
    from nanotron_zagreus.data.slurm_tasks import SlurmOptions
    from nanotron_zagreus.data.tokenization_plan import TokenizationJob


def tokenize(
    input: Annotated[
        list[str] | None,
        typer.Option(help="File, folder, pattern, URL (hf://datasets/…), or hub id owner/name[:config[:split]]."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the shards; with --recipe, parent of its sources'.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="A tokenizer.json, its folder, or a hub id.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column or key that holds the text; default: text.")] = None,
    tasks: Annotated[
        int | None, typer.Option(min=1, help="Shards to make, at most one per file; default: one per core.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Tasks at the same time; default: one per core.")] = None,
    bos: Annotated[
        bool | None, typer.Option("--bos/--no-bos", help="BOS before each document; published: yes.")
    ] = None,
    eos: Annotated[bool | None, typer.Option("--eos/--no-eos", help="EOS after each document; published: no.")] = None,
    bos_token: Annotated[
        str | None, typer.Option(help="The BOS token's text, if the tokenizer does not name it.")
    ] = None,
    eos_token: Annotated[
        str | None, typer.Option(help="The EOS token's text, if the tokenizer does not name it.")
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="auto: gigatoken while it proves equal to tokenizers; or tokenizers; or gigatoken.")
    ] = "auto",
    executor: Annotated[str, typer.Option(help="local, or slurm (a job array).")] = "local",
    recipe: Annotated[Path | None, typer.Option(help="YAML of several sources, such as smollm2/data_por.yaml.")] = None,
    redo_failed: Annotated[
        bool, typer.Option("--redo-failed", help="Also do the tasks again that left something out.")
    ] = False,
    max_failures: Annotated[
        int,
        typer.Option(
            min=0,
            help="Documents of a source that may be unreadable, and left out, without exit code 1; default: none.",
        ),
    ] = 0,
    slurm_partition: Annotated[str | None, typer.Option(help="For --executor slurm, as all --slurm options.")] = None,
    slurm_time: Annotated[str, typer.Option(help="Time limit of a task.")] = "20:00:00",
    slurm_account: Annotated[str | None, typer.Option(help="Account to charge.")] = None,
    slurm_qos: Annotated[str | None, typer.Option(help="Quality of service.")] = None,
    slurm_memory_gb: Annotated[int, typer.Option(min=1, help="Memory per task.")] = 4,
    slurm_max_array: Annotated[int, typer.Option(min=1, help="The cluster's MaxArraySize.")] = 1001,
    slurm_env_command: Annotated[
        str | None, typer.Option(help="Shell line before each task; default: this Python.")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Only print how far --output is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Tokenize text into shards. Run the same command again to do what is missing.

    Example: `zagreus tokenize --input corpus/ --output tokenized/english --tokenizer tokenizer.json --tasks 8`
    """
    # Longer than other functions for its options alone: typer reads them from the signature.
    from nanotron_zagreus.errors import InputError

    _check_choices(encoder, executor, max_failures, runs_here=slurm_env_command is None and not status)
    if output is None:
        raise InputError("--output: missing; name the folder to write shards into")
    chosen: dict[str, Any] = {"inputs": tuple(input or ()), "tokenizer": tokenizer, "bos": bos, "eos": eos}
    chosen |= {"num_tasks": tasks, "encoder": encoder}
    single = {"text_column": text_column, "bos_token": bos_token, "eos_token": eos_token}
    if status:
        print_status(_folders(output, recipe, chosen), as_json=as_json)
        return
    jobs = [_single_job(output, chosen | single)] if recipe is None else _recipe_jobs(recipe, output, chosen, single)
    if executor == "slurm":
        _submit(
            jobs,
            _slurm_options(slurm_partition, slurm_time, slurm_account, slurm_qos, slurm_memory_gb, slurm_max_array,
                           slurm_env_command),
            workers=workers, redo_failed=redo_failed, as_json=as_json,
        )  # fmt: skip
    else:
        _run_here(jobs, workers=workers, redo_failed=redo_failed, max_failures=max_failures, as_json=as_json)


def _check_choices(encoder: str, executor: str, max_failures: int, *, runs_here: bool) -> None:
    """Refuse unknown choices, one without effect, and an encoder that is missing where the tasks run here."""
    from nanotron_zagreus.cli.reporting import check_choice
    from nanotron_zagreus.errors import InputError

    check_choice("--encoder", encoder, ("auto", "tokenizers", "gigatoken"))
    check_choice("--executor", executor, ("local", "slurm"))
    if max_failures and executor == "slurm":
        raise InputError(
            f"--max-failures: got {max_failures} with --executor slurm, whose exit code tells of the submission alone; "
            "leave it out, and ask by --status how many documents were left out"
        )
    if encoder == "gigatoken" and runs_here:
        from nanotron_zagreus.data.encoders import require_gigatoken

        require_gigatoken()


def _folders(output: Path, recipe: Path | None, chosen: dict[str, Any]) -> list[Path]:
    """Return the folders that the command writes shards into."""
    return [output] if recipe is None else [job.output for job in _recipe_jobs(recipe, output, chosen, {})]


def _recipe_jobs(
    recipe: Path, output: Path, chosen: dict[str, Any], single: dict[str, str | None]
) -> list[TokenizationJob]:
    from nanotron_zagreus.data.recipe import jobs_of, load_recipe
    from nanotron_zagreus.errors import InputError

    beside = [f"--{name.replace('_', '-')}" for name, value in single.items() if value is not None]
    if beside:
        raise InputError(
            f"{', '.join(beside)}: given beside --recipe, which says this itself; edit {recipe}, or tokenize its "
            "sources one by one"
        )
    return jobs_of(load_recipe(recipe), output, **chosen)


def _single_job(output: Path, chosen: dict[str, Any]) -> TokenizationJob:
    from nanotron_zagreus.data.tokenization_plan import TokenizationJob
    from nanotron_zagreus.errors import InputError

    if not chosen["inputs"] or chosen["tokenizer"] is None:
        raise InputError("--input and --tokenizer: both are needed, unless a --recipe names them")
    # Published: BOS and no EOS.
    bos = True if chosen["bos"] is None else chosen["bos"]
    column = chosen["text_column"] or "text"
    return TokenizationJob(output=output, **{**chosen, "text_column": column, "bos": bos, "eos": bool(chosen["eos"])})


def _slurm_options(
    partition: str | None, time: str, account: str | None, qos: str | None, memory_gb: int, max_array: int,
    env_command: str | None,
) -> SlurmOptions:  # fmt: skip
    from nanotron_zagreus.data.slurm_tasks import SlurmOptions
    from nanotron_zagreus.errors import InputError

    if partition is None:
        raise InputError("--slurm-partition: missing; name the partition for --executor slurm")
    return SlurmOptions(
        partition=partition,
        time=time,
        memory_per_cpu_gb=memory_gb,
        qos=qos or "",
        max_array_size=max_array,
        env_command=env_command,
        sbatch_options={"account": account} if account else {},
    )


def _submit(
    jobs: list[TokenizationJob], options: SlurmOptions, *, workers: int | None, redo_failed: bool, as_json: bool
) -> None:
    from nanotron_zagreus.data.slurm_tasks import submit_to_slurm
    from nanotron_zagreus.data.tokenization import forget_failed, summarize
    from nanotron_zagreus.data.tokenization_plan import prepare_all

    submitted = []
    for prepared in prepare_all(jobs):
        output = prepared.job.output
        if redo_failed:
            forget_failed(prepared)
        job_id = submit_to_slurm(prepared, options, workers=workers)
        if job_id is None and not as_json:
            print_outcome(output, summarize(prepared))
        elif not as_json:
            print(f"{output}: job {job_id}; `zagreus tokenize --output {output} --status` says how far it is")
        submitted.append({"output": str(output), "job": job_id})
    if as_json:
        print(json.dumps(submitted, indent=1))


def _run_here(
    jobs: list[TokenizationJob], *, workers: int | None, redo_failed: bool, max_failures: int, as_json: bool
) -> None:
    """Tokenize source after source; one that fails ends with an error when all have been tried."""
    from dataclasses import asdict

    from nanotron_zagreus.data.tokenization import forget_failed, problems_of, tokenize_locally
    from nanotron_zagreus.data.tokenization_plan import prepare_all
    from nanotron_zagreus.errors import WorkError

    outcomes, problems = [], []
    for prepared in prepare_all(jobs):
        if redo_failed:
            forget_failed(prepared)
        output = prepared.job.output
        try:
            with progress_bar(str(output)) as show:
                outcome = tokenize_locally(prepared, workers=workers, on_progress=show)
        except (WorkError, OSError) as error:
            problems.append(f"{output}: {describe(error) if isinstance(error, OSError) else error}")
            continue
        if not as_json:
            print_outcome(output, outcome)
        outcomes.append({"output": str(output), **asdict(outcome)})
        problems += problems_of(prepared, outcome, max_failures=max_failures)
    if as_json:
        print(json.dumps(outcomes, indent=1))
    if problems:
        raise WorkError("; ".join(problems))
