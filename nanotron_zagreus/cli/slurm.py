"""`zagreus slurm`: render, check and submit the jobs of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nanotron_zagreus.slurm.run_plan import Chain, RunPlan

ConfigFile = Annotated[str, typer.Option("--config-file", help="The training YAML, or a shipped config's name.")]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Nodes of the training job.")]
GpusPerNode = Annotated[int, typer.Option("--gpus-per-node", min=1, help="GPUs of each node; one rank each.")]
SiteFile = Annotated[Path | None, typer.Option("--site", help="Your cluster's file; default: slurm_site.yaml.")]
Folder = Annotated[Path | None, typer.Option("--output", help="Folder of scripts and logs; default: slurm_jobs/RUN.")]
Time = Annotated[str | None, typer.Option("--time", help="Time limit of a job, instead of the site's.")]
Rate = Annotated[
    float | None,
    typer.Option(
        "--tokens-per-second-per-gpu", help="For the estimate; default: this run's metrics, or an assumption."
    ),
]
Lead = Annotated[
    int | None, typer.Option("--lead", min=1, help="Seconds before the time limit to save; default: three saves.")
]
Tokenize = Annotated[
    list[str] | None,
    typer.Option(
        "--tokenize", help="INPUT=FOLDER[:COLUMN]: tokenize INPUT into a data folder of the YAML first; repeat."
    ),
]
Eos = Annotated[bool, typer.Option("--eos/--no-eos", help="For --tokenize: an end-of-text token (published: no).")]
Convert = Annotated[Path | None, typer.Option("--convert", help="Then convert every checkpoint into this folder.")]
Evaluate = Annotated[str | None, typer.Option("--evaluate", help="Then evaluate them with this suite.")]
Results = Annotated[Path, typer.Option("--results", help="For --evaluate: folder of the results.")]
Data = Annotated[Path | None, typer.Option("--data", help="For --evaluate: local copies of the data sets.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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


def render(
    config_file: ConfigFile,
    nodes: Nodes,
    gpus_per_node: GpusPerNode,
    site_file: SiteFile = None,
    job: Annotated[str, typer.Option("--job", help="train, tokenize, convert or evaluate.")] = "train",
    output: Folder = None,
    time: Time = None,
    rate: Rate = None,
    lead: Lead = None,
    tokenize: Tokenize = None,
    eos: Eos = False,
    convert: Convert = None,
    evaluate: Evaluate = None,
    results: Results = Path("results"),
    data: Data = None,
) -> None:
    """Print a job's script, filled in from the YAML and the site; nothing is written or submitted.

    Example: `zagreus slurm render --config-file smollm2/zagreus_350M_por.yaml --nodes 8 --gpus-per-node 8`
    """
    from nanotron_zagreus.errors import InputError

    chain = _chain(tokenize, eos, convert, evaluate, results, data)
    plan = _plan(config_file, nodes, gpus_per_node, site_file, output, time, rate, lead, chain)
    _say(plan)
    names = [each.name for each in plan.jobs]
    if job not in names:
        raise InputError(
            f"--job: got {job!r}, this run has {', '.join(names)}; --tokenize, --convert, --evaluate add jobs"
        )
    print(plan.script(job).text, end="")


def check(
    config_file: ConfigFile,
    nodes: Nodes,
    gpus_per_node: GpusPerNode,
    site_file: SiteFile = None,
    output: Folder = None,
    time: Time = None,
    rate: Rate = None,
    lead: Lead = None,
) -> None:
    """Check a launch without submitting: sizes, site, time, what is missing here, and Slurm's own opinion.

    Example: `zagreus slurm check --config-file smollm2/zagreus_350M_por.yaml --nodes 8 --gpus-per-node 8`
    """
    import tempfile

    from nanotron_zagreus.slurm.submission import has_slurm, try_script

    plan = _plan(config_file, nodes, gpus_per_node, site_file, output, time, rate, lead, None)
    _say(plan)
    if not has_slurm():
        _note("sbatch is not on this machine: Slurm itself was not asked")
        return
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch", encoding="utf-8") as file:
        file.write(plan.script("train").text)
        file.flush()
        print(f"Slurm accepts it: {try_script(Path(file.name))}")


def submit(
    config_file: ConfigFile,
    nodes: Nodes,
    gpus_per_node: GpusPerNode,
    site_file: SiteFile = None,
    output: Folder = None,
    time: Time = None,
    rate: Rate = None,
    lead: Lead = None,
    tokenize: Tokenize = None,
    eos: Eos = False,
    convert: Convert = None,
    evaluate: Evaluate = None,
    results: Results = Path("results"),
    data: Data = None,
    after: Annotated[
        list[str] | None, typer.Option("--after", help="Job that must end well first, such as a tokenization; repeat.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the scripts; write and submit nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a run: optionally tokenize, then train, then convert and evaluate every checkpoint, each after the other.

    The training saves before its time limit, requeues itself and goes on until the last step. `--dry-run` shows it.

    Example: `zagreus slurm submit --config-file smollm2/zagreus_350M_por.yaml --nodes 8 --gpus-per-node 8 --dry-run`
    """
    import json

    from nanotron_zagreus.slurm.run_plan import submit as submit_plan

    chain = _chain(tokenize, eos, convert, evaluate, results, data)
    plan = _plan(config_file, nodes, gpus_per_node, site_file, output, time, rate, lead, chain)
    _say(plan)
    if dry_run:
        for each in plan.jobs:
            print(f"######## {plan.launch.folder / each.name}.sbatch\n{each.text}")
        return
    ids = submit_plan(plan, after or ())
    if as_json:
        print(json.dumps({"folder": str(plan.launch.folder), "jobs": ids}, indent=1))
        return
    for name, job_id in ids.items():
        print(f"{name}: job {job_id}")
    _note(f"scripts and logs: {plan.launch.folder}; save and stop: touch {_stop_file(plan)}")


