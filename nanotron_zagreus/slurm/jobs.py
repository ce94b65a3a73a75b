"""Turn a configuration and a site into the scripts of a run: train, then convert, then evaluate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanotron_zagreus.config import Config, dump_config
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.slurm.duration import RunEstimate
from nanotron_zagreus.slurm.site import Site
from nanotron_zagreus.slurm.template import fill, read_template

AUTO = Path("auto")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where and how large a run is launched."""

    config: Config
    site: Site
    nodes: int
    gpus_per_node: int
    folder: Path
    """Absolute; holds the scripts, the configuration they run, and the logs."""
    work_folder: Path
    """Absolute; where relative paths of the configuration start."""

    @property
    def config_file(self) -> Path:
        """The configuration that the jobs read; later edits of the user's file do not reach a queued job."""
        return self.folder / "config.yaml"

    @property
    def sources_file(self) -> Path:
        """The table of sources that a tokenization array reads."""
        return self.folder / "sources.tsv"


@dataclass(frozen=True, kw_only=True)
class JobScript:
    """One job: its script and what it is called."""

    name: str
    text: str


def check_launch(config: Config, nodes: int, gpus_per_node: int) -> None:
    """Refuse a number of GPUs that is not dp x tp x pp, and a resume that a requeue could not repeat."""
    parallelism = config.parallelism
    if nodes * gpus_per_node != parallelism.world_size:
        raise InputError(
            f"--nodes x --gpus-per-node = {nodes} x {gpus_per_node} = {nodes * gpus_per_node} ranks, but "
            f"dp x tp x pp = {parallelism.dp} x {parallelism.tp} x {parallelism.pp} = {parallelism.world_size}; "
            f"launch as many GPUs, or {_advice_for_ranks(config, nodes * gpus_per_node)}"
        )
    resume, own = config.checkpoints.resume_checkpoint_path, config.checkpoints.checkpoints_path
    if resume not in (None, AUTO, own):
        raise InputError(
            f"checkpoints.resume_checkpoint_path: got {resume}, but a requeued job goes on from its own "
            f"checkpoints_path {own}; set it to auto, or start from other weights with model.init_method.path"
        )


def check_folders(*folders: Path) -> None:
    """Refuse folders whose names Slurm would not take literally."""
    for folder in folders:
        if any(character in str(folder) for character in "\"'\\%\n\r"):
            raise InputError(
                f"folder {str(folder)!r}: quotes, backslashes and % mean something to Slurm; submit from another folder"
            )


def config_text(launch: Launch) -> str:
    """Return the configuration that the jobs run: the user's, resuming by itself from its own checkpoints."""
    checkpoints = dataclasses.replace(launch.config.checkpoints, resume_checkpoint_path=AUTO)
    return dump_config(dataclasses.replace(launch.config, checkpoints=checkpoints))


def train_script(launch: Launch, estimate: RunEstimate) -> JobScript:
    """Return the training job."""
    site = launch.site
    directives = {
        "nodes": str(launch.nodes),
        "gres": site.gres(launch.gpus_per_node),
        "cpus-per-task": str(site.cpus_per_node),
        "signal": f"B:USR1@{estimate.lead_seconds}",
    }
    variables = {
        "NETWORK_INTERFACE": site.network_interface or "",
        "MAX_REQUEUES": str(site.max_requeues),
        "CONFIG": str(launch.config_file),
        "LOGS": str(launch.folder / "logs"),
    }
    return _script(launch, "train", directives, variables)


def convert_script(launch: Launch, hf_folder: Path) -> JobScript:
    """Return the job that converts every checkpoint of the run that has no Hugging Face folder yet."""
    variables = {"HF_CHECKPOINTS": str(hf_folder), "CONFIG": str(launch.config_file)}
    return _script(launch, "convert", {"partition": launch.site.partition_without_gpus}, variables)


