"""Runs a filled template under bash as Slurm would, with stand-ins for Slurm's clients and for the long commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from nanotron_zagreus.config import dump_config, load_config
from nanotron_zagreus.slurm.template import fill, read_template
from tests.unit.slurm_stand_ins import write_program

ROOT = Path(__file__).parents[2]
SIGNAL = "kill -{name} $PPID"
"""In a stand-in: signal the batch script, whose child it is."""


class Stage:
    """A folder in which templates run. Modules and the environment's activate script read variables that are unset."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, folder / "venv" / "bin"
        self.programs.mkdir(parents=True)
        (self.programs / "activate").write_text(f'export PATH={self.programs}:$PATH OLD="$NO_SUCH_VARIABLE"\n')
        self.environment: dict[str, str] = {}
        """What a user exports before submitting."""
        self.root, self.state = folder / "checkpoints", folder / "state"
        self.root.mkdir()
        self.state.write_text("RUNNING\n")
        self.calls_file = folder / "calls"
        note = f'echo "${{0##*/}} $*" >>{self.calls_file}'
        self.program("srun", f'{note}\nwhile [ "$1" != torchrun ]; do shift; done\nexec "$@"')
        self.program("squeue", f'{note}\n[ -n "${{SQUEUE_STATES:-}}" ] || cat {self.state}')
        self.program("scontrol", f'{note}\n[ "$2" != hostnames ] || echo n1')
        self.program("zagreus", note)
        self.program("sleep", "exec /bin/sleep 0.02")
        # pip takes a second to list what is installed.
        self.program("python", f'[ "$1" = -m ] || exec {sys.executable} "$@"')
        config = dump_config(load_config("zagreus_350M_por.yaml"))
        (folder / "run.yaml").write_text(config.replace("checkpoints_zagreus_por", str(self.root)))
        (folder / "sources.tsv").write_text("a\tA\ttext\nb\tB\ttext\n")

    def program(self, name: str, body: str) -> None:
        """Write a stand-in."""
        write_program(self.programs, name, body)

    def also(self, name: str, body: str) -> None:
        """Let a stand-in do more."""
        path = self.programs / name
        path.write_text(f"{path.read_text()}{body}\n")

    def trains(self, *, signal: str | None = None, waits: bool = False, code: int = 0, **outcome: object) -> None:
        """Let torchrun signal the script, wait for the request to stop, leave an outcome, and end with ``code``."""
        said = json.dumps({"checkpoint": None, **outcome})
        lines = [
            SIGNAL.format(name=signal) if signal else ":",
            f"for i in $(seq 400); do [ -f {self.root}/STOP ] && break; sleep 1; done" if waits else ":",
            f"echo '{said}' >{self.root}/outcome.json" if outcome else ":",
            f"exit {code}",
        ]
        self.program("torchrun", "\n".join(lines))

    def run(self, job: str, *, code: int, start: int = 0, **variables: str) -> str:
        """Run a job's template, expect its exit code, return what it printed."""
        own = {
            "train": {"CONFIG": "run.yaml", "LOGS": "logs", "MAX_REQUEUES": "3"},
            "tokenize": {"SOURCES": "sources.tsv", "MAX_REQUEUES": "3"},
            "convert": {"CONFIG": "run.yaml", "MAX_REQUEUES": "3"},
            "evaluate": {"MAX_REQUEUES": "3"},
        }[job]
        shared = {"MODULES": "a b", "VENV": str(self.folder / "venv"), "HF_CACHE": "", "OFFLINE": "1"}
        script = self.folder / f"{job}.sbatch"
        script.write_text(fill(read_template(job), {}, {**shared, **own, **variables}))
        given = {
            "SLURM_JOB_ID": "12",
            "SLURM_ARRAY_JOB_ID": "10",
            "SLURM_ARRAY_TASK_ID": "1",
            "SLURM_RESTART_COUNT": str(start),
            "SLURM_GPUS_ON_NODE": "8",
            "SLURM_JOB_NUM_NODES": "8",
            "SLURM_JOB_NODELIST": "n[1-8]",
            "SLURM_CPUS_PER_TASK": "2",
            "PYTHONPATH": str(ROOT),
            "BASH_FUNC_module%%": '() { : "$NO_SUCH_VARIABLE_EITHER"; }',
            "PATH": f"{self.programs}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", str(script)],
            cwd=self.folder,
            env={"HOME": str(self.folder), **given, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def calls(self, start: str) -> list[str]:
        """Return the calls of stand-ins that begin with ``start``."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [line for line in lines if line.startswith(start)]
