"""What a configuration deserves to be asked about: legal, but perhaps not meant. One function per remark.

Each function computes its remark from the configuration (or from what lies on this machine's disk) and
returns None when there is nothing to say. What could not run at all is refused in `config.checks` instead.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection
from pathlib import Path

from nanotron_zagreus.arithmetic import count_parameters, decay_span, learning_rate_at, learning_rate_phases
from nanotron_zagreus.config.model import ExistingCheckpointSection, RandomInitSection
from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.units import first_few, human_count

_LARGE_TOKENS_PER_PARAMETER = 1000
"""Fifty times the compute-optimal 20 tokens per parameter (Hoffmann et al., arXiv:2203.15556)."""
_GPUS_PER_NODE = 8
_GATED_OWNERS = ("meta-llama",)


def notices(config: Config) -> tuple[str, ...]:
    """Return every remark about the configuration itself; the same on every machine."""
    return _collect(_ABOUT_CONFIG, config)


def machine_notices(config: Config) -> tuple[str, ...]:
    """Return every remark about what the configuration needs and this machine lacks."""
    return _collect((missing_data, missing_tokenizer, missing_checkpoints), config)


def token_budget(config: Config) -> str | None:
    """Say how many tokens the run sees when that is far beyond the compute-optimal number."""
    steps, num_tokens = config.tokens.train_steps, config.tokens.train_steps * config.tokens_per_step
    per_parameter = num_tokens / count_parameters(config.model.model_config).total
    if per_parameter < _LARGE_TOKENS_PER_PARAMETER:
        return None
    return (
        f"tokens.train_steps: {steps:,} steps x {config.tokens_per_step:,} tokens = {human_count(num_tokens)} tokens, "
        f"{per_parameter:,.0f} per parameter; is that the budget you mean?"
    )


def steps_at_minimum(config: Config) -> str | None:
    """Say how much of the run trains at the lowest learning rate."""
    last = learning_rate_phases(config.optimizer.learning_rate_scheduler, config.tokens.train_steps)[-1]
    if last.name != "minimum":
        return None
    share = last.num_steps / config.tokens.train_steps
    return (
        f"optimizer.learning_rate_scheduler: the learning rate reaches its minimum at step {last.first_step - 1:,}, so "
        f"{last.num_steps:,} steps ({share:.0%} of the run) train at {last.last_rate:.3g}"
    )


def unfinished_decay(config: Config) -> str | None:
    """Say that the run ends before the decay does."""
    schedule, steps = config.optimizer.learning_rate_scheduler, config.tokens.train_steps
    if schedule.min_decay_lr in (None, schedule.learning_rate):
        return None
    _, end = decay_span(schedule, steps)
    if end <= steps:
        return None
    origin = "train_steps - lr_warmup_steps" if schedule.lr_decay_steps is None else "lr_decay_steps"
    return (
        f"optimizer.learning_rate_scheduler: the decay ({origin}) would end at step {end:,}, after the last step "
        f"{steps:,}, which trains at {learning_rate_at(schedule, steps, steps):.3g}, not {schedule.min_decay_lr:g}"
    )


def asynchronous_tensor_parallelism(config: Config) -> str | None:
    """Say that tp_linear_async_communication has no effect without tensor parallelism; with it, `checks` refuses it."""
    if not config.parallelism.tp_linear_async_communication:
        return None
    return "parallelism.tp_linear_async_communication: true does nothing at tp = 1 (and is refused at tp > 1)"


def final_step(config: Config) -> str | None:
    """Say that the last step is not saved, or that only the interval saves it."""
    steps, interval = config.tokens.train_steps, config.checkpoints.checkpoint_interval
    if config.checkpoints.save_final_state:
        return None
    if steps % interval:
        return (
            f"checkpoints.save_final_state: false, so the last {steps % interval:,} steps are lost: the final step "
            f"{steps:,} is not saved (the last save is at {steps - steps % interval:,}); set it to true"
        )
    return (
        f"checkpoints.save_final_state: false, so the final step is not saved of its own; step {steps:,} is, only "
        f"because checkpoint_interval {interval:,} divides it"
    )


def sources_by_size(config: Config) -> str | None:
    """Say in which stages the mixture is nothing but the folders' sizes."""
    names = [
        stage.name
        for stage in config.data_stages
        if stage.data.dataset.weights is None
        and stage.data.dataset.dataset_groups is None
        and len(stage.data.dataset.folders) > 1
    ]
    if not names:
        return None
    stages = ", ".join(map(repr, names))
    return f"data_stages: no dataset_weights in {stages}; its sources are drawn in proportion to their size"


def validation(config: Config) -> str | None:
    """Say that a validation interval without batches validates nothing, and the reverse."""
    tokens = config.tokens
    is_reached = 0 < tokens.val_check_interval <= tokens.train_steps
    if tokens.limit_val_batches and not is_reached:
        return (
            f"tokens.limit_val_batches: {tokens.limit_val_batches:,}, but validation never runs in "
            f"{tokens.train_steps:,} steps while val_check_interval is {tokens.val_check_interval:,}; "
            "set it to the steps between two validations"
        )
    if tokens.limit_val_batches or tokens.val_check_interval <= 0:
        return None
    return f"tokens.val_check_interval: {tokens.val_check_interval:,} has no effect while limit_val_batches is 0"


