"""One run as a chain of jobs: what to write, what to submit in which order, and what must be there first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanotron_zagreus.config import Config
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.notices import missing_checkpoints, missing_data, missing_tokenizer, notices
from nanotron_zagreus.slurm.duration import RunEstimate, estimate_run
from nanotron_zagreus.slurm.jobs import (
    JobScript,
    Launch,
    TextSource,
    check_folders,
    check_launch,
    config_text,
    convert_script,
    evaluate_script,
    sources_text,
    tokenize_script,
    train_script,
)
from nanotron_zagreus.slurm.site import Site, seconds_of_time_limit
from nanotron_zagreus.slurm.submission import submit_script, try_script


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Which jobs stand around the training."""

    sources: tuple[TextSource, ...] = ()
    """Text to tokenize first; none: the shards are there."""
    eos: bool = False
    """Whether the tokenization writes an end-of-text token after each document."""
    hf_folder: Path | None = None
    """Where converted checkpoints go; None: no conversion."""
    suite: str | None = None
    """What to evaluate them with; None: no evaluation."""
    results: Path = Path("results")
    data: Path | None = None
    """Local copies of the evaluation's data sets."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A launch, its jobs in order, and what is expected of it."""

    launch: Launch
    estimate: RunEstimate
    jobs: tuple[JobScript, ...]
    files: dict[Path, str]
    """What the jobs read besides their scripts."""
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
    if chain.suite is not None and chain.hf_folder is None:
        raise InputError("--evaluate: needs --convert FOLDER, whose folders it evaluates")
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
        jobs.insert(0, tokenize_script(launch, chain.sources, eos=chain.eos))
        files[launch.sources_file] = sources_text(chain.sources)
    if chain.hf_folder is not None:
        jobs.append(convert_script(launch, chain.hf_folder))
        if chain.suite is not None:
            jobs.append(evaluate_script(launch, chain.hf_folder, chain.suite, chain.results, chain.data))
    return RunPlan(
        launch=launch,
        estimate=estimate,
        jobs=tuple(jobs),
        files=files,
        notices=notices(config),
        obstacles=_obstacles(config, site, has_data_later=bool(chain.sources)),
    )


def write_files(plan: RunPlan) -> dict[str, Path]:
    """Write scripts, configuration and the log folder; return job name -> script."""
    (plan.launch.folder / "logs").mkdir(parents=True, exist_ok=True)
    for path, text in plan.files.items():
        path.write_text(text, encoding="utf-8")
    scripts = {job.name: plan.launch.folder / f"{job.name}.sbatch" for job in plan.jobs}
    for job in plan.jobs:
        scripts[job.name].write_text(job.text, encoding="utf-8")
    return scripts


def submit(plan: RunPlan, after: Sequence[str] = ()) -> dict[str, str]:
    """Write everything, try every script, submit the jobs as a chain; return job name -> job id.

    Args:
        plan: the run.
        after: jobs that must end well before the first one starts, such as a tokenization.

    Raises:
        InputError: something is missing here (with ``after``, data may still come), or Slurm refuses a script.
    """
    if obstacles := [text for text in plan.obstacles if not (after and text == missing_data(plan.launch.config))]:
        raise InputError(f"not submitted: {'; '.join(obstacles)}")
    scripts = write_files(plan)
    for script in scripts.values():
        try_script(script)
    ids: dict[str, str] = {}
    before = tuple(after)
    for name, script in scripts.items():
        ids[name] = submit_script(script, before)
        before = (ids[name],)
    return ids


def _obstacles(config: Config, site: Site, *, has_data_later: bool) -> tuple[str, ...]:
    """Return what a job would fail on: data, tokenizer and checkpoints that are missing, and a wrong environment."""
    hf_home = None if site.hf_home is None else Path(site.hf_home)
    needed = [
        None if has_data_later else missing_data(config),
        missing_tokenizer(config, hf_home) if site.offline else None,
        missing_checkpoints(config),
    ]
    found = [text for text in needed if text is not None]
    if not (Path(site.venv) / "bin" / "activate").is_file():
        found.append(f"site file: venv {site.venv} has no bin/activate")
    if hf_home is not None and not hf_home.is_dir():
        found.append(f"site file: hf_home {site.hf_home} does not exist")
    return tuple(found)
