"""Remember which Slurm jobs were submitted for a folder of shards, and ask which of them have not ended.

The ids are kept in `logs/slurm_jobs.txt`, one a line. Nothing is submitted for a folder while one of its jobs is queued
or running: all arrays of a folder read the list of their tasks from one file.
"""

from __future__ import annotations

from pathlib import Path

from nanotron_zagreus.job_queue import job_id_in, unfinished_jobs


def jobs_file(output: Path) -> Path:
    """Return where the ids of the jobs submitted for the folder ``output`` are kept."""
    return output / "logs" / "slurm_jobs.txt"


def active_jobs(output: Path) -> list[str]:
    """Return the ids of the jobs submitted for the folder ``output`` that are queued or running.

    Raises:
        WorkError: squeue cannot say.
    """
    path = jobs_file(output)
    return unfinished_jobs(path.read_text(encoding="utf-8").split() if path.is_file() else [])


class SubmittedJobs:
    """Reads the id in sbatch's answers and records every one; datatrove keeps the last array's only."""

    def __init__(self, path: Path) -> None:
        """Prepare.

        Args:
            path: the file that ids are added to.
        """
        self._path = path
        self.ids: list[str] = []

    def __call__(self, sbatch_output: str) -> str:
        job = job_id_in(sbatch_output)
        self.ids.append(job)
        with self._path.open("a", encoding="utf-8") as file:
            print(job, file=file)
        return job
