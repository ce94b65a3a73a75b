"""Fill an sbatch template: replace the values of its `#SBATCH` options and of its `NAME=value` lines.

A template stays a script that runs as it stands; filling changes values only, and every value is quoted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from nanotron_zagreus.resources import resource_folder

_DIRECTIVE = re.compile(r"#SBATCH --(?P<name>[a-z-]+)(=(?P<value>\S+))?(?P<rest>\s.*)?")
_VARIABLE = re.compile(r"(?P<name>[A-Z][A-Z_]*)=(?P<value>\"[^\"]*\"|\S*)(?P<rest>\s+#.*)?")
_END_OF_VALUES = "set -uo pipefail"
_COMMENT_COLUMN = 37


def read_template(job: str) -> str:
    """Return the text of the shipped template of ``job``: train, tokenize, convert or evaluate."""
    return (resource_folder("slurm") / f"{job}.sbatch").read_text(encoding="utf-8")


def fill(
    template: str,
    directives: Mapping[str, str | None],
    variables: Mapping[str, str],
    more_directives: Sequence[str] = (),
) -> str:
    """Return ``template`` with its values replaced.

    Args:
        template: text with `#SBATCH --name=value` and, above `set -uo pipefail`, `NAME=value` lines.
        directives: option name -> value; None removes the line.
        variables: variable name -> value, unquoted.
        more_directives: whole options to add below the template's own.

    Raises:
        KeyError: the template has no such option or variable.
    """
    head, separator, body = template.partition(f"\n{_END_OF_VALUES}\n")
    open_directives, open_variables = dict(directives), dict(variables)
    lines: list[str] = []
    last_directive = 0
    for line in head.split("\n"):
        directive, variable = _DIRECTIVE.fullmatch(line), _VARIABLE.fullmatch(line)
        if directive is not None and directive["name"] in open_directives:
            value = open_directives.pop(directive["name"])
            if value is None:
                continue
            line = _with_comment(_directive(f"--{directive['name']}={value}"), directive["rest"])
        elif variable is not None and variable["name"] in open_variables:
            line = _with_comment(
                f"{variable['name']}={_quoted(open_variables.pop(variable['name']))}", variable["rest"]
            )
        lines.append(line)
        if line.startswith("#SBATCH"):
            last_directive = len(lines)
    unused = [*open_directives, *open_variables]
    if unused:
        raise KeyError(f"the template has no line for {', '.join(unused)}")
    lines[last_directive:last_directive] = [_directive(option) for option in more_directives]
    return "\n".join(lines) + separator + body


def _directive(option: str) -> str:
    """Return the line of an sbatch option, its value quoted when it holds a space."""
    name, equals, value = option.partition("=")
    return f'#SBATCH {name}{equals}"{value}"' if " " in value else f"#SBATCH {option}"


def _with_comment(text: str, comment: str | None) -> str:
    return f"{text:<{_COMMENT_COLUMN - 1}} {comment.strip()}" if comment and comment.strip() else text


def _quoted(value: str) -> str:
    """Return ``value`` so that the shell reads exactly it; nothing for an empty one, as the templates write it."""
    return shlex.quote(value) if value else ""
