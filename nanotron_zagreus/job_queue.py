"""Read what Slurm's clients say: the job id in sbatch's answer, and which jobs have not ended."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from nanotron_zagreus.errors import WorkError

_JOB_ID = re.compile(r"([0-9]+)(;\S+)?|.*\bSubmitted batch job (?P<worded>[0-9]+)\b.*")
_SQUEUE_SECONDS = 60
_NARROWING = ("SQUEUE_", "SCANCEL_")


def job_id_in(text: str) -> str:
    """Return the job id in what sbatch printed, with --parsable or without, whatever a site prints around it.

    Raises:
        WorkError: there is no line `ID`, `ID;cluster` or `Submitted batch job ID`.
    """
    found = [match for line in text.splitlines() if (match := _JOB_ID.fullmatch(line.strip()))]
    if not found:
        raise WorkError(
            f"sbatch answered {text.strip()!r}, which holds no job id; look with squeue before trying again"
        )
    return found[-1]["worded"] or found[-1][1]


def run_client(
    command: Sequence[str],
    *,
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's clients and return what it printed.

    Args:
        text: what it reads.
        environment: None: this process's, without what narrows the jobs that squeue shows and scancel cancels
            (SQUEUE_STATES, SCANCEL_USER, … in their man pages).
        timeout: seconds; None: as long as it takes.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    if environment is None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_NARROWING)}
    return subprocess.run(
        command, input=text, env=environment, timeout=timeout, capture_output=True, encoding="utf-8", errors="replace",
        check=False,
    )  # fmt: skip


def unfinished_jobs(ids: Sequence[str]) -> list[str]:
    """Return those of ``ids`` that wait, run or are about to end; of an array its own id.

    Raises:
        WorkError: squeue does not say.
    """
    if not ids or shutil.which("squeue") is None:
        return []
    command = ["squeue", "--noheader", "--format=%F", f"--jobs={','.join(ids)}"]
    try:
        done = run_client(command, timeout=_SQUEUE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise WorkError(f"squeue: no answer about job {', '.join(ids)}; try again when Slurm answers") from error
    # Slurm forgets a job minutes after its end, and then calls its id invalid.
    if done.returncode and "invalid job id" not in done.stderr.lower():
        raise WorkError(f"squeue: cannot say whether job {', '.join(ids)} has ended: {done.stderr.strip()}; try again")
    shown = set(done.stdout.split())
    return [job for job in ids if job in shown]
