"""Run the demo's steps in order, keep a journal of those that are finished, and say how to go on after a stop."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console

from nanotron_zagreus.errors import InputError, WorkError

_GRACE_SECONDS = 60


@dataclass(frozen=True)
class Step:
    """One part of the demo: what it does in a line, and the function that does it."""

    name: str
    title: str
    run: Callable[[], None]


@dataclass
class Journal:
    """Which steps are finished, for one state of the demo's own files."""

    path: Path
    fingerprint: str
    """Of everything the output depends on; a journal with another one is void."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each finished step."""

    @classmethod
    def open(cls, output: Path, fingerprint: str, console: Console) -> Journal:
        """Return the journal in ``output``, emptying the folder first when it belongs to another state.

        Raises:
            InputError: the folder holds something, but no journal: it is not the demo's to delete.
        """
        path = output / "demo.json"
        if not path.exists():
            if output.exists() and any(output.iterdir()):
                raise InputError(f"{output}: holds files that the demo did not make; move them, or run elsewhere")
            return cls(path, fingerprint)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not readable as JSON ({error}); remove {output} to start clean") from error
        if stored["fingerprint"] == fingerprint:
            return cls(path, fingerprint, stored["seconds"])
        console.print(f"The demo's files have changed since {output} was made: starting clean.")
        shutil.rmtree(output)
        return cls(path, fingerprint)

    def finish(self, step: str, seconds: float) -> None:
        """Record that ``step`` is finished."""
        self.seconds[step] = seconds
        self.save()

    def save(self) -> None:
        """Write the journal, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".new")
        unfinished.write_text(json.dumps({"fingerprint": self.fingerprint, "seconds": self.seconds}, indent=2) + "\n")
        unfinished.replace(self.path)


def run_steps(steps: Sequence[Step], journal: Journal, console: Console) -> None:
    """Run the steps that the journal does not hold yet.

    Raises:
        WorkError: a step failed or was interrupted; the text names it and says how to go on.
    """
    journal.save()
    for number, step in enumerate(steps, start=1):
        heading = f"{number}/{len(steps)} {step.title}"
        if step.name in journal.seconds:
            console.print(f"{heading}: already done, kept")
            continue
        console.rule(heading, align="left")
        start = time.monotonic()
        try:
            step.run()
        except KeyboardInterrupt:
            raise WorkError(f"interrupted during step {number}, {step.name}; {_advice(step)}") from None
        except subprocess.CalledProcessError as error:
            raise WorkError(
                f"step {number}, {step.name}, failed: `{shlex.join(error.cmd)}` ended with exit code "
                f"{error.returncode}, its message stands above; {_advice(step)}"
            ) from None
        journal.finish(step.name, time.monotonic() - start)


def _advice(step: Step) -> str:
    goes_on = ", and training goes on from its newest checkpoint" if step.name == "train" else ""
    return f"run `make demo` again: finished steps are kept{goes_on}; `rm -r demo_output` starts anew"


@dataclass(frozen=True)
class Commands:
    """Runs command lines as a user would type them in ``folder``, showing each one first."""

    folder: Path
    console: Console

    def run(self, *words: str | Path) -> None:
        """Run one command line to its end; its output goes to the terminal.

        Args:
            words: the program by its bare name (found beside this Python), then its arguments.

        Raises:
            subprocess.CalledProcessError: it ended with another exit code than 0.
            KeyboardInterrupt: on Ctrl-C or SIGTERM, once the command has ended, too.
        """
        shown = [self.show(word) for word in words]
        self.console.print(f"$ {shlex.join(shown)}", style="bold", highlight=False, soft_wrap=True)
        program = Path(sys.executable).parent / shown[0]
        # One thread per process: the demo trains on as many processes as the smallest machine has cores. On CPUs, so
        # that it does the same everywhere, also where there are fewer GPUs than processes.
        environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        environment["CUDA_VISIBLE_DEVICES"] = ""
        process = subprocess.Popen([str(program), *shown[1:]], cwd=self.folder, env=environment)
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            code = process.wait()
        except _Terminated:
            process.terminate()
            _wait_or_end(process)
            raise
        except KeyboardInterrupt:
            # The terminal has sent Ctrl-C to the command too; let it save what it has.
            _wait_or_end(process)
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
        if code == -signal.SIGINT or code == 128 + signal.SIGINT:
            raise KeyboardInterrupt
        if code:
            raise subprocess.CalledProcessError(code, shown)

    def show(self, word: str | Path) -> str:
        """Return a path as seen from the folder the commands run in, other words as they are."""
        if isinstance(word, Path) and word.is_relative_to(self.folder):
            return str(word.relative_to(self.folder))
        return str(word)


class _Terminated(KeyboardInterrupt):
    """SIGTERM has come, which unlike Ctrl-C reaches this process alone."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _wait_or_end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
