"""The three ways a command can end badly, one exception each, and the exit codes.

The command line turns them into exit codes; everything else that is raised counts as a failure
while working (exit code 1).
"""

from __future__ import annotations

from typing import TypeVar

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_VERIFICATION = 3
EXIT_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: `zagreus train` stopped after saving, run again to go on."""
EXIT_INTERRUPTED = 130
"""A shell's code for a process that SIGINT ended."""


class _Failure(Exception):
    """What the three have in common."""

    agreed: bool = False
    """Whether every rank of a launch raises it together, so that one of them prints it, and what all of them do
    together can still be done."""


_F = TypeVar("_F", bound=_Failure)


class InputError(_Failure, ValueError):
    """Refuse bad input before any work: say the field or file, the value, the rule, the next action."""


class MissingInputError(InputError, FileNotFoundError):
    """Refuse input that names a file or folder which does not exist."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class VerificationError(_Failure):
    """Report that something whole in form is wrong in content: a hash, a logit, a count."""


class WorkError(_Failure, RuntimeError):
    """Report a failure in the middle of work whose cause needs no traceback: what was finished is kept."""


def agreed(error: _F) -> _F:
    """Mark an error that every rank of the launch raises together, and return it."""
    error.agreed = True
    return error
