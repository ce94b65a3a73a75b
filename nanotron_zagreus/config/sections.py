"""The training YAML as typed sections: upstream Nanotron's names and meaning, and our own `zagreus:`.

Fields without a default must stand in the file. A field's own rule is checked here; relations
between fields live in `checks`. The published file (`configs/smollm2/zagreus_350M_por.yaml`) loads as
it is. Upstream's keys without a meaning here (`lighteval`, `s3_upload`, …) are unknown, and so are 0.4's flat `adam_*`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nanotron_zagreus.config.data import DataStageSection
from nanotron_zagreus.config.model import ModelSection
from nanotron_zagreus.config.optimizer import OptimizerSection
from nanotron_zagreus.config.reliability import CheckpointKeepingSection, GuardsSection
from nanotron_zagreus.config.rules import at_least, name_of_a_file, written_out
from nanotron_zagreus.errors import InputError

_MAX_SEED = 2**32 - 1
"""numpy's random states take no other (numpy.random.seed); the ranks' are among what the seed sets."""
_MAX_NAME_LENGTH = 200
"""Characters; with what is put around it a name stays within a file system's 255 bytes in most scripts."""

LogLevel = Literal["debug", "info", "warning", "error", "critical"]


@dataclass(frozen=True, kw_only=True)
class CheckpointsSection:
    """Where and when the training state is written."""

    checkpoints_path: Path
    """Folder that holds one folder per saved step, and `latest.txt`."""
    checkpoint_interval: int
    """Steps between two saves."""
    save_initial_state: bool = False
    """Save before the first step of a fresh run."""
    save_final_state: bool = False
    """Save after the last step even when it is no multiple of the interval."""
    resume_checkpoint_path: Path | None = None
    """A checkpoints folder (its newest step), one step's folder, or `auto`: checkpoints_path if it holds a step."""
    checkpoints_path_is_shared_file_system: bool = False
    """Whether all nodes see the same folder."""

    def __post_init__(self) -> None:
        at_least("checkpoint_interval", self.checkpoint_interval, 1)


@dataclass(frozen=True, kw_only=True)
class GeneralSection:
    """The run's names and seed."""

    project: str
    run: str = "run"
    seed: int = 42
    """Seeds parameter initialisation and the ranks' random states."""
    step: int | None = None
    """Written into a checkpoint's config.yaml; ignored on input."""
    consumed_train_samples: int | None = None
    """Written into a checkpoint's config.yaml; ignored on input."""
    benchmark_csv_path: Path | None = None
    """Upstream's benchmark mode; only null is accepted."""
    ignore_sanity_checks: bool = True
    """False makes the engine compare parameters and gradients across ranks at every step."""

    def __post_init__(self) -> None:
        for name in ("project", "run"):
            # They become folder, job and tracker names.
            if len(getattr(self, name)) > _MAX_NAME_LENGTH:
                raise InputError(
                    f"{name}: got {len(getattr(self, name))} characters, expected at most {_MAX_NAME_LENGTH}"
                )
            if not re.fullmatch(r"[\w][\w .+=-]*", getattr(self, name)):
                raise InputError(
                    f"{name}: got {getattr(self, name)!r}, expected a name of letters, digits, spaces and . _ + = -"
                )
        if not 0 <= self.seed <= _MAX_SEED:
            raise InputError(f"seed: got {self.seed}, expected a whole number from 0 to {_MAX_SEED:,}")
        if self.benchmark_csv_path is not None:
            raise InputError(
                f"benchmark_csv_path: got {self.benchmark_csv_path}, only null is supported; "
                "speed is measured by benchmarks/, and every step's figures are in metrics.jsonl"
            )


@dataclass(frozen=True, kw_only=True)
class LoggingSection:
    """What is printed, and how often."""

    iteration_step_info_interval: int = 1
    """Steps between two log lines."""
    log_level: LogLevel = "info"
    """Of rank 0, and of the steps' lines, which the rank that holds the loss prints."""
    log_level_replica: LogLevel = "info"
    """Of the other ranks."""

    def __post_init__(self) -> None:
        at_least("iteration_step_info_interval", self.iteration_step_info_interval, 1)


