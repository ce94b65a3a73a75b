"""`zagreus checkpoints list|verify|prune`."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the stage's subcommands to ``app``."""
    group = typer.Typer(help="Look after a folder of checkpoints.", no_args_is_help=True)
    group.command("list")(list_)
    group.command()(verify)
    group.command()(prune)
    app.add_typer(group, name="checkpoints")


def list_(
    folder: Path = typer.Argument(..., help="A checkpoints folder, or one step's folder."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """List the saved steps: samples, size, topology, and which one `latest.txt` names.

    Example: `zagreus checkpoints list demo_output/checkpoints`
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from nanotron_zagreus.checkpoints.inventory import describe_steps

    rows = describe_steps(folder)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print(f"{folder}: no saved step")
        return
    table = Table("step", "samples", "size (MB)", "topology", "state")
    for row in rows:
        mark = " (latest)" if row["latest"] else ""
        table.add_row(
            f"{row['step']}{mark}", str(row["samples"]), f"{row['bytes'] / 1e6:.1f}", row["topology"], row["state"]
        )
    Console().print(table)


def verify(
    folder: Path = typer.Argument(..., help="A checkpoints folder, or one step's folder."),
) -> None:
    """Read every byte of a checkpoint (all steps of a folder) and compare it with its manifest.

    Example: `zagreus checkpoints verify demo_output/checkpoints`
    """
    from rich.progress import track

    from nanotron_zagreus.checkpoints.inventory import folders_to_verify
    from nanotron_zagreus.checkpoints.manifest import verify as verify_folder
    from nanotron_zagreus.errors import InputError, VerificationError

    damaged = []
    for step in track(folders_to_verify(folder), description="verifying"):
        try:
            print(f"{step}: {len(verify_folder(step))} files, sound")
        except (VerificationError, InputError) as error:
            damaged.append(str(error))
            print(f"{step}: {error}")
    if damaged:
        raise VerificationError(f"{len(damaged)} damaged or without a manifest: {damaged[0]}")


def prune(
    folder: Path = typer.Argument(..., help="A checkpoints folder."),
    keep_last: int = typer.Option(..., "--keep-last", min=1, help="Newest steps to keep."),
    keep_every: int | None = typer.Option(None, "--keep-every", min=1, help="Keep multiples of this step too."),
    yes: bool = typer.Option(False, "--yes", help="Delete; without it, only say what would go."),
) -> None:
    """Delete old steps; the newest sound one always stays.

    Example: `zagreus checkpoints prune demo_output/checkpoints --keep-last 3 --keep-every 10000 --yes`
    """
    from nanotron_zagreus.checkpoints.inventory import delete_step, steps_to_prune

    steps = steps_to_prune(folder, keep_last=keep_last, keep_every=keep_every)
    for step in steps:
        if yes:
            delete_step(folder, step)
        print(f"{'deleted' if yes else 'would delete'} {folder / str(step)}")
    if not steps:
        print("nothing to delete")
