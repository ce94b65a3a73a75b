"""`zagreus shards verify|stats|show` and `zagreus mixture`; `zagreus tokenize` is in `tokenize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nanotron_zagreus.cli.tokenize import tokenize

_FILE_COLUMNS = 200


def register(app: typer.Typer) -> None:
    """Add the stage's subcommands to ``app``."""
    app.command()(tokenize)
    group = typer.Typer(help="Look into folders of tokenized shards.", no_args_is_help=True)
    group.command()(verify)
    group.command()(stats)
    group.command()(show)
    app.add_typer(group, name="shards")
    app.command()(mixture)


def verify(
    paths: Annotated[list[Path], typer.Argument(help="Shards, or folders of shards at any depth.")],
    vocab_size: Annotated[
        int | None, typer.Option(min=1, help="Tokens must be below it; default: what the tokenization recorded.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON record per shard.")] = False,
) -> None:
    """Read shards whole, and hold folders against their plans. Exit code 3 when something is not sound.

    Read are bytes, index, metadata, token range and tokenizer. Text that the tokenization left out is a notice.

    Example: `zagreus shards verify tokenized/english --vocab-size 128256`
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import track

    from nanotron_zagreus.data.verification import (
        incomplete_folders,
        left_out,
        mixed_tokenizers,
        shard_paths,
        verify_shard,
    )
    from nanotron_zagreus.errors import VerificationError

    shards = [shard for path in paths for shard in shard_paths(path)]
    console = Console(stderr=True)
    reports = [verify_shard(shard, vocab_size) for shard in track(shards, "verifying", console=console, transient=True)]
    problems = [report.problem for report in reports if report.problem is not None]
    problems += mixed_tokenizers(shards) + incomplete_folders(paths)
    if as_json:
        print(json.dumps([asdict(report) for report in reports], indent=1))
    else:
        print("\n".join(problems), end="\n" if problems else "")
    if problems:
        raise VerificationError(f"{len(problems)} problems in {len(shards)} shards; first: {problems[0]}")
    if not as_json:
        unchecked = sum(report.vocab_size is None for report in reports)
        remark = f" ({unchecked} without a check of the token range: give --vocab-size)" if unchecked else ""
        tokens, documents = sum(r.num_tokens for r in reports), sum(r.num_documents for r in reports)
        print(f"{len(shards)} shards, {documents:,} documents, {tokens:,} tokens: all sound{remark}")
        for sentence in left_out(paths):
            print(f"notice: {sentence}")


def stats(
    paths: Annotated[list[Path], typer.Argument(help="Folders of shards, at any depth.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count tokens and documents per source.

    Example: `zagreus shards stats tokenized`
    """
    import json
    from dataclasses import asdict

    from rich.table import Column, Table

    from nanotron_zagreus.data.verification import shard_paths, source_statistics

    folders = sorted({shard.parent for path in paths for shard in shard_paths(path)})
    rows = [source_statistics(folder) for folder in folders]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table(
        Column("source", overflow="fold"), "shards", "documents", "tokens", "tokens per document", "tokenizer"
    )
    for row in rows:
        counts = (
            f"{row.num_shards:,}",
            f"{row.num_documents:,}",
            f"{row.num_tokens:,}",
            f"{row.tokens_per_document:.1f}",
        )
        table.add_row(row.folder, *counts, row.tokenizer)
    _print_table(table)
    for row in rows:
        for problem in row.problems:
            print(f"notice: {problem}")


def show(
    path: Annotated[Path, typer.Argument(help="A shard or a folder of shards.")],
    tokenizer: Annotated[str | None, typer.Option(help="Default: the one the shards name.")] = None,
    num_tokens: Annotated[int, typer.Option("--tokens", min=1, help="Length of the window.")] = 256,
    seed: Annotated[int | None, typer.Option(help="Show the same window again.")] = None,
) -> None:
    """Decode a random window, to see with your own eyes what the model will read.

    Example: `zagreus shards show tokenized/english --seed 1`
    """
    from nanotron_zagreus.data.tokenizer_loading import choose_tokenizer, load_tokenizer
    from nanotron_zagreus.data.verification import random_window

    shard, first, tokens = random_window(path, num_tokens, seed)
    loaded = load_tokenizer(choose_tokenizer(tokenizer or shard.tokenizer, bos=False))
    print(f"{shard.path}, tokens {first:,} to {first + len(tokens):,} of {shard.num_tokens:,}\n")
    print(loaded.decode(tokens.tolist(), skip_special_tokens=False))


def mixture(
    config_file: Annotated[Path, typer.Option(help="The training YAML.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what each stage draws from each source: share, tokens, epochs; refuse too many repetitions.

    Example: `zagreus mixture --config-file smollm2/zagreus_tiny.yaml`
    """
    import dataclasses
    import json

    from rich.table import Column, Table

    from nanotron_zagreus.config import load_config
    from nanotron_zagreus.data.mixture import open_mixture
    from nanotron_zagreus.data.repetition import check_repetition, list_draws, missed_targets

    config = load_config(config_file)
    opened = open_mixture(config, limit_repetition=False)
    draws = list_draws(opened.sources, opened.stages)
    if as_json:
        print(json.dumps([{**dataclasses.asdict(draw), "folder": str(draw.folder)} for draw in draws], indent=1))
    else:
        table = Table(
            "stage",
            Column("source", overflow="fold"),
            *("tokens on disk", "share", "tokens drawn", "epochs", "epochs so far"),
        )
        for draw in draws:
            amounts = (f"{draw.available_tokens:,}", f"{draw.share:.2%}", f"{draw.drawn_tokens:,}")
            table.add_row(draw.stage, str(draw.folder), *amounts, f"{draw.epochs:.2f}", f"{draw.epochs_so_far:.2f}")
        _print_table(table)
        for sentence in missed_targets(config, opened.stages):
            print(f"notice: {sentence}")
    check_repetition(config, opened.sources, opened.stages)


def _print_table(table: Any) -> None:
    """Print a table; into a file or a pipe at full width, so that no number is cut."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_COLUMNS)
    console.print(table)
