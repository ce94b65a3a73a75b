"""Speak with Slurm's clients: try a script, submit it, chain jobs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nanotron_zagreus.errors import InputError, WorkError

_JOB_ID = re.compile(r"([0-9]+)(;\S+)?")


def has_slurm() -> bool:
    """Say whether sbatch is here."""
    return shutil.which("sbatch") is not None


def require_slurm() -> None:
    """Refuse to go on without sbatch."""
    if not has_slurm():
        raise InputError("sbatch: not found on this machine; run `zagreus slurm submit` on a login node of the cluster")


def try_script(script: Path) -> str:
    """Return what `sbatch --test-only` says about a script: when and where it would start.

    Raises:
        InputError: Slurm would refuse it.
    """
    done = _sbatch(["--test-only", str(script)])
    text = " ".join((done.stderr + done.stdout).split())
    if done.returncode:
        raise InputError(
            f"{script}: Slurm refuses it: {text}; compare the site file with `sinfo` and `scontrol show node`"
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
    done = _sbatch([*options, str(script)])
    if done.returncode:
        raise WorkError(f"{script}: sbatch failed: {' '.join(done.stderr.split())}")
    return job_id_in(done.stdout)


def job_id_in(text: str) -> str:
    """Return the job id in what `sbatch --parsable` printed, whatever a site's wrapper prints around it.

    Raises:
        WorkError: there is no line `ID` or `ID;cluster`.
    """
    ids = [match[1] for line in text.splitlines() if (match := _JOB_ID.fullmatch(line.strip()))]
    if not ids:
        raise WorkError(
            f"sbatch answered {text.strip()!r}, which holds no job id; look with squeue before trying again"
        )
    return ids[-1]


def _sbatch(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    require_slurm()
    return subprocess.run(["sbatch", *arguments], capture_output=True, text=True, check=False)
