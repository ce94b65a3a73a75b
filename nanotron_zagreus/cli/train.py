"""`zagreus train` and `zagreus replay`."""

from __future__ import annotations

import typer

CONFIG_HELP = "The training YAML, or the name of a shipped one such as smollm2/zagreus_tiny.yaml."


def register(app: typer.Typer) -> None:
    """Add the stage's subcommands to ``app``."""
    app.command()(train)
    app.command()(replay)


def train(
    config_file: str = typer.Option(..., "--config-file", help=CONFIG_HELP),
    nproc: int | None = typer.Option(None, "--nproc", min=1, help="Ranks to start here; default: dp x tp x pp."),
) -> int:
    """Train on this machine: the same as `torchrun --nproc_per_node=N run_train.py --config-file X.yaml`.

    Example: `zagreus train --config-file smollm2/zagreus_tiny.yaml`

    Exit code 75 means stopped after saving (a STOP file or a signal): run again with
    `checkpoints.resume_checkpoint_path: auto` to go on.
    """
    from nanotron_zagreus.training.launcher import launch

    return launch(config_file, nproc)


def replay(
    config_file: str = typer.Option(..., "--config-file", help=CONFIG_HELP),
    step: int = typer.Option(..., "--step", min=1, help="The step whose samples to show."),
    tokenizer: str | None = typer.Option(None, "--tokenizer", help="Default: the configuration's."),
    max_tokens: int = typer.Option(64, "--max-tokens", min=1, help="Tokens decoded of each sample."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object per sample, with all its tokens."),
) -> None:
    """Show which samples a step trains on, decoded: what the model read when its loss jumped.

    Example: `zagreus replay --config-file smollm2/zagreus_tiny.yaml --step 7`
    """
    from nanotron_zagreus.training.replay import replay_step

    replay_step(config_file, step, tokenizer=tokenizer, max_tokens=max_tokens, as_json=as_json)