def initial_range(config: Config) -> str | None:
    """Say that initializer_range is not what initialises the model."""
    model, init = config.model.model_config, config.model.init_method
    if not isinstance(init, RandomInitSection) or init.std == model.initializer_range:
        return None
    return (
        f"model.model_config.initializer_range: {model.initializer_range:g} is not used in training; "
        f"init_method.std = {init.std:g} is"
    )


def short_sequences(config: Config) -> str | None:
    """Say that the model declares more positions than training shows it."""
    positions, length = config.model.model_config.max_position_embeddings, config.tokens.sequence_length
    if length >= positions:
        return None
    return (
        f"tokens.sequence_length: {length:,}, less than max_position_embeddings {positions:,}; positions stay untrained"
    )


def checkpoints_per_node(config: Config) -> str | None:
    """Say what checkpoints that every node keeps for itself mean for a resume."""
    if not keeps_checkpoints_per_node(config):
        return None
    return (
        "checkpoints.checkpoints_path_is_shared_file_system: false; unless the nodes turn out to see one folder, every "
        "node keeps its own checkpoints and a resume needs the same nodes"
    )


def keeps_checkpoints_per_node(config: Config) -> bool:
    """Say whether the run has several nodes, each with checkpoints of its own."""
    shared = config.checkpoints.checkpoints_path_is_shared_file_system
    return not shared and config.parallelism.world_size > _GPUS_PER_NODE


def missing_data(config: Config, but: Collection[Path] = ()) -> str | None:
    """Say which data folders this machine lacks, or which hold no shard; of those in ``but`` nothing is asked."""
    folders = dict.fromkeys(folder for stage in config.data_stages for folder in stage.data.dataset.folders)
    asked = [folder for folder in folders if folder not in but]
    missing = [folder for folder in asked if not folder.is_dir()]
    empty = [folder for folder in asked if folder.is_dir() and next(folder.rglob("*.ds"), None) is None]
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(folders)} folders do not exist here ({first_few(missing, 2)})")
    if empty:
        parts.append(f"{len(empty)} hold no .ds file ({first_few(empty, 2)})")
    if not parts:
        return None
    return f"data_stages: {'; '.join(parts)}; make them with `zagreus tokenize`"


def missing_tokenizer(config: Config, hf_home: Path | None = None) -> str | None:
    """Say that the tokenizer is neither a folder or file here nor in the Hugging Face cache (of ``hf_home``)."""
    name = config.tokenizer.tokenizer_name_or_path
    if Path(name).exists():
        return None
    absent = f"tokenizer.tokenizer_name_or_path: {name} does not exist here: no such folder or file; check the path"
    if not _may_be_hub_id(name, config):
        return absent
    if _is_cached(name, hf_home):
        return None
    if "/" in name and Path(name.partition("/")[0]).is_dir():
        return absent
    where = into = ""
    if hf_home is not None:  # not by HF_HOME, which is where a login is remembered, too
        where, into = f" of {hf_home}", f" --cache-dir {shlex.quote(str(hf_home / 'hub'))}"
    gated = name.split("/")[0] in _GATED_OWNERS
    access = "it is gated: accept its licence on huggingface.co, then " if gated else ""
    return (
        f"tokenizer.tokenizer_name_or_path: {name} is not in the Hugging Face cache{where}; {access}"
        f"run `hf download {name} --include '*.json'{into}` with a network, before going offline"
    )


def missing_checkpoints(config: Config) -> str | None:
    """Say that the checkpoint to resume or to start from is not here."""
    places = {}
    if config.checkpoints.resume_checkpoint_path not in (None, Path("auto")):
        places["checkpoints.resume_checkpoint_path"] = config.checkpoints.resume_checkpoint_path
    if isinstance(config.model.init_method, ExistingCheckpointSection):
        places["model.init_method.path"] = config.model.init_method.path
    missing = [f"{field}: {path} does not exist here" for field, path in places.items() if path and not path.exists()]
    return "; ".join(missing) or None


_Check = Callable[[Config], str | None]
_ABOUT_CONFIG: tuple[_Check, ...] = (
    token_budget,
    steps_at_minimum,
    unfinished_decay,
    asynchronous_tensor_parallelism,
    final_step,
    sources_by_size,
    validation,
    initial_range,
    short_sequences,
    checkpoints_per_node,
)


def _collect(checks: tuple[_Check, ...], config: Config) -> tuple[str, ...]:
    return tuple(remark for check in checks if (remark := check(config)) is not None)


def _may_be_hub_id(name: str, config: Config) -> bool:
    """Say whether a name without a file may be `owner/name` or `name` on the hub.

    It is a path when the hub takes no such name, when it ends in .json, or when its first folder is that of the run's
    own data or checkpoints.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    own = [config.checkpoints.checkpoints_path, *(f for s in config.data_stages for f in s.data.dataset.folders)]
    in_own_folder = "/" in name and Path(name).parts[0] in {path.parts[0] for path in own if path.parts}
    return not name.endswith(".json") and not in_own_folder


def _is_cached(name: str, hf_home: Path | None) -> bool:
    """Say whether the hub repository ``name`` lies in the local cache with a tokenizer."""
    import huggingface_hub

    files = ("tokenizer.json", "tokenizer.model", "vocab.json")
    cache = None if hf_home is None else hf_home / "hub"
    found = (huggingface_hub.try_to_load_from_cache(name, file, cache_dir=cache) for file in files)
    return any(isinstance(path, str) for path in found)
