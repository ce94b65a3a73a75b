"""`zagreus slurm`: render, check and submit the jobs of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanotron_zagreus.cli.launch_options import LaunchOptions, with_launch_options

if TYPE_CHECKING:
    from nanotron_zagreus.config import Config
    from nanotron_zagreus.slurm.jobs import Chain
    from nanotron_zagreus.slurm.run_plan import RunPlan

_NO_SPACES = "values here cannot hold spaces"


def register(app: typer.Typer) -> None:
    """Add `slurm` and its subcommands to ``app``."""
    group = typer.Typer(no_args_is_help=True, help="Render, check and submit the Slurm jobs of a run.")
    group.command("site")(site)
    group.command("render")(render)
    group.command("check")(check)
    group.command("submit")(submit)
    app.add_typer(group, name="slurm")


def site() -> None:
    """Print the site file to fill in: account, partition, time limit, modules, environment.

    Example: `zagreus slurm site`
    """
    from nanotron_zagreus.resources import resource_folder

    print((resource_folder("slurm") / "site.yaml").read_text(encoding="utf-8"), end="")


@with_launch_options
def render(
    launch: LaunchOptions,
    job: Annotated[str, typer.Option("--job", help="train, tokenize, convert or evaluate.")] = "train",
    write: Annotated[
        bool, typer.Option("--write", help="Write all scripts and what they need into --output, to sbatch by hand.")
    ] = False,
) -> None:
    """Print a job's script, filled in from the YAML and the site; nothing is submitted, and written only with --write.

    Example: `zagreus slurm render --config-file smollm2/zagreus_350M_por.yaml --nodes 8 --gpus-per-node 8`
    """
    from nanotron_zagreus.errors import InputError
    from nanotron_zagreus.slurm.launch_folder import write_files

    plan = _plan(launch)
    _say(plan)
    names = [each.name for each in plan.jobs]
    if job not in names:
        raise InputError(
            f"--job: got {job!r}, this run has {', '.join(names)}; --tokenize, --convert, --evaluate add jobs"
        )
    if write:
        for script in write_files(plan).values():
            print(script)
        return
    print(plan.script(job).text, end="")
    _note(
        f"the script reads and logs below {plan.launch.folder}, and nothing is written there: Slurm fails a job whose "
        "folder of logs does not exist, without a word. To sbatch it by hand, add --write"
    )


@with_launch_options
def check(launch: LaunchOptions) -> None:
    """Check a launch without submitting: sizes, site, time, what is missing here, and Slurm's own opinion.

    Exit code 2, once everything is printed: a job would fail on something, or Slurm refuses one.

    Example: `zagreus slurm check --config-file smollm2/zagreus_350M_por.yaml --nodes 8 --gpus-per-node 8`
    """
    from nanotron_zagreus.errors import InputError, WorkError

    plan = _plan(launch)
    _say(plan)
    num_refused = 0
    try:
        num_refused = _ask_slurm(plan)
    except WorkError as error:
        if not plan.obstacles:
            raise
        _note(str(error))
    found = [
        *([_counted(len(plan.obstacles), "obstacle")] if plan.obstacles else []),
        *([f"{_counted(num_refused, 'job')} that Slurm refuses"] if num_refused else []),
    ]
    if found:
        raise InputError(f"not fit to submit: {' and '.join(found)}, named above; put that right first")


@with_launch_options
def submit(
    launch: LaunchOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the scripts; write and submit nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Submit a run: optionally tokenize, then train, then convert and evaluate every checkpoint, each after the other.

    The training saves before its time limit, requeues itself and goes on until the last step. `--dry-run` shows it.

    Example: `zagreus slurm submit --config-file smollm2/zagreus_350M_por.yaml --nodes 8 --gpus-per-node 8 --dry-run`
    """
    import json

    from nanotron_zagreus.slurm.launch_folder import submit as submit_plan

    plan = _plan(launch)
    _say(plan)
    if dry_run:
        for each in plan.jobs:
            print(f"######## {plan.launch.folder / each.name}.sbatch\n{each.text}")
        return
    ids = submit_plan(plan)
    if as_json:
        print(json.dumps({"folder": str(plan.launch.folder), "jobs": ids}, indent=1))
        return
    for name, job_id in ids.items():
        print(f"{name}: job {job_id}")
    _note(f"scripts and logs: {plan.launch.folder}; save and stop: touch {_stop_file(plan)}")


def _plan(launch: LaunchOptions) -> RunPlan:
    """Load configuration and site and plan the run."""
    import dataclasses

    from nanotron_zagreus.config import load_config
    from nanotron_zagreus.slurm.checks import check_launch
    from nanotron_zagreus.slurm.run_plan import make_run_plan
    from nanotron_zagreus.slurm.site import load_site

    chain = _chain(launch)
    config = load_config(launch.config_file)
    check_launch(config, launch.nodes, launch.gpus_per_node)
    cluster = load_site(launch.site_file)
    if launch.time is not None:
        others = cluster.time_limit_without_gpus
        cluster = dataclasses.replace(cluster, time_limit=launch.time, cpu_time_limit=others)
    plan = make_run_plan(
        config,
        cluster,
        nodes=launch.nodes,
        gpus_per_node=launch.gpus_per_node,
        folder=launch.output or Path("slurm_jobs") / config.general.run.replace(" ", "-"),
        chain=chain,
        rate=launch.rate,
        lead=launch.lead,
    )
    refused = None if chain.after or chain.sources else _refused_start(config)
    if refused is None or refused in plan.obstacles:
        return plan
    return dataclasses.replace(plan, obstacles=(*plan.obstacles, refused))


