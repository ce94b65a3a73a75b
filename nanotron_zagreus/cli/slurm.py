"""`zagreus slurm`: render, check and submit the jobs of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanotron_zagreus.cli.launch_options import LaunchOptions, with_launch_options
from nanotron_zagreus.cli.launch_plan import plan_launch

if TYPE_CHECKING:
    from nanotron_zagreus.slurm.run_plan import RunPlan


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

    plan = plan_launch(launch)
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

    plan = plan_launch(launch)
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

    plan = plan_launch(launch)
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
