"""Run a tokenization's tasks as a Slurm job array, through datatrove's own Slurm executor."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from datatrove.executor import SlurmPipelineExecutor

from nanotron_zagreus.data.slurm_jobs import SubmittedJobs, active_jobs, jobs_file
from nanotron_zagreus.data.tokenization import forget_lost_shards, make_pipeline
from nanotron_zagreus.data.tokenization_plan import Preparation
from nanotron_zagreus.errors import InputError, WorkError
from nanotron_zagreus.job_queue import job_id_in

_NOT_IN_A_SCRIPT = re.compile(r"[^\w@+=:,./-]")
"""What datatrove's script, which quotes nothing, or Slurm, which replaces %, would not take literally in a path."""


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


class _Array(SlurmPipelineExecutor):
    """datatrove's executor; nobody is to wait for its job that adds up statistics, which a failed task keeps queued."""

    def launch_merge_stats(self) -> None:
        """Submit that job without recording its id."""
        self.job_id_retriever = job_id_in
        super().launch_merge_stats()


def submit_to_slurm(prepared: Preparation, options: SlurmOptions, *, workers: int | None = None) -> str | None:
    """Submit what is missing; return the ids of all arrays, joined by colons as --dependency=afterok: takes them.

    None when nothing is missing.

    Args:
        workers: tasks that may run at a time; None: as many as Slurm starts.

    Raises:
        InputError: this machine has no sbatch, the folder's name cannot stand in a script, or jobs submitted before
            have not ended.
        WorkError: sbatch refused the job, or squeue cannot say which jobs have ended.
    """
    if shutil.which("sbatch") is None:
        raise InputError("--executor: got slurm, but there is no sbatch here; run it on a login node, or use local")
    output = prepared.job.output
    if _NOT_IN_A_SCRIPT.search(str(output.resolve())):
        raise InputError(
            f"--output: {str(output.resolve())!r} holds a space or another sign that datatrove's job script would not "
            "take literally; give a folder of letters, digits and . _ - / alone"
        )
    active = active_jobs(output)
    if active:
        raise InputError(
            f"--output: job {', '.join(active)} of an earlier submission for {output} is queued or running; see how "
            f"far it is with `zagreus tokenize --output {output} --status`; submit again when it has ended, or after "
            f"`scancel {' '.join(active)}`"
        )
    forget_lost_shards(prepared)
    submitted = SubmittedJobs(jobs_file(output.resolve()))
    executor = _Array(
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
        env_command=options.env_command or _this_environment(options.cpus_per_task),
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
    return ":".join(submitted.ids) or None


def _this_environment(num_threads: int) -> str:
    """Return the shell line that puts this Python first, since datatrove's job calls a command by its name.

    Without its second half tokenizers would start a thread for every core of the node.
    """
    path = f"{shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    return f"export PATH={path} RAYON_NUM_THREADS=${{RAYON_NUM_THREADS:-{num_threads}}}"