def evaluate_script(launch: Launch, hf_folder: Path, suite: str, results: Path, data: Path | None) -> JobScript:
    """Return the job that evaluates every converted checkpoint with ``suite``."""
    variables = {
        "HF_CHECKPOINTS": str(hf_folder),
        "SUITE": suite,
        "RESULTS": str(results),
        "DATA": "" if data is None else str(data),
        "MAX_REQUEUES": str(launch.site.max_requeues),
    }
    return _script(launch, "evaluate", {"gres": launch.site.gres(1)}, variables)


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """Text to tokenize into one of the configuration's data folders."""

    input: str
    output: Path
    text_column: str = "text"


def tokenize_script(launch: Launch, sources: Sequence[TextSource], *, eos: bool) -> JobScript:
    """Return the job array that tokenizes ``sources``, one element each.

    Raises:
        InputError: an output is no data folder of the configuration, or a name cannot stand in a line.
    """
    folders = [folder for stage in launch.config.data_stages for folder in stage.data.dataset.folders]
    for source in sources:
        if source.output not in folders:
            raise InputError(
                f"--tokenize: {source.output} is none of the configuration's data folders; "
                f"expected one of {', '.join(map(str, dict.fromkeys(folders)))}"
            )
        if any(character in f"{source.input}{source.output}{source.text_column}" for character in "\t\n\r"):
            raise InputError(f"--tokenize: {source.input!r} holds a tab or a line break; rename it")
    site = launch.site
    directives = {
        "array": f"0-{len(sources) - 1}",
        "cpus-per-task": str(site.cpus_per_node),
        "partition": site.partition_without_gpus,
        "output": str(launch.folder / "logs" / "%x-%A_%a.log"),
    }
    variables = {
        "SOURCES": str(launch.sources_file),
        "TOKENIZER": launch.config.tokenizer.tokenizer_name_or_path,
        "SPECIAL_TOKENS": "--bos --eos" if eos else "--bos --no-eos",
        "MAX_REQUEUES": str(site.max_requeues),
    }
    return _script(launch, "tokenize", directives, variables)


def sources_text(sources: Sequence[TextSource]) -> str:
    """Return the table that the tokenization array reads, one line each."""
    return "".join(f"{source.input}\t{source.output}\t{source.text_column}\n" for source in sources)


def _advice_for_ranks(config: Config, ranks: int) -> str:
    """Return what to change so that ``ranks`` GPUs train the same global batch, where that is possible."""
    parallelism, tokens = config.parallelism, config.tokens
    dp, rest = divmod(ranks, parallelism.tp * parallelism.pp)
    if rest or dp == 0:
        return f"as many as tp x pp = {parallelism.tp} x {parallelism.pp} divides, with parallelism.dp to match"
    accumulation, rest = divmod(config.samples_per_step, dp * tokens.micro_batch_size)
    if rest or accumulation == 0:
        return f"set parallelism.dp to {dp} (another global batch: {config.samples_per_step} samples do not divide)"
    return (
        f"set parallelism.dp to {dp} and tokens.batch_accumulation_per_replica to {accumulation}, "
        f"which keeps the global batch of {config.samples_per_step} samples"
    )


def _script(launch: Launch, job: str, directives: Mapping[str, str | None], variables: Mapping[str, str]) -> JobScript:
    """Fill the template of ``job`` with the site's values and the job's own."""
    site = launch.site
    common = {
        "job-name": f"{launch.config.general.run.replace(' ', '-')}-{job}",
        "account": site.account,
        "partition": site.partition,
        "time": site.time_limit,
        "output": str(launch.folder / "logs" / "%x-%j.log"),
    }
    shared = {
        "MODULES": " ".join(site.modules),
        "VENV": site.venv,
        "HF_HOME": site.hf_home or "",
        "OFFLINE": str(int(site.offline)),
    }
    more = [f"--chdir={launch.work_folder}", *site.directives]
    text = fill(read_template(job), {**common, **directives}, {**shared, **variables}, more)
    return JobScript(name=job, text=text)