def _refused_start(config: Config) -> str | None:
    """Say what the training would refuse to begin with; a job goes on by itself, whatever the configuration says."""
    import dataclasses

    from nanotron_zagreus.errors import InputError, VerificationError
    from nanotron_zagreus.slurm.jobs import AUTO
    from nanotron_zagreus.training.outlook import look_ahead

    checkpoints = dataclasses.replace(config.checkpoints, resume_checkpoint_path=AUTO)
    try:
        look_ahead(dataclasses.replace(config, checkpoints=checkpoints))
    except (InputError, VerificationError, OSError) as error:
        return str(error)
    return None


def _chain(launch: LaunchOptions) -> Chain:
    """Return the jobs around the training that the options name."""
    from nanotron_zagreus.errors import InputError
    from nanotron_zagreus.evaluation.suites import find_suite
    from nanotron_zagreus.slurm.jobs import Chain, TextSource

    after = tuple(job for text in launch.after or () for job in text.split(":"))
    if not all(job.isdecimal() for job in after):
        raise InputError(
            f"--after: got {', '.join(launch.after or ())}, expected the numbers of jobs, as 4711 or 4711:4712"
        )
    _check_passed_options(launch)
    if launch.evaluate is not None:
        try:
            find_suite(launch.evaluate)
        except InputError as error:
            raise InputError(f"--evaluate: {error}") from error
    return Chain(
        sources=tuple(map(TextSource.parse, launch.tokenize or ())),
        eos=launch.eos,
        hf_folder=launch.convert,
        convert_options=launch.convert_options.strip(),
        suite=launch.evaluate,
        evaluate_options=launch.evaluate_options.strip(),
        results=launch.results,
        data=launch.data,
        after=after,
    )


def _check_passed_options(launch: LaunchOptions) -> None:
    """Refuse options that a job's command does not have: the job would find out when the training is over."""
    from nanotron_zagreus.cli.convert import convert
    from nanotron_zagreus.cli.evaluate import evaluate
    from nanotron_zagreus.errors import InputError

    _parse_options("convert", convert, ["CHECKPOINT", "OUT", "--tokenizer", "TOKENIZER"], launch.convert_options)
    own = ["FOLDER", "--suite", "SUITE", "--output", "RESULTS", "--data", "DATA"]
    set_here = {"paths": "--convert", "suite": "--evaluate", "output": "--results", "data": "--data"}
    before, after = (_parse_options("evaluate", evaluate, own, text) for text in ("", launch.evaluate_options))
    for name, option in set_here.items():
        if after[name] != before[name]:
            spaces = f", and {_NO_SPACES}" if name == "paths" else ""
            raise InputError(
                f"--evaluate-options: got {launch.evaluate_options!r}: {option} sets the evaluation's {name}{spaces}"
            )


def _parse_options(name: str, function: Callable[..., None], own: list[str], text: str) -> dict[str, Any]:
    """Return the values of a command's parameters, given the arguments of the job's script and those in ``text``."""
    from nanotron_zagreus.errors import InputError

    if "--help" in text.split():
        raise InputError(f"--{name}-options: got {text!r}: --help runs nothing; see `zagreus {name} --help`")
    app = typer.Typer(add_completion=False)
    app.command()(function)
    try:
        with typer.main.get_command(app).make_context(name, [*own, *text.split()]) as context:
            return context.params
    except Exception as error:  # a usage error; its class is click's or typer's own, depending on typer's version
        reason = getattr(error, "message", None) or f"{type(error).__name__}, see `zagreus {name} --help`"
        spaces = f"; {_NO_SPACES}" if "unexpected extra argument" in reason else ""
        raise InputError(f"--{name}-options: got {text!r}: {reason}{spaces}") from error


def _say(plan: RunPlan) -> None:
    """Tell a person what to expect, on stderr: stdout is the script's."""
    bound = plan.launch.site.max_requeues
    _note(
        f"{plan.launch.nodes} nodes x {plan.launch.gpus_per_node} GPUs; {plan.estimate.text()} (max_requeues: {bound})"
    )
    for text in plan.notices:
        _note(f"notice {text}")
    for text in plan.obstacles:
        _note(f"obstacle {text}")


def _ask_slurm(plan: RunPlan) -> int:
    """Print what Slurm says of every job, where it is on this machine; return how many it would refuse.

    Raises:
        WorkError: Slurm does not answer.
    """
    from nanotron_zagreus.errors import InputError
    from nanotron_zagreus.slurm.submission import has_slurm, try_script

    if not has_slurm():
        _note("sbatch is not on this machine: Slurm itself was not asked")
        return 0
    num_refused = 0
    for job in plan.jobs:
        try:
            answer = try_script(job)
        except InputError as error:
            _note(str(error))
            num_refused += 1
        else:
            print(f"Slurm accepts it: {answer}" if job.name == "train" else f"{job.name}: {answer}")
    return num_refused


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _stop_file(plan: RunPlan) -> Path:
    from nanotron_zagreus.checkpoints.layout import STOP_FILE

    return plan.launch.work_folder / plan.launch.config.checkpoints.checkpoints_path / STOP_FILE


def _note(text: str) -> None:
    typer.echo(text, err=True)
