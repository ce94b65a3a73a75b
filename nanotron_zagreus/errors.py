"""The three ways a command can end badly, one exception each.

The command line turns them into exit codes; everything else that is raised counts as a failure
while working (exit code 1).
"""

from __future__ import annotations


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
