"""What differs between clusters: one small YAML file per site, used by every job."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

from nanotron_zagreus.config.loading import load_section
from nanotron_zagreus.config.rules import at_least, written_out
from nanotron_zagreus.errors import InputError, MissingInputError

DEFAULT_SITE_FILE = Path("slurm_site.yaml")

_OF_WHOLE_NODES = ("--exclusive", "--nodelist", "--nodefile", "--contiguous", "--switches")
_OF_GPUS = ("--mem-per-gpu", "--cpus-per-gpu", "--gpu-bind", "--gpu-freq")
_OF_MEMORY = ("--mem", "--mem-per-cpu", "--mem-per-gpu")
_SET_ELSEWHERE = {
    "--account": "account",
    "--partition": "partition or cpu_partition",
    "--time": "time_limit or cpu_time_limit",
    "--gres": "gpu_type",
    "--cpus-per-task": "cpus_per_node or cpu_partition_cores",
    "--nodes": "`zagreus slurm submit --nodes`",
    "--gpus-per-node": "`zagreus slurm submit --gpus-per-node`",
    "--output": "`zagreus slurm submit --output`",
    "--signal": "`zagreus slurm submit --lead`",
    "--array": "every script itself",
    "--chdir": "every script itself",
    "--job-name": "every script itself",
    "--no-requeue": "every script itself",
    "--ntasks-per-node": "every script itself",
    "--open-mode": "every script itself",
}
"""Options that the scripts have already, and what sets them: a second one would win unnoticed."""
_UNSET = re.compile(r"YOUR_|/path/to\b")
_TIME = re.compile(r"(?:(?P<days>[0-9]+)-)?(?P<first>[0-9]+)(?::(?P<second>[0-9]+))?(?::(?P<third>[0-9]+))?")
_ONE_LINE = re.compile(r"[^\n\r\0]*")


@dataclass(frozen=True, kw_only=True)
class Site:
    """One cluster; `slurm/site.yaml` shows every key. A null says that the cluster needs no such value."""

    account: str | None
    partition: str | None
    """Where the GPUs are."""
    cpu_partition: str | None = None
    """Where jobs without a GPU run (tokenize, convert); null: as the others."""
    cpu_partition_cores: int | None = None
    """Cores of a node of cpu_partition; null: cpus_per_node."""
    time_limit: str
    """Longest run time of a job, as Slurm writes it: days-hours:minutes:seconds."""
    cpu_time_limit: str | None = None
    """The same for jobs without a GPU; null: time_limit."""
    venv: str
    """Virtual environment with this project, seen by all nodes."""
    hf_home: str | None
    """Hugging Face cache, seen by all nodes; null: the user's own."""
    modules: tuple[str, ...] = ()
    """Environment modules to load first."""
    network_interface: str | None = None
    """Interfaces between the nodes for NCCL and gloo, such as ib0, or ib0,ib1; null: they look for themselves."""
    offline: bool = True
    """Whether compute nodes have no internet."""
    cpus_per_node: int = 32
    gpu_type: str | None = None
    """Type in --gres=gpu:TYPE:N, where the cluster has several."""
    max_requeues: int = 20
    """Time limits that one job may use up."""
    directives: tuple[str, ...] = ()
    """Further #SBATCH options of every job, such as --qos=high; those that choose whole nodes, such as --exclusive and
    --nodelist, are the training's alone."""
    cpu_directives: tuple[str, ...] | None = None
    """The same for jobs without a GPU; null: directives."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                self._check_text(field.name, text)
        if self.network_interface is not None and not re.fullmatch(r"[\w.:-]+(,[\w.:-]+)*", self.network_interface):
            raise InputError(
                f"network_interface: got {self.network_interface!r}, expected names, such as ib0 or ib0,ib1; NCCL "
                "would take patterns, gloo does not"
            )
        at_least("cpus_per_node", self.cpus_per_node, 1)
        at_least("max_requeues", self.max_requeues, 0)
        if self.cpu_partition_cores is not None:
            at_least("cpu_partition_cores", self.cpu_partition_cores, 1)
        written_out("venv", self.venv)
        written_out("hf_home", self.hf_home or "")
        seconds_of_time_limit(self.time_limit)
        if self.cpu_time_limit is not None:
            seconds_of_time_limit(self.cpu_time_limit, "cpu_time_limit")
        self._check_directives("directives", self.directives)
        self._check_directives("cpu_directives", self.cpu_directives or ())

    @property
    def partition_without_gpus(self) -> str | None:
        """The partition of jobs that need no GPU."""
        return self.cpu_partition or self.partition

    @property
    def time_limit_without_gpus(self) -> str:
        """The time limit of jobs that need no GPU."""
        return self.cpu_time_limit or self.time_limit

    @property
    def cpus_without_gpus(self) -> int:
        """The cores of a node where jobs run that need no GPU."""
        return self.cpu_partition_cores or self.cpus_per_node

    @property
    def has_memory_without_gpus(self) -> bool:
        """Whether cpu_directives name a memory, which replaces that of the conversion."""
        return any(text.partition("=")[0] in _OF_MEMORY for text in self.directives_of("convert"))

    def directives_of(self, job: str) -> list[str]:
        """Return the site's further options of ``job``: train, tokenize, convert or evaluate.

        A conversion has a memory of its own, which Slurm takes in one form only, unless cpu_directives name one.
        """
        without_gpus = job in ("tokenize", "convert")
        own = self.cpu_directives if without_gpus else None
        left_out = {
            *(() if job == "train" or own is not None else _OF_WHOLE_NODES),
            *(_OF_GPUS if without_gpus else ()),
            *(_OF_MEMORY if job == "convert" and own is None else ()),
        }
        directives = self.directives if own is None else own
        return [text for text in directives if text.partition("=")[0] not in left_out]

    def gres(self, num_gpus: int) -> str:
        """Return the value of --gres for ``num_gpus`` GPUs of a node."""
        return ":".join(filter(None, ("gpu", self.gpu_type, str(num_gpus))))

    @staticmethod
    def _check_directives(name: str, directives: tuple[str, ...]) -> None:
        for directive in directives:
            if not re.fullmatch(r"--[a-z][\w-]*(=\S+)?", directive):
                raise InputError(f"{name}: got {directive!r}, expected an sbatch option such as --exclusive")
            option = directive.partition("=")[0]
            owner = _SET_ELSEWHERE.get(option)
            is_free = name == "cpu_directives" and option == "--gres"  # such as a disk: those scripts ask for no GPU
            if owner is not None and not is_free:
                raise InputError(f"{name}: got {directive!r}, but {owner} decides that; leave it out here")

    @staticmethod
    def _check_text(name: str, text: object) -> None:
        if not isinstance(text, str):
            return
        if not text.strip() or not _ONE_LINE.fullmatch(text):
            raise InputError(f"{name}: got {text!r}, expected one line of text, or null where the cluster needs none")
        if _UNSET.search(text):
            raise InputError(f"{name}: got {text!r}, still unset; write your cluster's value")


def load_site(path: Path | None) -> Site:
    """Return the site of the YAML file ``path``, by default `slurm_site.yaml` in the current folder.

    Raises:
        MissingInputError: there is no such file.
        InputError: something in it is wrong or still unset.
    """
    file = path or DEFAULT_SITE_FILE
    if not file.is_file():
        raise MissingInputError(
            f"site file {str(file)!r} does not exist; write one with `zagreus slurm site > {DEFAULT_SITE_FILE}`, "
            "fill it in, and name it with --site if it lies elsewhere"
        )
    return load_section(Site, file)


def seconds_of_time_limit(text: str, field: str = "time_limit") -> int:
    """Return a Slurm time limit in seconds: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S (man sbatch, --time).

    Raises:
        InputError: it is none of these, or no time at all.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{field}: got {text!r}, expected Slurm's form days-hours:minutes:seconds, such as 4-00:00:00")
    first, second, third = (int(match[name] or 0) for name in ("first", "second", "third"))
    if match["days"] is not None:
        seconds = ((int(match["days"]) * 24 + first) * 60 + second) * 60 + third
    elif match["third"] is not None:
        seconds = (first * 60 + second) * 60 + third
    else:
        seconds = first * 60 + second
    if seconds == 0:
        raise InputError(f"{field}: got {text!r}, which is no time at all or unlimited; give the limit of a job")
    return seconds
