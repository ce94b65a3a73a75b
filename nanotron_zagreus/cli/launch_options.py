"""The options that every `zagreus slurm` command on a run takes: one dataclass, one sentence each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """What is launched, where, and which jobs stand around it."""

    config_file: Annotated[str, typer.Option("--config-file", help="The training YAML, or a shipped config's name.")]
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes of the training job.")]
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", min=1, help="GPUs of each node; one rank each.")]
    site_file: Annotated[Path | None, typer.Option("--site", help="Your cluster's file; default: slurm_site.yaml.")] = (
        None
    )
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder of scripts and logs; default: slurm_jobs/RUN.")
    ] = None
    time: Annotated[str | None, typer.Option("--time", help="Time limit of jobs with GPUs, instead of the site's.")] = (
        None
    )
    rate: Annotated[
        float | None,
        typer.Option(
            "--tokens-per-second-per-gpu", help="For the estimate; default: this run's metrics, or an assumption."
        ),
    ] = None
    lead: Annotated[
        int | None, typer.Option("--lead", min=1, help="Seconds before the time limit to save; default: three saves.")
    ] = None
    tokenize: Annotated[
        list[str] | None,
        typer.Option(
            "--tokenize", help="INPUT=FOLDER[:COLUMN]: tokenize INPUT into a data folder of the YAML first; repeat."
        ),
    ] = None
    eos: Annotated[
        bool, typer.Option("--eos/--no-eos", help="For --tokenize: an end-of-text token (published: no).")
    ] = False
    max_failures: Annotated[
        int, typer.Option("--max-failures", min=0, help="For --tokenize: a source's documents that may be unreadable.")
    ] = 0
    convert: Annotated[
        Path | None, typer.Option("--convert", help="Then convert every checkpoint into this folder.")
    ] = None
    convert_options: Annotated[
        str, typer.Option("--convert-options", help='For --convert: more of its options, as "--accept-tokenizer".')
    ] = ""
    evaluate: Annotated[str | None, typer.Option("--evaluate", help="Then evaluate them with this suite.")] = None
    evaluate_options: Annotated[
        str, typer.Option("--evaluate-options", help='For --evaluate: more of its options, as "--batch-size 16".')
    ] = ""
    results: Annotated[Path, typer.Option("--results", help="For --evaluate: folder of the results.")] = Path("results")
    data: Annotated[Path | None, typer.Option("--data", help="For --evaluate: local copies of the data sets.")] = None
    after: Annotated[
        list[str] | None,
        typer.Option("--after", help="Jobs that must end well first, such as a tokenization: ID or ID:ID; repeat."),
    ] = None


def with_launch_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return ``command``, whose first parameter is a `LaunchOptions`, as one that takes its fields as options."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    types = get_type_hints(LaunchOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=types[field.name],
        )
        for field in fields(LaunchOptions)
    ]
    parameters = [*shared, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        launch = LaunchOptions(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        command(launch, **given)

    # typer reads a command's options from its signature and its annotations.
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options
