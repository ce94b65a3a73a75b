"""Speak with Slurm's clients: try a script, submit it behind others, cancel jobs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nanotron_zagreus.errors import InputError, WorkError
from nanotron_zagreus.job_queue import job_id_in, run_client
from nanotron_zagreus.slurm.jobs import JobScript

_NO_ANSWER = (
    "unable to contact slurm controller",
    "socket timed out",
    "could not establish a configuration source",
    "communication connection failure",
    "backup controller in standby mode",
    "zero bytes were transmitted or received",
    "protocol authentication error",
    "munge encode failed",
)
"""What Slurm's clients print where the controller has not judged the job (slurm_strerror in common/slurm_errno.c)."""
_OPTION_OF = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_GRES": "gres",
    "SBATCH_JOB_NAME": "job-name",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_NO_REQUEUE": "requeue",
    "SBATCH_OPEN_MODE": "open-mode",
    "SBATCH_OUTPUT": "output",
    "SBATCH_PARTITION": "partition",
    "SBATCH_SIGNAL": "signal",
    "SBATCH_TIMELIMIT": "time",
}
"""Variables by which sbatch overrules a script (man sbatch, INPUT ENVIRONMENT VARIABLES), and the options they are."""


def has_slurm() -> bool:
    """Say whether sbatch is here."""
    return shutil.which("sbatch") is not None


def require_slurm() -> None:
    """Refuse to go on without sbatch."""
    if not has_slurm():
        raise InputError("sbatch: not found on this machine; run `zagreus slurm submit` on a login node of the cluster")


def try_script(job: JobScript) -> str:
    """Return what `sbatch --test-only` says about a script: when and where it would start. Nothing is written.

    Raises:
        InputError: Slurm would refuse it.
        WorkError: Slurm does not answer, so that it has refused nothing.
    """
    done = _sbatch(["--test-only"], job.text)
    text = " ".join((done.stderr + done.stdout).split())
    if done.returncode and any(sign in text.lower() for sign in _NO_ANSWER):
        raise WorkError(f"{job.name} job: Slurm could not be asked: {text}; try again when `sinfo` answers")
    if done.returncode:
        raise InputError(
            f"{job.name} job: Slurm refuses it: {text}; compare the site file with `sinfo` and `scontrol show node`"
        )
    return text.removeprefix("sbatch: ")


def submit_script(script: Path, after: Sequence[str] = ()) -> str:
    """Submit a script and return its job id.

    Args:
        script: a filled template.
        after: jobs that must end well first; when one does not, this one is cancelled.

    Raises:
        WorkError: Slurm refused, or answered something that holds no job id.
    """
    options = ["--parsable"]
    if after:
        options += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
    done = _sbatch([*options, str(script)], script.read_text(encoding="utf-8"))
    if done.returncode:
        raise WorkError(f"{script}: sbatch failed: {' '.join(done.stderr.split())}")
    return job_id_in(done.stdout)


def cancel_jobs(ids: Sequence[str]) -> bool:
    """Cancel jobs, those that are chained last first; say whether Slurm took it."""
    return run_client(["scancel", *reversed(ids)]).returncode == 0


def _sbatch(arguments: list[str], script: str) -> subprocess.CompletedProcess[str]:
    """Run sbatch on a script, which it gets as input unless a file is named; what the script says holds."""
    require_slurm()
    said = set(re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE))
    environment = {name: value for name, value in os.environ.items() if _OPTION_OF.get(name) not in said}
    return run_client(["sbatch", *arguments], text=script, environment=environment)
