"""One run as a chain of jobs: what to write, what to submit in which order, and what must be there first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanotron_zagreus.config import Config
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.notices import missing_data, notices
from nanotron_zagreus.slurm.checks import check_folders, check_launch, check_sources, obstacles
from nanotron_zagreus.slurm.duration import RunEstimate, estimate_run
from nanotron_zagreus.slurm.jobs import (
    Chain,
    JobScript,
    Launch,
    config_text,
    convert_script,
    evaluate_script,
    sources_text,
    tokenize_script,
    train_script,
)
from nanotron_zagreus.slurm.site import Site, seconds_of_time_limit


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A launch, its jobs in order, and what is expected of it."""

    launch: Launch
    estimate: RunEstimate
    jobs: tuple[JobScript, ...]
    files: dict[Path, str]
    """What the jobs read besides their scripts."""
    after: tuple[str, ...]
    """Jobs that must end well before the first one starts."""
    notices: tuple[str, ...]
    obstacles: tuple[str, ...]
    """What this machine lacks and a submitted job would fail on."""

    def script(self, name: str) -> JobScript:
        """Return one job."""
        return next(job for job in self.jobs if job.name == name)


def make_run_plan(
    config: Config,
    site: Site,
    *,
    nodes: int,
    gpus_per_node: int,
    folder: Path,
    chain: Chain | None = None,
    rate: float | None = None,
    lead: int | None = None,
) -> RunPlan:
    """Return everything `zagreus slurm` needs to show, check or submit a run; nothing is written.

    Args:
        config: the checked configuration.
        site: the cluster.
        nodes, gpus_per_node: must make dp x tp x pp.
        folder: gets scripts, configuration and logs.
        chain: jobs around the training; None: the training alone.
        rate: tokens per second and GPU, where known better than by this run's metrics.
        lead: seconds before the time limit to ask for a save; None: three saves.

    Raises:
        InputError: sizes do not agree, or the chain contradicts itself.
    """
    chain = chain or Chain()
    check_launch(config, nodes, gpus_per_node)
    check_folders(folder.absolute(), Path.cwd())
    check_sources(config, chain.sources)
    if chain.suite is not None and chain.hf_folder is None:
        raise InputError("--evaluate: needs --convert FOLDER, whose folders it evaluates")
    if chain.convert_options and chain.hf_folder is None:
        raise InputError("--convert-options: needs --convert FOLDER, whose conversion it is about")
    if chain.evaluate_options and chain.suite is None:
        raise InputError("--evaluate-options: needs --evaluate SUITE, whose evaluation it is about")
    launch = Launch(
        config=config,
        site=site,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        folder=folder.absolute(),
        work_folder=Path.cwd(),
    )
    limit = seconds_of_time_limit(site.time_limit)
    estimate = estimate_run(config, time_limit_seconds=limit, given_rate=rate, given_lead=lead)
    files = {launch.config_file: config_text(launch)}
    jobs = [train_script(launch, estimate)]
    if chain.sources:
        jobs.insert(0, tokenize_script(launch, chain))
        files[launch.sources_file] = sources_text(chain.sources)
    if chain.hf_folder is not None:
        jobs.append(convert_script(launch, chain))
        if chain.suite is not None:
            jobs.append(evaluate_script(launch, chain))
    later = missing_data(config) if chain.after else None
    return RunPlan(
        launch=launch,
        estimate=estimate,
        jobs=tuple(jobs),
        files=files,
        after=chain.after,
        notices=(*notices(config), *([f"{later}, before job {', '.join(chain.after)} has ended"] if later else ())),
        obstacles=obstacles(launch, chain, estimate),
    )
