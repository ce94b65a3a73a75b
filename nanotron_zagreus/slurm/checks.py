"""What a launch is checked for before Slurm sees it: sizes, folder names, and what its jobs would miss."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nanotron_zagreus.checkpoints.layout import list_steps
from nanotron_zagreus.config import Config
from nanotron_zagreus.conversion.prospects import conversion_prospects
from nanotron_zagreus.data.corpus import HubDataset, check_text_column, find_files
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.notices import missing_checkpoints, missing_data, missing_tokenizer
from nanotron_zagreus.slurm.duration import RunEstimate
from nanotron_zagreus.slurm.jobs import AUTO, Chain, Launch, TextSource

_MENDING_OPTIONS = {"--vocab-size", "--special-tokens"}
"""Options of `zagreus convert` that `conversion.prospects` advises."""


def check_launch(config: Config, nodes: int, gpus_per_node: int) -> None:
    """Refuse a number of GPUs that is not dp x tp x pp, and a resume that a requeue could not repeat."""
    parallelism = config.parallelism
    if nodes * gpus_per_node != parallelism.world_size:
        raise InputError(
            f"--nodes x --gpus-per-node = {nodes} x {gpus_per_node} = {nodes * gpus_per_node} ranks, but "
            f"dp x tp x pp = {parallelism.dp} x {parallelism.tp} x {parallelism.pp} = {parallelism.world_size}; "
            f"launch as many GPUs, or {_advice_for_ranks(config, nodes * gpus_per_node)}"
        )
    resume, own = config.checkpoints.resume_checkpoint_path, config.checkpoints.checkpoints_path
    if resume not in (None, AUTO, own):
        raise InputError(
            f"checkpoints.resume_checkpoint_path: got {resume}, but a requeued job goes on from its own "
            f"checkpoints_path {own}; set it to auto, or start from other weights with model.init_method.path"
        )


def check_folders(*folders: Path) -> None:
    """Refuse folders whose names Slurm would not take literally."""
    for folder in folders:
        if any(character in str(folder) for character in "\"'\\%#\n\r"):
            raise InputError(
                f"folder {str(folder)!r}: quotes, backslashes, % and # mean something to Slurm; use another folder"
            )


def check_sources(config: Config, sources: Sequence[TextSource]) -> None:
    """Refuse an output that is no data folder of the configuration or that of two sources, and names of two lines."""
    folders = [folder for stage in config.data_stages for folder in stage.data.dataset.folders]
    outputs = [source.output for source in sources]
    for source in sources:
        if source.output not in folders:
            raise InputError(
                f"--tokenize: {source.output} is none of the configuration's data folders; "
                f"expected one of {', '.join(map(str, dict.fromkeys(folders)))}"
            )
        if outputs.count(source.output) > 1:
            raise InputError(
                f"--tokenize: {source.output} is given twice, and a folder holds one input; "
                "give each its own, or one INPUT that holds all files"
            )
        if any(character in f"{source.input}{source.output}{source.text_column}" for character in "\t\n\r"):
            raise InputError(f"--tokenize: {source.input!r} holds a tab or a line break; rename it")


def obstacles(launch: Launch, chain: Chain, estimate: RunEstimate) -> tuple[str, ...]:
    """Return what a job of the chain would fail on: one text for each thing that is missing or cannot work."""
    config, site = launch.config, launch.site
    hf_home = None if site.hf_home is None else Path(site.hf_home)
    found = [
        None if chain.after else missing_data(config, but=[source.output for source in chain.sources]),
        *_unconvertible(config, chain),
        missing_tokenizer(config, hf_home) if site.offline else None,
        missing_checkpoints(config),
        *(_unreadable_text(source, offline=site.offline) for source in chain.sources),
        _unseen_checkpoints(launch, chain),
        _too_many_requeues(launch, estimate),
    ]
    if not (Path(site.venv) / "bin" / "activate").is_file():
        found.append(f"site file: venv {site.venv} has no bin/activate")
    if hf_home is not None and not hf_home.is_dir():
        found.append(f"site file: hf_home {site.hf_home} does not exist")
    if chain.data is not None and not chain.data.is_dir():
        found.append(f"--data: {chain.data} does not exist; `zagreus eval-data` says what belongs there")
    return tuple(text for text in found if text is not None)


def _unconvertible(config: Config, chain: Chain) -> list[str]:
    """Say what a job would refuse to begin for no conversion could take it, and which options the conversion lacks."""
    try:
        texts = conversion_prospects(config, goes_on=bool(list_steps(config.checkpoints.checkpoints_path)))
    except InputError as error:
        return [str(error)]
    if chain.hf_folder is None:
        return []
    given = {word.partition("=")[0] for word in chain.convert_options.split()}
    lacking = _MENDING_OPTIONS - given
    return [f"--convert: {text}" for text in texts if any(name in text for name in lacking)]


def _unreadable_text(source: TextSource, *, offline: bool) -> str | None:
    """Say that an input of the tokenization is not here or lacks its column; no URL is tried where nodes are online."""
    text = source.input
    if "://" in text or HubDataset.parse(text) is not None:
        return f"--tokenize: {text} is not on this machine, and compute nodes are offline" if offline else None
    try:
        check_text_column(find_files([text])[0], source.text_column)
    except InputError as error:
        return re.sub("^--(input|text-column):", "--tokenize:", str(error))
    return None


def _unseen_checkpoints(launch: Launch, chain: Chain) -> str | None:
    """Say that a conversion on one node cannot see checkpoints that every node keeps for itself."""
    if chain.hf_folder is None or launch.nodes == 1 or launch.config.checkpoints.checkpoints_path_is_shared_file_system:
        return None
    return (
        "--convert: checkpoints.checkpoints_path_is_shared_file_system is false, so no node has the whole of a "
        "checkpoint; set it to true if all nodes see the folder"
    )


def _too_many_requeues(launch: Launch, estimate: RunEstimate) -> str | None:
    """Say that the run would use up its requeues before its steps."""
    if estimate.num_requeues <= launch.site.max_requeues:
        return None
    return (
        f"max_requeues: {launch.site.max_requeues}, but the run is expected to requeue {estimate.num_requeues} times "
        f"({estimate.rate_source}); raise it in the site file, or give a longer --time"
    )


def _advice_for_ranks(config: Config, ranks: int) -> str:
    """Return what to change so that ``ranks`` GPUs train the same global batch, where that is possible."""
    parallelism, tokens = config.parallelism, config.tokens
    dp, rest = divmod(ranks, parallelism.tp * parallelism.pp)
    if rest:
        return f"as many as tp x pp = {parallelism.tp} x {parallelism.pp} divides, with parallelism.dp to match"
    accumulation, rest = divmod(config.samples_per_step, dp * tokens.micro_batch_size)
    if rest:
        return f"set parallelism.dp to {dp} (another global batch: {config.samples_per_step} samples do not divide)"
    return (
        f"set parallelism.dp to {dp} and tokens.batch_accumulation_per_replica to {accumulation}, "
        f"which keeps the global batch of {config.samples_per_step} samples"
    )