def _plan(
    config_file: str,
    nodes: int,
    gpus_per_node: int,
    site_file: Path | None,
    output: Path | None,
    time: str | None,
    rate: float | None,
    lead: int | None,
    chain: Chain | None,
) -> RunPlan:
    """Load configuration and site and plan the run."""
    import dataclasses

    from nanotron_zagreus.config import load_config
    from nanotron_zagreus.slurm.jobs import check_launch
    from nanotron_zagreus.slurm.run_plan import make_run_plan
    from nanotron_zagreus.slurm.site import load_site

    config = load_config(config_file)
    check_launch(config, nodes, gpus_per_node)
    cluster = load_site(site_file)
    if time is not None:
        cluster = dataclasses.replace(cluster, time_limit=time)
    folder = output or Path("slurm_jobs") / config.general.run.replace(" ", "-")
    return make_run_plan(
        config, cluster, nodes=nodes, gpus_per_node=gpus_per_node, folder=folder, chain=chain, rate=rate, lead=lead
    )


def _chain(
    tokenize: list[str] | None,
    eos: bool,
    convert: Path | None,
    evaluate: str | None,
    results: Path,
    data: Path | None,
) -> Chain:
    """Return the jobs around the training that the options name."""
    from nanotron_zagreus.errors import InputError
    from nanotron_zagreus.slurm.jobs import TextSource
    from nanotron_zagreus.slurm.run_plan import Chain

    sources = []
    for text in tokenize or ():
        source, equals, rest = text.partition("=")
        folder, _, column = rest.partition(":")
        if not (source and equals and folder):
            raise InputError(f"--tokenize: got {text!r}, expected INPUT=FOLDER or INPUT=FOLDER:COLUMN")
        sources.append(TextSource(input=source, output=Path(folder), text_column=column or "text"))
    return Chain(sources=tuple(sources), eos=eos, hf_folder=convert, suite=evaluate, results=results, data=data)


def _say(plan: RunPlan) -> None:
    """Tell a person what to expect, on stderr: stdout is the script's."""
    _note(f"{plan.launch.nodes} nodes x {plan.launch.gpus_per_node} GPUs; {plan.estimate.text()}")
    for text in (*plan.notices, *plan.obstacles):
        _note(f"notice {text}")


def _stop_file(plan: RunPlan) -> Path:
    from nanotron_zagreus.checkpoints.layout import STOP_FILE

    return plan.launch.work_folder / plan.launch.config.checkpoints.checkpoints_path / STOP_FILE


def _note(text: str) -> None:
    typer.echo(text, err=True)
