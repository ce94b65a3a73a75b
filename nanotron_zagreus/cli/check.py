"""`zagreus check`: every check of a configuration, then the plan; no engine is started."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from nanotron_zagreus.communication import Network
    from nanotron_zagreus.config import Config
    from nanotron_zagreus.plan import TrainingPlan


def register(app: typer.Typer) -> None:
    """Add `check` to ``app``."""
    app.command("check")(check)


def check(
    config_file: str = typer.Option(..., "--config-file", help="The YAML, or the name of a shipped one."),
    world_size: int | None = typer.Option(
        None, "--world-size", help="Ranks you will launch; checked against the YAML."
    ),
    network_gbits: float | None = typer.Option(
        None, "--network-gbits", help="Bandwidth of one node's network in Gbit/s: model how long gradients travel."
    ),
    gpus_per_node: int = typer.Option(8, "--gpus-per-node", help="With --network-gbits."),
    tokens_per_second_per_gpu: float | None = typer.Option(
        None, "--tokens-per-second-per-gpu", help="With --network-gbits: measured on one node; else an assumption."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the plan as JSON."),
) -> None:
    """Check a configuration and print what it would train, without starting anything.

    Exit code 2 names what is wrong, with the data too once all its folders are here, and, below the plan, with the
    checkpoint that the run would go on from. Notices are about what is legal but perhaps not meant.

    Example: `zagreus check --config-file smollm2/zagreus_350M_por.yaml --network-gbits 400 --gpus-per-node 4`
    """
    from nanotron_zagreus.communication import Network
    from nanotron_zagreus.config import load_config
    from nanotron_zagreus.config.checks import check_world_size
    from nanotron_zagreus.errors import InputError, VerificationError
    from nanotron_zagreus.plan import make_plan
    from nanotron_zagreus.resources import find_config
    from nanotron_zagreus.slurm.duration import assumed_rate, checked_rate
    from nanotron_zagreus.training.outlook import Outlook, look_ahead

    file = find_config(config_file).resolve()
    config = load_config(file)
    if world_size is not None:
        check_world_size(config, world_size)
    refusal: InputError | VerificationError | None = None
    try:
        outlook = look_ahead(config)
    except (InputError, VerificationError) as error:
        outlook, refusal = Outlook(text="refused, as the error says"), error
    network, rate = None, None
    if network_gbits is not None:
        network = Network(gigabits_per_second=network_gbits, gpus_per_node=gpus_per_node)
        given = tokens_per_second_per_gpu
        rate = assumed_rate(config) if given is None else checked_rate(given)
    plan = make_plan(config, network, rate)
    plan = replace(plan, machine_notices=(*plan.machine_notices, *outlook.notices))
    if as_json:
        print(json.dumps({"config_file": str(file)} | plan.as_data() | {"start": outlook.as_data()}, indent=2))
    else:
        rows = [("start", outlook.text), ("config", str(file)), _engine_row(config)]
        _print_plan(plan, [*rows, *([] if network is None else _network_rows(plan, network, rate))])
    if refusal is not None:
        raise refusal


def _engine_row(config: Config) -> tuple[str, str]:
    """Say which Nanotron would train on this machine, or why none would; nothing of it is imported."""
    from nanotron_zagreus.engine.detection import find_engine
    from nanotron_zagreus.errors import InputError

    try:
        engine = find_engine(config.zagreus.engine)
    except InputError as error:
        return "engine", f"none here: {error}"
    return "engine", f"{engine.name} in {engine.root}"


def _print_plan(plan: TrainingPlan, more_rows: list[tuple[str, str]]) -> None:
    from rich.console import Console

    from nanotron_zagreus.units import human_bytes, human_count

    console = Console(highlight=False, soft_wrap=True)
    parts = plan.parameters
    console.print(f"[bold]{plan.run}[/bold]: {parts.total:,} parameters, {plan.world_size:,} ranks", markup=True)
    rows = [
        ("parameters", ", ".join(f"{name} {human_count(count)}" for name, count in vars(parts).items() if count)),
        ("step", f"{plan.samples_per_step:,} samples, {plan.tokens_per_step:,} tokens"),
        ("run", f"{plan.num_steps:,} steps, {human_count(plan.num_tokens)} tokens"),
        (
            "compute",
            f"{plan.flops_per_token.causal / 1e9:.4g} GFLOP per token (causal), "
            f"{plan.flops_per_token.nanotron / 1e9:.4g} as Nanotron counts",
        ),
        *_stage_rows(plan),
        *_rate_rows(plan),
        ("memory", f"about {human_bytes(plan.memory_per_gpu.total)} per GPU at most:"),
        ("", ", ".join(f"{name} {human_bytes(size)}" for name, size in vars(plan.memory_per_gpu).items() if size)),
        ("", f"by micro-batch size, activations kept / recomputed: {_headroom(plan)}"),
        ("", f"largest micro-batch size, activations kept / recomputed: {_largest(plan)}"),
        ("checkpoints", _checkpoints(plan)),
        *more_rows,
    ]
    for label, text in rows:
        console.print(f"  {label:<13} {text}", markup=False)
    for text in (*plan.notices, *plan.machine_notices):
        console.print("[yellow]notice[/yellow] ", end="")
        console.print(text, markup=False)


def _checkpoints(plan: TrainingPlan) -> str:
    """Return how many are written, how many stay, and what those take."""
    from nanotron_zagreus.units import human_bytes

    kept, total = plan.num_checkpoints_kept, plan.num_checkpoints
    stay = "" if kept == total else f", of which {kept:,} stay"
    where = " on each node" if plan.checkpoints_on_every_node else ""
    size = human_bytes(kept * plan.checkpoint_bytes)
    return f"{total:,} of {human_bytes(plan.checkpoint_bytes)}{stay} = {size}{where}"


def _stage_rows(plan: TrainingPlan) -> list[tuple[str, str]]:
    from nanotron_zagreus.units import human_count

    rows = []
    for index, stage in enumerate(plan.stages):
        label = "stages" if index == 0 else ""
        steps = f"steps {stage.first_step:,} to {stage.last_step:,}"
        mixture = f"{len(stage.sources)} sources {stage.mixture}"
        rows.append((label, f"{stage.name!r}: {steps}, {human_count(stage.num_tokens)} tokens, {mixture}"))
        if stage.shares is not None:
            rows += [
                ("", f"  {share:7.2%} {source}") for share, source in zip(stage.shares, stage.sources, strict=True)
            ]
    return rows


def _rate_rows(plan: TrainingPlan) -> list[tuple[str, str]]:
    rows = []
    for index, phase in enumerate(plan.learning_rate_phases):
        rates = f"{phase.first_rate:.4g}"
        if phase.last_rate != phase.first_rate:
            rates += f" to {phase.last_rate:.4g}"
        label = "learning rate" if index == 0 else ""
        rows.append((label, f"{phase.name}: steps {phase.first_step:,} to {phase.last_step:,}, {rates}"))
    return rows


def _headroom(plan: TrainingPlan) -> str:
    """Return what fits: bytes by micro-batch size."""
    from nanotron_zagreus.units import human_bytes

    entries = plan.memory_by_micro_batch_size.items()
    return ", ".join(f"{size}: {human_bytes(kept)} / {human_bytes(again)}" for size, (kept, again) in entries)


def _largest(plan: TrainingPlan) -> str:
    """Return what fits: micro-batch sizes by the GPU's memory."""
    entries = plan.largest_micro_batch_sizes.items()
    return ", ".join(f"{gigabytes} GB: {kept} / {again}" for gigabytes, (kept, again) in entries)


def _network_rows(plan: TrainingPlan, network: Network, rate: float | None) -> list[tuple[str, str]]:
    from nanotron_zagreus.units import human_bytes

    traffic = plan.communication
    if traffic is None:
        return [("network", "no gradients leave a node (or pp > 1, which is not modelled)")]
    share = traffic.exposed_seconds / traffic.step_seconds
    in_bf16 = traffic.exposed_seconds_in_bf16
    return [
        (
            "network",
            f"{human_bytes(traffic.bytes_per_step)} of gradients a step in {traffic.num_buckets} buckets, "
            f"{traffic.last_ready_share:.0%} of it the embedding's, which is ready last",
        ),
        (
            "",
            f"modelled at {network.gigabits_per_second:g} Gbit/s per node of {network.gpus_per_node} and {rate:,.0f} "
            f"tokens/s per GPU: {traffic.reduce_seconds * 1e3:.3g} ms on the network, of which training waits for "
            f"{traffic.exposed_seconds * 1e3:.3g} ms, {share:.1%} of a step ({in_bf16 * 1e3:.3g} ms in bf16)",
        ),
    ]
