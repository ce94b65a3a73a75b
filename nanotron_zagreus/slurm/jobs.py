"""Turn a configuration and a site into the scripts of a run: train, then convert, then evaluate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanotron_zagreus.arithmetic import count_parameters
from nanotron_zagreus.config import Config, dump_config
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.slurm.duration import RunEstimate
from nanotron_zagreus.slurm.site import Site, seconds_of_time_limit
from nanotron_zagreus.slurm.template import fill, read_template

AUTO = Path("auto")
_CONVERT_CPUS = 4
_CONVERT_GIGABYTES = 16
"""At least, as the template has it; half is for torch, transformers and the largest tensors, beside the weights."""
_CONVERT_LEAD_SECONDS = 300
_EVALUATE_CPUS = 8


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
class TextSource:
    """Text to tokenize into one of the configuration's data folders."""

    input: str
    output: Path
    text_column: str = "text"

    @classmethod
    def parse(cls, text: str) -> TextSource:
        """Read `INPUT=FOLDER[:COLUMN]`; the input may hold `=` itself, as in `corpus/lang=pt`."""
        source, _, rest = text.rpartition("=")
        folder, _, column = rest.partition(":")
        if not (source and folder):
            raise InputError(f"--tokenize: got {text!r}, expected INPUT=FOLDER or INPUT=FOLDER:COLUMN")
        return cls(input=source, output=Path(folder), text_column=column or "text")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Which jobs stand around the training."""

    sources: tuple[TextSource, ...] = ()
    """Text to tokenize first; none: the shards are there."""
    eos: bool = False
    """Whether the tokenization writes an end-of-text token after each document."""
    max_failures: int = 0
    """Documents of a source that may be unreadable and left out; more are a failure."""
    hf_folder: Path | None = None
    """Where converted checkpoints go; None: no conversion."""
    convert_options: str = ""
    """More options of `zagreus convert`, divided by spaces."""
    suite: str | None = None
    """What to evaluate them with; None: no evaluation."""
    evaluate_options: str = ""
    """More options of `zagreus evaluate`, divided by spaces."""
    results: Path = Path("results")
    data: Path | None = None
    """Local copies of the evaluation's data sets."""
    after: tuple[str, ...] = ()
    """Jobs that must end well before the first one starts, such as a tokenization."""


@dataclass(frozen=True, kw_only=True)
class JobScript:
    """One job: its script and what it is called."""

    name: str
    text: str


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
        "CONFIG": str(launch.config_file),
        "LOGS": str(launch.folder / "logs"),
    }
    return _script(launch, "train", directives, variables)


def convert_script(launch: Launch, chain: Chain) -> JobScript:
    """Return the job that converts every checkpoint of the run that has no Hugging Face folder yet."""
    variables = {
        "HF_CHECKPOINTS": str(chain.hf_folder),
        "CONVERT_OPTIONS": chain.convert_options,
        "CONFIG": str(launch.config_file),
    }
    seconds = seconds_of_time_limit(launch.site.time_limit_without_gpus)
    directives: dict[str, str | None] = {
        "cpus-per-task": str(min(_CONVERT_CPUS, launch.site.cpus_without_gpus)),
        "signal": f"B:USR1@{min(_CONVERT_LEAD_SECONDS, seconds // 4)}",
    }
    directives["mem"] = None if launch.site.has_memory_without_gpus else _conversion_memory(launch.config)
    return _script(launch, "convert", directives | _without_gpus(launch.site), variables)


def _conversion_memory(config: Config) -> str:
    """Return what a conversion asks for: the weights in fp32, twice while it is verified, and as much as is always."""
    num_parameters = count_parameters(config.model.model_config, config.padded_vocab_size).total
    return f"{max(_CONVERT_GIGABYTES, _CONVERT_GIGABYTES // 2 + math.ceil(2 * 4 * num_parameters / 1e9))}G"


def evaluate_script(launch: Launch, chain: Chain) -> JobScript:
    """Return the job that evaluates every converted checkpoint with the chain's suite."""
    variables = {
        "HF_CHECKPOINTS": str(chain.hf_folder),
        "SUITE": chain.suite or "",
        "RESULTS": str(chain.results),
        "DATA": "" if chain.data is None else str(chain.data),
        "EVALUATE_OPTIONS": chain.evaluate_options,
    }
    directives = {"gres": launch.site.gres(1), "cpus-per-task": str(min(_EVALUATE_CPUS, launch.site.cpus_per_node))}
    return _script(launch, "evaluate", directives, variables)


def tokenize_script(launch: Launch, chain: Chain) -> JobScript:
    """Return the job array that tokenizes the chain's sources, one element each."""
    site = launch.site
    directives = {
        "array": f"0-{len(chain.sources) - 1}",
        "cpus-per-task": str(site.cpus_without_gpus),
        "output": str(launch.folder / "logs" / "%x-%A_%a.log"),
        **_without_gpus(site),
    }
    variables = {
        "SOURCES": str(launch.sources_file),
        "TOKENIZER": launch.config.tokenizer.tokenizer_name_or_path,
        "SPECIAL_TOKENS": "--bos --eos" if chain.eos else "--bos --no-eos",
        "MAX_FAILURES": str(chain.max_failures),
    }
    return _script(launch, "tokenize", directives, variables)


def sources_text(sources: Sequence[TextSource]) -> str:
    """Return the table that the tokenization array reads, one line each."""
    return "".join(f"{source.input}\t{source.output}\t{source.text_column}\n" for source in sources)


def _without_gpus(site: Site) -> dict[str, str | None]:
    """Return the directives of a job that needs no GPU."""
    return {"partition": site.partition_without_gpus, "time": site.time_limit_without_gpus}


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
        "HF_CACHE": site.hf_home or "",
        "OFFLINE": str(int(site.offline)),
        "MAX_REQUEUES": str(site.max_requeues),
    }
    more = [f"--chdir={launch.work_folder}", *site.directives_of(job)]
    text = fill(read_template(job), {**common, **directives}, {**shared, **variables}, more)
    return JobScript(name=job, text=text)
