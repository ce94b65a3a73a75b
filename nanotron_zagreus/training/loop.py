"""The loop over the steps: train, log, watch, validate, save, stop."""

from __future__ import annotations

from pathlib import Path

from torch import distributed

from nanotron_zagreus.checkpoints import layout
from nanotron_zagreus.checkpoints.outcome import Outcome, Why, record_failure, write_outcome
from nanotron_zagreus.config import Config
from nanotron_zagreus.data.loader import StepLoader
from nanotron_zagreus.data.mixture import Mixture
from nanotron_zagreus.errors import WorkError
from nanotron_zagreus.training.control import Request, StepControl
from nanotron_zagreus.training.guards import check_replicas
from nanotron_zagreus.training.loading import load_random_state
from nanotron_zagreus.training.lost_rank import lost_rank
from nanotron_zagreus.training.outcomes import write_as_possible
from nanotron_zagreus.training.ranks import layout_of
from nanotron_zagreus.training.reports import StepReports
from nanotron_zagreus.training.resume_point import ResumePoint
from nanotron_zagreus.training.saving import CheckpointSaver
from nanotron_zagreus.training.signals import SignalRequests
from nanotron_zagreus.training.snapshot import TrainingState
from nanotron_zagreus.training.trainer import Batches, ZagreusTrainer
from nanotron_zagreus.training.validation import validate
from nanotron_zagreus.training.watchdog import Watchdog


