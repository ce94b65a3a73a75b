"""Plan a launch from its options: its chain of jobs, and what training, conversion and evaluation would refuse."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nanotron_zagreus.cli.launch_options import LaunchOptions

if TYPE_CHECKING:
    from nanotron_zagreus.config import Config
    from nanotron_zagreus.slurm.jobs import Chain
    from nanotron_zagreus.slurm.run_plan import RunPlan
    from nanotron_zagreus.slurm.site import Site

_NO_SPACES = "values here cannot hold spaces"


def plan_launch(launch: LaunchOptions) -> RunPlan:
    """Load configuration and site, plan the run, and add what training and evaluation would refuse.

    Raises:
        InputError: the options, the configuration or the site are wrong.
    """
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
    found = (None if chain.after or chain.sources else _refused_start(config), _lacking_data(chain, cluster))
    more = [text for text in found if text is not None and text not in plan.obstacles]
    return dataclasses.replace(plan, obstacles=(*plan.obstacles, *more))


def _refused_start(config: Config) -> str | None:
    """Say what the training would refuse to begin with; a job goes on by itself, whatever the configuration says."""
    from nanotron_zagreus.errors import InputError, VerificationError
    from nanotron_zagreus.slurm.jobs import AUTO
    from nanotron_zagreus.training.outlook import look_ahead

    checkpoints = dataclasses.replace(config.checkpoints, resume_checkpoint_path=AUTO)
    try:
        look_ahead(dataclasses.replace(config, checkpoints=checkpoints))
    except (InputError, VerificationError, OSError) as error:
        return str(error)
    return None


def _lacking_data(chain: Chain, site: Site) -> str | None:
    """Say which data sets the evaluation would look for in vain; only lm-eval knows, and it may not be here."""
    from nanotron_zagreus.errors import InputError
    from nanotron_zagreus.evaluation.data_report import needs_of
    from nanotron_zagreus.evaluation.local_data import may_be_cached, missing_data

    folder = chain.data or _cache_of_jobs(site)
    if chain.suite is None or folder is None or (chain.data and not chain.data.is_dir()):
        return None
    try:
        needs = list(needs_of(chain.suite).values())
    except InputError:
        return None
    if chain.data:
        missing, place, into = missing_data(needs, folder), f"--data {folder}", ""
    else:
        missing = [need for need in needs if not may_be_cached(need, folder)]
        place = f"--evaluate without --data: compute nodes are offline, and the Hugging Face cache {folder}"
        into = " into a folder, which --data names"
    lacking = ", ".join(dict.fromkeys(need.dataset for need in missing))
    return (
        f"{place} lacks {lacking}; `zagreus eval-data --suite {chain.suite}` says how to fetch them{into}"
        if lacking
        else None
    )


def _cache_of_jobs(site: Site) -> Path | None:
    """Return the Hugging Face cache that jobs without a network read; None: they have one, or read other places."""
    if not site.offline or {"HF_HUB_CACHE", "HF_DATASETS_CACHE"} & set(os.environ):
        return None
    from huggingface_hub.constants import HF_HOME

    return Path(site.hf_home or HF_HOME)


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
        max_failures=launch.max_failures,
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
