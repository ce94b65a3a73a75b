"""The three ways a command can end badly, one exception each, and the exit codes.

The command line turns them into exit codes; everything else that is raised counts as a failure
while working (exit code 1).
"""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_VERIFICATION = 3
EXIT_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: `zagreus train` stopped after saving, run again to go on."""
EXIT_INTERRUPTED = 130
"""A shell's code for a process that SIGINT ended."""


class InputError(ValueError):
    """Refuse bad input before any work: say the field or file, the value, the rule, the next action."""


class MissingInputError(InputError, FileNotFoundError):
    """Refuse input that names a file or folder which does not exist."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class VerificationError(Exception):
    """Report that something whole in form is wrong in content: a hash, a logit, a count."""


class WorkError(RuntimeError):
    """Report a failure in the middle of work whose cause needs no traceback: what was finished is kept."""