@dataclass(frozen=True, kw_only=True)
class ParallelismSection:
    """How the ranks divide the work: world size = dp x tp x pp."""

    dp: int
    """Replicas of the model, each with its own samples."""
    tp: int = 1
    """Ranks that share each layer's matrices."""
    pp: int = 1
    """Ranks that each hold some of the layers."""
    pp_engine: Literal["1f1b", "afab"] = "1f1b"
    tp_mode: Literal["ALL_REDUCE", "REDUCE_SCATTER"] = "ALL_REDUCE"
    tp_linear_async_communication: bool = False
    tp_recompute_allgather: bool = True
    """Gather a divided sequence again in the backward pass of a layer's linears instead of keeping it, as main can;
    no effect at tp = 1, under ALL_REDUCE, and on engine 0.4."""
    recompute_layer: bool = False
    """Recompute each decoder layer's activations in the backward pass instead of keeping them."""
    expert_parallel_size: int = 1
    context_parallel_size: int = 1

    def __post_init__(self) -> None:
        for name in ("dp", "tp", "pp"):
            at_least(name, getattr(self, name), 1)
        for name in ("expert_parallel_size", "context_parallel_size"):
            if getattr(self, name) != 1:
                raise InputError(f"{name}: got {getattr(self, name)}, only 1 is supported for this dense model")

    @property
    def world_size(self) -> int:
        """Ranks the run needs."""
        return self.dp * self.tp * self.pp


@dataclass(frozen=True, kw_only=True)
class ProfilerSection:
    """Upstream's profiler section."""

    profiler_export_path: Path | None = None
    """Only null is accepted."""

    def __post_init__(self) -> None:
        if self.profiler_export_path is not None:
            raise InputError(
                f"profiler_export_path: got {self.profiler_export_path}, only null is supported; "
                "run torch's profiler over benchmarks/ instead"
            )


@dataclass(frozen=True, kw_only=True)
class TokenizerSection:
    """The tokenizer the shards were made with."""

    tokenizer_name_or_path: str
    """A hub id, a folder, or a tokenizer.json."""
    tokenizer_revision: str | None = None
    """Upstream's commit, tag or branch of a hub id; only null, the main branch, is accepted."""
    tokenizer_max_length: int | None = None
    """Upstream's truncation of documents; only null is accepted."""

    def __post_init__(self) -> None:
        if not self.tokenizer_name_or_path.strip():
            raise InputError("tokenizer_name_or_path: got nothing, expected a hub id, a folder or a tokenizer.json")
        name_of_a_file("tokenizer_name_or_path", self.tokenizer_name_or_path)
        written_out("tokenizer_name_or_path", self.tokenizer_name_or_path)
        if self.tokenizer_revision is not None:
            raise InputError(
                f"tokenizer_revision: got {self.tokenizer_revision}, only null is supported; download that revision "
                "(hf download NAME --revision …) and give its folder as tokenizer_name_or_path"
            )
        if self.tokenizer_max_length is not None:
            raise InputError(
                f"tokenizer_max_length: got {self.tokenizer_max_length}, only null is supported: nothing is cut"
            )


@dataclass(frozen=True, kw_only=True)
class TokensSection:
    """Sequence, batch and run length."""

    sequence_length: int
    train_steps: int
    micro_batch_size: int
    """Samples per forward pass and rank."""
    batch_accumulation_per_replica: int = 1
    """Forward passes per step and replica."""
    val_check_interval: int = -1
    """Steps between two validations; <= 0: none."""
    limit_val_batches: int = 0
    """Micro-batches per validation and replica; 0: no validation."""
    limit_test_batches: int = 0

    def __post_init__(self) -> None:
        for name in ("sequence_length", "train_steps", "micro_batch_size", "batch_accumulation_per_replica"):
            at_least(name, getattr(self, name), 1)
        at_least("limit_val_batches", self.limit_val_batches, 0)
        if self.limit_test_batches:
            raise InputError(f"limit_test_batches: got {self.limit_test_batches}, only 0 is supported")


