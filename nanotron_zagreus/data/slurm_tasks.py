"""Run a tokenization's tasks as a Slurm job array, through datatrove's own Slurm executor."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from nanotron_zagreus.data.tokenization import forget_lost_shards, make_pipeline
from nanotron_zagreus.data.tokenization_plan import Preparation
from nanotron_zagreus.errors import InputError, WorkError
from nanotron_zagreus.job_queue import job_id_in


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Where and how the array runs."""

    partition: str
    time: str = "20:00:00"
    """Limit of each task; a task that exceeds it is done again from its start."""
    cpus_per_task: int = 1
    memory_per_cpu_gb: int = 4
    qos: str = ""
    max_array_size: int = 1001
    """The cluster's MaxArraySize; more tasks become several arrays."""
    env_command: str | None = None
    """Shell line run before each task; None: the environment of this command."""
    sbatch_options: dict[str, str] = field(default_factory=dict)
    """Further options of sbatch without their dashes, such as account."""


def submit_to_slurm(prepared: Preparation, options: SlurmOptions, *, workers: int | None = None) -> str | None:
    """Submit what is missing; return the ids of all arrays, joined by colons as --dependency=afterok: takes them.

    None when nothing is missing.

    Args:
        workers: tasks that may run at a time; None: as many as Slurm starts.

    Raises:
        InputError: this machine has no sbatch.
        WorkError: sbatch refused the job.
    """
    import subprocess

    from datatrove.executor import SlurmPipelineExecutor

    if shutil.which("sbatch") is None:
        raise InputError("--executor: got slurm, but there is no sbatch here; run it on a login node, or use local")
    forget_lost_shards(prepared)
    submitted = _SubmittedJobs()
    executor = SlurmPipelineExecutor(
        make_pipeline(prepared, parallel=options.cpus_per_task > 1),
        tasks=prepared.num_tasks,
        time=options.time,
        partition=options.partition,
        workers=workers or -1,
        cpus_per_task=options.cpus_per_task,
        mem_per_cpu_gb=options.memory_per_cpu_gb,
        qos=options.qos,
        max_array_size=options.max_array_size,
        job_name="zagreus-tokenize",
        env_command=options.env_command or _this_environment(),
        # datatrove's job that adds up statistics waits for the last array, for ever if a task of it fails.
        sbatch_args={"kill-on-invalid-dep": "yes", **options.sbatch_options},
        job_id_retriever=submitted,
        logging_dir=str(prepared.logs.resolve()),
        mail_user=None,
    )
    try:
        executor.run()
    except subprocess.CalledProcessError as error:
        raise WorkError(f"sbatch refused the job (exit code {error.returncode}); see its message above") from error
    arrays = submitted.ids[:-1]  # the last one adds up statistics
    return ":".join(arrays) or None


class _SubmittedJobs:
    """Reads the id in sbatch's answers and remembers every one; datatrove keeps the last array's only."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def __call__(self, sbatch_output: str) -> str:
        self.ids.append(job_id_in(sbatch_output))
        return self.ids[-1]


def _this_environment() -> str:
    """Return the shell line that puts this Python first, since datatrove's job calls a command by its name."""
    return f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
