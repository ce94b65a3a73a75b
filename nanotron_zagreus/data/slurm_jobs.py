"""Remember which Slurm jobs were submitted for a folder of shards, and ask which of them have not ended.

The ids are kept in `logs/slurm_jobs.txt`, one a line. Nothing is submitted for a folder while one of its jobs is queued
or running: all arrays of a folder read the list of their tasks from one file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from nanotron_zagreus.errors import WorkError

_SQUEUE_SECONDS = 60


def jobs_file(output: Path) -> Path:
    """Return where the ids of the jobs submitted for the folder ``output`` are kept."""
    return output / "logs" / "slurm_jobs.txt"


def active_jobs(output: Path) -> list[str]:
    """Return the ids of the jobs submitted for the folder ``output`` that are queued or running.

    Raises:
        WorkError: squeue cannot say.
    """
    path = jobs_file(output)
    ids = path.read_text().split() if path.is_file() else []
    if not ids or shutil.which("squeue") is None:
        return []
    command = ["squeue", "--noheader", "--format=%F", f"--jobs={','.join(ids)}"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_SQUEUE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise WorkError(f"squeue: no answer about job {', '.join(ids)}; try again when Slurm answers") from error
    if asked.returncode and "invalid job id" not in asked.stderr.lower():  # what Slurm says of a job it has forgotten
        raise WorkError(f"squeue: cannot say whether job {', '.join(ids)} has ended: {asked.stderr.strip()}; try again")
    found = set(asked.stdout.split())
    return [job for job in ids if job in found]


def job_id_of(sbatch_output: str) -> str:
    """Return the job id in what sbatch prints; clusters add lines and words around it."""
    found = re.search(r"Submitted batch job (\d+)", sbatch_output) or re.search(r"^(\d+)(;|\s*$)", sbatch_output, re.M)
    if found is None:
        raise WorkError(f"sbatch: no job id in {sbatch_output!r}; look for the job with squeue")
    return found.group(1)


def record_job(path: Path, sbatch_output: str) -> str:
    """Return the job id in what sbatch prints, and add it to the file of ids."""
    job = job_id_of(sbatch_output)
    with path.open("a") as file:
        print(job, file=file)
    return job
