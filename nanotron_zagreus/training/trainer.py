"""The trainer: Nanotron's DistributedTrainer with our model, data, schedule, saving and stopping.

Nanotron builds the process groups, the model on its parallel blocks, the optimizer, and runs the pipeline
schedule. This subclass decides where parameters come from, what a step does, and what happens between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from nanotron import distributed as dist
from nanotron import logging
from nanotron.logging import log_rank
from nanotron.parallel.tied_parameters import sync_tied_weights_gradients
from nanotron.trainer import DistributedTrainer
from torch.nn.parallel import DistributedDataParallel

from nanotron_zagreus.arithmetic import count_flops_per_token, learning_rate_at
from nanotron_zagreus.checkpoints.layout import resolve_checkpoint
from nanotron_zagreus.config import Config
from nanotron_zagreus.config.model import ExistingCheckpointSection
from nanotron_zagreus.data.batch import MicroBatch, engine_batch
from nanotron_zagreus.engine.bringup import current
from nanotron_zagreus.engine.cuda_as_cpu import cuda_as_cpu
from nanotron_zagreus.engine.translation import engine_config_file
from nanotron_zagreus.model.config import ModelOptions, ZagreusConfig
from nanotron_zagreus.model.zagreus import ZagreusForTraining
from nanotron_zagreus.training.attention import agree_on_attention
from nanotron_zagreus.training.building import build_training_model
from nanotron_zagreus.training.figures import FiguresRead, StepFigures
from nanotron_zagreus.training.gradient_reduction import reducing_buckets
from nanotron_zagreus.training.gradients import accumulate_together, clip_gradients
from nanotron_zagreus.training.guards import NonFiniteGuard
from nanotron_zagreus.training.loading import load_optimizer, load_weights
from nanotron_zagreus.training.metrics import StepMetrics
from nanotron_zagreus.training.optimizer_groups import exclude_from_weight_decay, merge_equal_groups
from nanotron_zagreus.training.resume_point import ResumePoint
from nanotron_zagreus.training.snapshot import TrainingState
from nanotron_zagreus.training.step_log import open_step_log
from nanotron_zagreus.training.step_times import StepTimes
from nanotron_zagreus.training.token_mean import with_token_mean

logger = logging.get_logger(__name__)

Batches = Iterator[dict[str, torch.Tensor]]


class ZagreusTrainer(DistributedTrainer):
    """Trains one configuration from a fresh start, from another checkpoint's weights, or from a resume point."""

    def __init__(self, run: Config, resume: ResumePoint | None = None, weights: Path | None = None) -> None:
        """Build everything up to the first step; all ranks call it.

        Args:
            run: the checked configuration.
            resume: the verified checkpoint to go on from; None: start at step 1.
            weights: the verified step's folder to start from; None: what `model.init_method` says.
        """
        self.run = run
        self.resume = resume
        self._weights = weights
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        )
        self.engine = current()
        in_bf16 = run.zagreus.gradient_reduction == "bfloat16"
        our_hook = reducing_buckets(lambda: self.parallel_context.dp_pg, in_bf16=in_bf16)
        with cuda_as_cpu(), our_hook, engine_config_file(self.engine.translate(run)) as path:
            options = self.engine.config_options(ZagreusConfig)
            super().__init__(str(path), model_class=ZagreusForTraining, **options)
        self._step_log = open_step_log(run.logging.log_level)
        self.say(f"engine: {self.engine.name} in {self.engine.root}")
        merge_equal_groups(self.optimizer)
        if self.grad_accumulator is not None:
            accumulate_together(self.grad_accumulator)
        exclude_from_weight_decay(self.optimizer, run.optimizer.weight_decay_exclude_named_params)
        if resume is not None:
            dp_rank = dist.get_rank(self.parallel_context.dp_pg)
            load_optimizer(self.unwrapped_model, self.optimizer, self.grad_accumulator, resume.folder, dp_rank)
        # Engines count under other names, and from 0: their own resuming is not used.
        self.start_iteration_step = self.iteration_step = resume.step if resume else 0
        self.consumed_train_samples = resume.consumed_samples if resume else 0
        self.step_times = StepTimes(self.device)
        self.at: Callable[[str], None] = lambda place: None
        """Told where in a step this rank is; the watchdog listens."""
        self.guard = NonFiniteGuard(run.zagreus.guards.max_skipped_steps)
        self.pipeline_engine = self.config.parallelism.pp_engine
        self.pipeline_engine.nb_microbatches = self.n_micro_batches_per_batch
        self._flops_per_token = count_flops_per_token(run.model.model_config, self.sequence_length).nanotron

    def init_model(self) -> Any:
        """Build the model and fill its parameters; upstream's also prints both configurations over 80 lines."""
        self.model_config.vocab_size = self.run.padded_vocab_size
        return self._load_model_checkpoint(self._init_model_instance())

    def _init_model_instance(self) -> Any:
        """Build the model with our options; the engine's own look-up cannot pass them."""
        attention = agree_on_attention(self.run, self.device)
        self.say(f"attention: {attention.name} ({attention.reason})")
        options = ModelOptions(
            vocab_size=self.run.model.model_config.vocab_size,
            recompute_layer=self.run.parallelism.recompute_layer,
            attention=attention.name,
            cross_entropy=self.run.zagreus.cross_entropy,
            compile_blocks=self.run.compiles_blocks(self.device.type),
        )
        self.say(f"decoder layers: {'compiled at their first use' if options.compile_blocks else 'not compiled'}")
        return build_training_model(
            lambda: ZagreusForTraining(
                config=self.model_config,
                parallel_context=self.parallel_context,
                parallel_config=self.config.parallelism,
                random_states=self.random_states,
                options=options,
            ),
            self.config,
            self.parallel_context,
        )

    def _load_model_checkpoint(self, model: Any) -> Any:
        """Fill the parameters before the optimizer copies them into its master weights."""
        # The parent's constructor would load optimizer pickles from here; ours are read afterwards.
        self.init_checkpoint_path = None
        unwrapped = model.module if isinstance(model, DistributedDataParallel) else model
        init = self.run.model.init_method
        if self.resume is not None:
            self.say(f"Resuming from {self.resume.folder} (step {self.resume.step})")
            load_weights(unwrapped, self.resume.folder)
        elif isinstance(init, ExistingCheckpointSection):
            folder = self._weights or resolve_checkpoint(init.path)
            self.say(f"Starting from the weights of {folder}, with a fresh optimizer")
            load_weights(unwrapped, folder)
        else:
            unwrapped.init_model_randomly(config=self.config)
        return model

    def pre_training(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: upstream starts wandb here whenever it is installed; our trackers are opt-in."""

    def training_step(self, dataloader: Batches) -> tuple[Any, torch.Tensor | None]:
        """Run one optimizer step and return (outputs, mean loss over the global batch's labels or None).

        The loss is on the ranks of the last pipeline stage only; `self.grad_norm_unclipped` is on all.
        """
        self.engine.check_before_forward(self)
        self.at("reading data")
        micro_batches = [next(dataloader) for _ in range(self.n_micro_batches_per_batch)]
        self.at("forward and backward")
        outputs = self.pipeline_engine.train_batch_iter(
            model=self.model,
            pg=self.parallel_context.pp_pg,
            batch=iter(with_token_mean(micro_batches, self.parallel_context.dp_pg)),
            nb_microbatches=self.n_micro_batches_per_batch,
            grad_accumulator=self.grad_accumulator,
        )
        self.at("reducing gradients and updating")
        self._reduce_gradients()
        loss = self._mean_loss(outputs)
        self.grad_norm_unclipped = self._clip_gradients(loss)
        self.engine.check_before_update(self)
        self.learning_rate = learning_rate_at(
            self.run.optimizer.learning_rate_scheduler, self.iteration_step, self.run.tokens.train_steps
        )
        for group in self.optimizer.get_base_optimizer().param_groups:
            group["lr"] = self.learning_rate
        self.guard.step(self.optimizer, self.grad_norm_unclipped)
        self.optimizer.zero_grad()
        return outputs, loss

    def batches_on_device(self, batches: Iterator[MicroBatch]) -> Batches:
        """Yield micro-batches as the engine takes them on this rank's device, without waiting for it."""
        for batch in batches:
            yield engine_batch(batch, self.device)

    def run_step(self, step: int, batches: Batches) -> torch.Tensor | None:
        """Run optimizer step ``step``, count its samples, and return the loss where this rank has it."""
        self.iteration_step = step
        with self.step_times.step():
            _, loss = self.training_step(batches)
        self.consumed_train_samples += self.global_batch_size
        return loss

    def step_figures(self, loss: torch.Tensor | None) -> StepFigures:
        """Start copying the figures of the step just launched to the host; ``loss`` is what `run_step` returned."""
        times, self.step_times = self.step_times, StepTimes(self.device)
        return StepFigures(
            step=self.iteration_step,
            consumed_samples=self.consumed_train_samples,
            learning_rate=self.learning_rate,
            times=times,
            loss=loss,
            grad_norm=self.grad_norm_unclipped,
            skipped=self.guard.take_unread(),
        )

    def step_metrics(self, figures: StepFigures, read: FiguresRead) -> StepMetrics:
        """Return a step's metrics, its time as the mean over those since the last; on the ranks with its loss."""
        assert read.loss is not None
        seconds = figures.times.mean_seconds()
        tokens_per_step = self.global_batch_size * self.sequence_length
        world_size = self.parallel_context.world_pg.size()
        tokens_per_second = tokens_per_step / seconds
        return StepMetrics(
            iteration=figures.step,
            consumed_samples=figures.consumed_samples,
            consumed_tokens=figures.consumed_samples * self.sequence_length,
            time_per_iteration_ms=seconds * 1000,
            tokens_per_sec=tokens_per_second,
            tokens_per_sec_per_gpu=tokens_per_second / world_size,
            global_batch_size=tokens_per_step,
            grad_norm=read.grad_norm,
            lm_loss=read.loss,
            lr=figures.learning_rate,
            model_tflops_per_gpu=tokens_per_second * self._flops_per_token / world_size / 1e12,
            eta_seconds=int((self.run.tokens.train_steps - figures.step) * seconds),
        )

    @property
    def has_last_stage(self) -> bool:
        """Whether this rank is in the pipeline stage that computes the loss."""
        return dist.get_rank(self.parallel_context.pp_pg) == self.unwrapped_model.output_pp_rank

    @property
    def holds_loss(self) -> bool:
        """Whether this is the one rank that reports: the first of the last pipeline stage."""
        return dist.get_rank(self.parallel_context.world_pg) == self.logger_ranks[0]

    def training_state(self, data_state: dict[str, Any]) -> TrainingState:
        """Return what a checkpoint of the step just finished holds."""
        return TrainingState(
            config=self.run,
            step=self.iteration_step,
            consumed_samples=self.consumed_train_samples,
            model=self.unwrapped_model,
            model_config=self.model_config,
            optimizer=self.optimizer,
            grad_accumulator=self.grad_accumulator,
            data_state=data_state,
        )

    def save_checkpoint(self) -> Path:
        """Refuse: saving needs the data's state, see `loop` and `saving`."""
        raise NotImplementedError("checkpoints are written by training.saving.CheckpointSaver")

    def say(self, text: str) -> None:
        """Log one line from rank 0."""
        log_rank(text, logger=logger, level=logging.INFO, rank=0)

    def log_metrics(self, line: str) -> None:
        """Log a step's line; called on the rank that holds the loss."""
        self._step_log.info(line)

    def _reduce_gradients(self) -> None:
        """Bring gradients to the same value on all replicas and all copies of tied weights."""
        if isinstance(self.model, DistributedDataParallel) and self.grad_accumulator is not None:
            self.grad_accumulator.fp32_grads_allreduce_handle.wait()
        sync_tied_weights_gradients(
            module=self.unwrapped_model,
            parallel_context=self.parallel_context,
            grad_accumulator=self.grad_accumulator,
        )

    def _clip_gradients(self, loss: torch.Tensor | None) -> torch.Tensor:
        """Scale the gradients to `clip_grad` and return their global norm before, not finite where ``loss`` is not."""
        named = [
            (name, param)
            for name, param in self.unwrapped_model.get_named_params_with_correct_tied()
            if param.requires_grad
        ]
        group, max_norm = self.parallel_context.mp_pg, self.run.optimizer.clip_grad
        return clip_gradients(named, self.grad_accumulator, group, max_norm, loss=loss)

    def _mean_loss(self, outputs: Any) -> torch.Tensor | None:
        """Return the mean loss over micro-batches (each already divided by their number) and replicas."""
        if not isinstance(outputs[0]["loss"], torch.Tensor):
            return None
        loss = torch.stack([output["loss"] for output in outputs]).sum()
        dist.all_reduce(loss, group=self.parallel_context.dp_pg, op=dist.ReduceOp.AVG)
        return loss
