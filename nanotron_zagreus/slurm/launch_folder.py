"""The folder of a run's jobs: scripts, the configuration they read, logs, and which jobs were submitted from it.

Jobs read the folder when they start, which may be days after their submission. It is therefore never written while one
of its jobs has not ended; that is also what keeps two jobs from training into one folder of checkpoints.
"""

from __future__ import annotations

import json
from pathlib import Path

from nanotron_zagreus.checkpoints.layout import replace_durably
from nanotron_zagreus.errors import InputError, WorkError
from nanotron_zagreus.job_queue import unfinished_jobs
from nanotron_zagreus.slurm.run_plan import RunPlan
from nanotron_zagreus.slurm.submission import cancel_jobs, submit_script, try_script

JOBS_FILE = "jobs.json"
"""Job name -> job id of the last submission."""


def submit(plan: RunPlan) -> dict[str, str]:
    """Try every script, write everything, submit the jobs as a chain; return job name -> job id.

    Raises:
        InputError: something is missing here, jobs of an earlier submission have not ended, or Slurm refuses a script.
        WorkError: Slurm took the first jobs and refused a later one; those it took were cancelled.
    """
    if plan.obstacles:
        raise InputError(f"not submitted: {'; '.join(plan.obstacles)}")
    refuse_while_queued(plan.launch.folder)
    for job in plan.jobs:
        try_script(job)
    scripts = write_files(plan)
    ids: dict[str, str] = {}
    before = plan.after
    for name, script in scripts.items():
        try:
            ids[name] = submit_script(script, before)
        except WorkError as error:
            raise WorkError(f"{error}{_take_back(ids)}") from error
        _record(plan.launch.folder, ids)
        before = (ids[name],)
    return ids


def write_files(plan: RunPlan) -> dict[str, Path]:
    """Write scripts, configuration and the log folder; return job name -> script.

    Raises:
        InputError: jobs that read the folder have not ended.
    """
    folder = plan.launch.folder
    refuse_while_queued(folder)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for path, text in plan.files.items():
        path.write_text(text, encoding="utf-8")
    scripts = {job.name: folder / f"{job.name}.sbatch" for job in plan.jobs}
    for job in plan.jobs:
        scripts[job.name].write_text(job.text, encoding="utf-8")
    return scripts


def refuse_while_queued(folder: Path) -> None:
    """Refuse to touch a folder whose jobs have not ended.

    Raises:
        InputError: naming them; or what was submitted cannot be read.
        WorkError: Slurm does not say whether they have.
    """
    known = _submitted(folder / JOBS_FILE)
    waiting = unfinished_jobs(list(known.values()))
    if not waiting:
        return
    named = ", ".join(f"{name} {job}" for name, job in known.items() if job in waiting)
    raise InputError(
        f"{folder}: the jobs submitted from it have not ended ({named}), and read its configuration; wait for them, or "
        f"cancel them with `scancel {' '.join(waiting)}`"
    )


def _submitted(path: Path) -> dict[str, str]:
    """Return the jobs that were last submitted, as ``path`` says."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {name: f"{int(job)}" for name, job in known.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path}: not readable as the jobs of a submission ({error}); see with `squeue --me` that none of them is "
            "queued or running, then remove the file"
        ) from error


def _record(folder: Path, ids: dict[str, str]) -> None:
    """Write down what was submitted, after every job: an interruption loses none."""
    replace_durably(folder / JOBS_FILE, (json.dumps(ids, indent=1) + "\n").encode())


def _take_back(ids: dict[str, str]) -> str:
    """Cancel the jobs of a chain that could not be completed, and say what became of them."""
    if not ids:
        return ""
    named = ", ".join(f"{name} {job}" for name, job in ids.items())
    if cancel_jobs(list(ids.values())):
        return f"; the jobs before it ({named}) were cancelled: submit the chain again"
    return f"; the jobs before it ({named}) are still queued: cancel them with `scancel {' '.join(ids.values())}`"
