"""Assemble the `zagreus` command and turn exceptions into exit codes.

Every subcommand lives in the file of its stage and imports what it needs when it runs, so that
`zagreus --help` stays fast and works with only the core installed.

Exit codes: 0 done; 1 failed while working (what is finished is kept); 2 bad input, refused before
work; 3 a verification failed; 75 (`train` only) stopped after saving, run again to go on.
"""

from __future__ import annotations

import os
import sys
import traceback

import typer

from nanotron_zagreus.cli import check, checkpoints, convert, data, evaluate, slurm, train
from nanotron_zagreus.cli.system_errors import describe
from nanotron_zagreus.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_VERIFICATION,
    InputError,
    VerificationError,
    WorkError,
)
from nanotron_zagreus.utf8_mode import restart_in_utf8

app = typer.Typer(
    name="zagreus",
    help="Train small bilingual language models from scratch: tokenize, mix, train, convert, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for stage in (check, data, train, checkpoints, convert, evaluate, slurm):
    stage.register(app)


def _print_version(is_wanted: bool) -> None:
    """Print this project's version, torch's and the engine, without importing either."""
    if not is_wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    from nanotron_zagreus.engine.detection import find_engine

    for package in ("nanotron-zagreus", "torch"):
        try:
            print(f"{package} {version(package)}")
        except PackageNotFoundError:
            print(f"{package}: not installed")
    try:
        engine = find_engine("auto")
        print(f"engine: {engine.name} in {engine.root}")
    except InputError as error:
        print(error)
    raise typer.Exit


@app.callback()
def _global_options(
    debug: bool = typer.Option(False, "--debug", help="Show the full traceback of an error."),
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Show the versions of what trains, and leave."
    ),
) -> None:
    """Take the options that hold for every subcommand."""


def main() -> None:
    """Run the command line; the console script's entry point."""
    restart_in_utf8()
    arguments = sys.argv[1:]
    debug = "--debug" in arguments or os.environ.get("ZAGREUS_DEBUG") == "1"
    # Accepted anywhere on the line: a user adds it at the end of the command that failed.
    arguments = [argument for argument in arguments if argument != "--debug"]
    sys.exit(run(arguments, debug=debug))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run one command line and return its exit code; errors go to stderr in one line each."""
    try:
        result = app(args=arguments, prog_name="zagreus", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except typer.Exit as error:
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):
            # A usage error; its class is click's or typer's own copy of it, depending on typer's version.
            error.show()
            return EXIT_BAD_INPUT
        if debug:
            traceback.print_exc()
        return _report(error)
    if code == EXIT_INTERRUPTED:
        # typer from 0.16 on turns a KeyboardInterrupt into this code and says nothing.
        print("zagreus: interrupted; what was finished is kept", file=sys.stderr)
    return code


def _report(error: Exception) -> int:
    """Print one line about ``error`` to stderr and return the exit code of its kind."""
    known = isinstance(error, InputError | VerificationError | WorkError | ModuleNotFoundError)
    if isinstance(error, OSError) and not isinstance(error, InputError):
        text = describe(error)
    else:
        text = str(error) if known else f"{type(error).__name__}: {error} (add --debug for the traceback)"
    print(f"zagreus: {text}", file=sys.stderr)
    if isinstance(error, InputError):
        return EXIT_BAD_INPUT
    if isinstance(error, VerificationError):
        return EXIT_VERIFICATION
    return EXIT_FAILED