@dataclass(frozen=True, kw_only=True)
class TrackingSection:
    """Where metrics go beside the log line and metrics.jsonl; both trackers need their extra installed."""

    tensorboard: bool = False
    wandb: bool = False


@dataclass(frozen=True, kw_only=True)
class ZagreusSection:
    """What this project adds to upstream's schema; the defaults reproduce the published behaviour."""

    engine: Literal["auto", "nanotron-0.4", "nanotron-main"] = "auto"
    """Which Nanotron trains; `auto` takes the installed one by its features."""
    attention: Literal["auto", "sdpa", "cudnn", "flash", "varlen", "per_document", "flash_attn"] = "auto"
    """Attention kernel; `auto` takes the fastest on a GPU, timed at start, a fixed one on a CPU; the log says which.
    cudnn, flash and varlen come with torch, flash_attn is the package; sdpa is whatever torch prefers."""
    cross_entropy: Literal["chunked", "plain"] = "chunked"
    """`chunked` projects and takes the loss a few rows at a time; `plain` holds all logits at once: the reference."""
    compile_blocks: bool | Literal["auto"] = "auto"
    """Run each decoder layer through torch.compile (tp = 1); where that is not possible, uncompiled, with a warning.
    `auto` does so on a GPU, whose memory it spares too; a CPU gains nothing by it."""
    gradient_reduction: Literal["float32", "bfloat16"] = "float32"
    """In what gradients accumulated in fp32 travel between replicas; bfloat16 halves the traffic and rounds sums."""
    document_masking: bool = False
    """Reset attention and positions at document boundaries."""
    max_source_epochs: float = 4.0
    """Refuse a mixture that passes over a source more often (Muennighoff et al. 2023, arXiv:2305.16264: 4 epochs)."""
    accept_changed_data: bool = False
    """Resume although the shards' fingerprints differ from the checkpoint's."""
    accept_changed_batch: bool = False
    """Resume although the global batch in samples differs from the checkpoint's."""
    validation_windows_per_source: int = 0
    """Windows held out of each source for validation, from step 1 on."""
    checkpoints: CheckpointKeepingSection = field(default_factory=CheckpointKeepingSection)
    guards: GuardsSection = field(default_factory=GuardsSection)
    tracking: TrackingSection = field(default_factory=TrackingSection)

    def __post_init__(self) -> None:
        if not self.max_source_epochs > 0:
            raise InputError(f"max_source_epochs: got {self.max_source_epochs}, expected a positive number")
        at_least("validation_windows_per_source", self.validation_windows_per_source, 0)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run."""

    checkpoints: CheckpointsSection
    data_stages: tuple[DataStageSection, ...]
    general: GeneralSection
    model: ModelSection
    optimizer: OptimizerSection
    parallelism: ParallelismSection
    tokenizer: TokenizerSection
    tokens: TokensSection
    logging: LoggingSection = field(default_factory=LoggingSection)
    profiler: ProfilerSection | None = None
    zagreus: ZagreusSection = field(default_factory=ZagreusSection)

    @property
    def samples_per_step(self) -> int:
        """Global batch in samples: dp x micro_batch_size x batch_accumulation_per_replica."""
        return self.parallelism.dp * self.tokens.micro_batch_size * self.tokens.batch_accumulation_per_replica

    @property
    def tokens_per_step(self) -> int:
        """Global batch in tokens."""
        return self.samples_per_step * self.tokens.sequence_length

    def compiles_blocks(self, device_type: str) -> bool:
        """Tell whether decoder layers run through torch.compile on a device, `cuda` or `cpu`."""
        wanted = self.zagreus.compile_blocks
        return device_type == "cuda" and self.parallelism.tp == 1 if wanted == "auto" else wanted

    @property
    def padded_vocab_size(self) -> int:
        """Vocabulary rows in the model: vocab_size rounded up to a multiple of tp x make_vocab_size_divisible_by."""
        multiple = self.parallelism.tp * self.model.make_vocab_size_divisible_by
        return -(-self.model.model_config.vocab_size // multiple) * multiple
