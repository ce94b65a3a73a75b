"""Stand-ins for Slurm's clients: small shell scripts, first in PATH, that note what they are told."""

from __future__ import annotations

from pathlib import Path


def write_program(folder: Path, name: str, body: str) -> Path:
    """Write an executable shell script."""
    path = folder / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
    return path


class SlurmClients:
    """sbatch hands out 11, 12, …; squeue shows what is in `queue`; calls are noted one a line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.queue = folder / "queue"
        self.queue.write_text("")
        self._calls = folder / "calls"
        self._refused = folder / "refused"
        self._trials = folder / "trials"
        self._trials.write_text("")
        note = f'echo "${{0##*/}} $*" >>{self._calls}'
        write_program(
            folder,
            "sbatch",
            f"""{note}
            if [ "$1" = --test-only ]; then
              script=$(cat); . {self._trials}; echo "sbatch: Job 1 to start at once" >&2; exit
            fi
            refused=$(cat {self._refused} 2>/dev/null || echo nothing)
            case "$*" in *"$refused"*) echo "sbatch: error: limit" >&2; exit 1;; esac
            echo $((11 + $(wc -l <{self.queue}))) | tee -a {self.queue}""",
        )
        write_program(folder, "squeue", f'{note}\n[ -n "${{SQUEUE_STATES:-}}" ] || cat {self.queue}')
        write_program(folder, "scancel", f'{note}\n[ -n "${{SCANCEL_USER:-}}" ] || : >{self.queue}')

    def refuse(self, script: str) -> None:
        """Make sbatch refuse scripts of this name, though not when it is only tried."""
        self._refused.write_text(script)

    def answer_trials(self, body: str) -> None:
        """Make sbatch run ``body``, which finds the job's text in $script, whenever a script is only tried."""
        self._trials.write_text(f"{body}\n")

    def calls(self, program: str) -> list[str]:
        """Return what a program was called with so far, one text a call."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{program} ")]