class TrainingLoop:
    """One run on one rank; every rank makes the same calls in the same order."""

    def __init__(
        self,
        config: Config,
        mixture: Mixture,
        resume: ResumePoint | None,
        weights: Path | None = None,
        *,
        show_samples_every: int | None = None,
    ) -> None:
        """Build the trainer and everything around it.

        Args:
            config: the checked configuration.
            mixture: the run's data, opened with the resume point's state.
            resume: the verified checkpoint to go on from; None: a fresh run.
            weights: the verified step's folder that a fresh run takes its weights from; None: what the configuration
                says.
            show_samples_every: log a step's samples every so many steps; None: never.
        """
        self.config, self.mixture = config, mixture
        self.root = config.checkpoints.checkpoints_path
        self.show_samples_every = show_samples_every
        self.trainer = ZagreusTrainer(config, resume, weights)
        shared = config.checkpoints.checkpoints_path_is_shared_file_system
        self.ranks = layout_of(self.trainer.parallel_context, shared_file_system=shared)
        self.signals = SignalRequests()
        self.control = StepControl(self.root, self.signals, looks_at_files=self.ranks.is_leader)
        self.saver = CheckpointSaver(self._state, self.ranks, self.control.group, beat=lambda: self.watchdog.beat())
        self.saver.newest = resume.folder if resume else None
        self.reports = StepReports(self.trainer, mixture)
        self.loader = self._open_loader()
        self.watchdog = Watchdog(
            store=distributed.distributed_c10d._get_default_store(),
            rank=distributed.get_rank(),
            world_size=distributed.get_world_size(),
            timeout_seconds=config.zagreus.guards.hang_timeout_seconds,
        )
        self.trainer.at = lambda place: self.watchdog.at(f"step {self.trainer.iteration_step}: {place}")
        if resume is not None and not load_random_state(resume, self.ranks):
            self.trainer.say("The topology changed: random states start anew from the seed (the model draws none)")

    def run(self) -> Outcome:
        """Run the steps that are left and return how it ended, the same on every rank.

        Raises:
            WorkError: the run cannot go on; what was saved is kept.
        """
        first = self.trainer.start_iteration_step + 1
        failed_together = False
        self.control.clear_stale_files()
        self.saver.clear_leftovers(self.root)
        try:
            # Until a failure is reported: torchrun sends SIGTERM when a rank has ended, and disks may stand still.
            with self.signals, self.watchdog:
                try:
                    return self._steps(first)
                except Exception as caught:
                    error = lost_rank(caught) or caught
                    failed_together = isinstance(error, WorkError) and error.agreed
                    self._report_failure(error)
                    if error is not caught:
                        raise error from caught
                    raise
        finally:
            self.loader.close()
            self.reports.close(wait=failed_together)

    def _steps(self, first: int) -> Outcome:
        trainer, last = self.trainer, self.config.tokens.train_steps
        if self.config.checkpoints.save_initial_state and first == 1:
            self.saver.begin()
        batches = trainer.batches_on_device(self.loader.micro_batches(first))
        for step in range(first, last + 1):
            self._one_step(step, batches)
            request, anyone_writes = self.control.agree(is_writing=self.saver.is_writing)
            if self.saver.is_pending and not anyone_writes:
                self.saver.finish()
            if self._is_due(step, request):
                self._save(step)
                if request is Request.SAVE:
                    self.saver.finish()
                    self.control.clear_files(layout.SAVE_FILE)
            if request is Request.STOP and step < last:
                return self._leave("stopped", step, self.control.shared_reason())
        return self._leave("finished", last)

    def _one_step(self, step: int, batches: Batches) -> None:
        guards = self.config.zagreus.guards
        self.watchdog.at(f"step {step}: training")
        if self.show_samples_every and step % self.show_samples_every == 0:
            self._show_samples(step)
        loss = self.trainer.run_step(step, batches)
        self.reports.after_step(step, loss)
        if guards.replica_check_interval and step % guards.replica_check_interval == 0:
            self.reports.flush()
            self.watchdog.at(f"step {step}: comparing replicas")
            dp_group = self.trainer.parallel_context.dp_pg
            check_replicas(self.trainer.unwrapped_model.parameters(), dp_group, step, self.control.group)
        interval = self.config.tokens.val_check_interval
        if self.config.tokens.limit_val_batches and interval > 0 and step % interval == 0:
            self._validate(step)
        self.watchdog.at(f"step {step}: agreeing with the other ranks")

    def _show_samples(self, step: int) -> None:
        """Log where the step's first samples come from and how they begin."""
        ids = self.mixture.samples_of_step(step)[:4]
        for sample, tokens in zip(ids, self.mixture.read(ids), strict=True):
            shard = self.mixture.sources[sample.source].shards[sample.shard].path
            start = " ".join(map(str, tokens[:12].tolist()))
            self.trainer.say(f"sample of step {step}: {shard} window {sample.window} epoch {sample.epoch}: {start} …")

    def _validate(self, step: int) -> None:
        self.reports.flush()
        self.watchdog.at(f"step {step}: validation")  # and again for every batch
        for result in validate(self.trainer, self.mixture):
            figures = {"source": result.source, "loss": result.loss, "perplexity": result.perplexity}
            self.reports.write_event(
                {"event": "validation", "iteration": step, "num_tokens": result.num_tokens, **figures},
                f"validation: {step} | source: {result.source} | loss: {result.loss:.4f} | "
                f"perplexity: {result.perplexity:.4g}",
            )

    def _is_due(self, step: int, request: Request) -> bool:
        section = self.config.checkpoints
        is_final = step == self.config.tokens.train_steps and section.save_final_state
        return step % section.checkpoint_interval == 0 or request is not Request.NONE or is_final

    def _save(self, step: int) -> None:
        self.reports.flush()
        self.watchdog.at(f"step {step}: saving")
        self.trainer.say(f"Saving checkpoint at {layout.step_folder(self.root, step)}")
        self.saver.begin()

    def _leave(self, why: Why, step: int, reason: str = "") -> Outcome:
        self.reports.flush()
        self.watchdog.at(f"step {step}: completing the last save")
        self.saver.finish()
        if why == "stopped":
            self.control.clear_files()
        outcome = self._report(why, step, reason)
        # Last: a slow file system may take longer than the watchdog or a time limit waits.
        self.saver.wait_for_deletions()
        return outcome

    def _complete_pending_save(self) -> None:
        try:
            self.saver.finish()
        except Exception as error:  # whatever it is, another rank's end too: the first failure is the one to report
            self.trainer.say(f"the last save was not completed: {error}")

    def _report(self, why: Why, step: int, reason: str = "") -> Outcome:
        newest = self.saver.newest
        outcome = Outcome(why=why, step=step, checkpoint=None if newest is None else str(newest), reason=reason)
        if self.ranks.is_leader:
            write_as_possible(write_outcome, self.root, outcome)
        return outcome

    def _report_failure(self, error: Exception) -> None:
        """Complete what can be completed, and leave the reason in outcome.json as far as this rank can."""
        step, newest = self.trainer.iteration_step, self.saver.newest
        what = f"{type(error).__name__}: {error}"
        self.watchdog.at(f"step {step}: reporting {what.splitlines()[0]}")
        if isinstance(error, WorkError) and error.agreed:
            self._complete_pending_save()
            self._report("failed", step, str(error))
            return
        # The other ranks know nothing of it.
        checkpoint = None if newest is None else str(newest)
        outcome = Outcome(why="failed", step=step, checkpoint=checkpoint, reason=f"rank {self.ranks.rank}: {what}")
        write_as_possible(record_failure, self.root, outcome)

    def _state(self) -> TrainingState:
        return self.trainer.training_state(self.mixture.state(self.trainer.iteration_step))

    def _open_loader(self) -> StepLoader:
        tokens = self.config.tokens
        return StepLoader(
            self.mixture,
            micro_batch_size=tokens.micro_batch_size,
            batch_accumulation_per_replica=tokens.batch_accumulation_per_replica,
            dp=self.config.parallelism.dp,
            dp_rank=self.ranks.dp,
            document_masking=self.config.zagreus.document_masking,
            pin_memory=self.trainer.device.type == "cuda",
        )
