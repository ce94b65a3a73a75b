"""Write a checkpoint: aside, by all ranks, whole or not at all; in the background if wanted.

Order: the leader makes `.saving-<step>`; every rank takes a snapshot, writes its files there and hashes them;
when all ranks have, they learn whether all succeeded; the leader writes the manifest and renames the folder;
only then does latest.txt move, and only then do old checkpoints go.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import distributed

from nanotron_zagreus.checkpoints import layout, recovery
from nanotron_zagreus.checkpoints.inventory import delete_step, steps_to_prune
from nanotron_zagreus.checkpoints.manifest import FileRecord, write_manifest
from nanotron_zagreus.checkpoints.tensor_file import nobody_listens
from nanotron_zagreus.engine.bringup import current
from nanotron_zagreus.errors import WorkError, agreed
from nanotron_zagreus.training.agreement import some_ranks
from nanotron_zagreus.training.guards import all_finite
from nanotron_zagreus.training.ranks import RankLayout
from nanotron_zagreus.training.snapshot import Snapshot, SnapshotTaker, TrainingState


@dataclass
class _Pending:
    """A checkpoint being written."""

    aside: Path
    final: Path
    facts: dict[str, Any]
    thread: threading.Thread | None = None
    records: list[FileRecord] = field(default_factory=list)
    error: Exception | None = None


class CheckpointSaver:
    """Saves this rank's part of one checkpoint after another; every rank makes the same calls."""

    def __init__(
        self,
        state_of: Callable[[], TrainingState],
        ranks: RankLayout,
        group: Any,
        *,
        beat: Callable[[], None] = nobody_listens,
    ) -> None:
        """Prepare.

        Args:
            state_of: returns the live state when a save begins.
            ranks: this rank's duties.
            group: a process group of all ranks on the CPU.
            beat: told of every chunk written.
        """
        self._state_of = state_of
        self._ranks = ranks
        self._group = group
        self._beat = beat
        self._taker = SnapshotTaker(ranks)
        self._pending: _Pending | None = None
        self._deleting: threading.Thread | None = None
        self.newest: Path | None = None

    def clear_leftovers(self, root: Path) -> None:
        """Remove what interrupted saves and deletions left behind in ``root``."""
        if self._ranks.is_leader:
            recovery.clear_leftovers(root)

    def begin(self) -> None:
        """Snapshot the state and start to write it; a save still under way is completed first.

        Raises:
            WorkError: the folder cannot be made, or the save before this one failed.
        """
        self.finish()
        state = self._state_of()
        root, facts = state.config.checkpoints.checkpoints_path, _facts(state, self._ranks)
        pending = _Pending(layout.saving_folder(root, state.step), layout.step_folder(root, state.step), facts)
        self._agree(lambda: _make_empty(pending.aside) if self._ranks.is_leader else None, pending.aside)
        snapshot = self._taker.take(state)
        self._pending = pending
        if state.config.zagreus.checkpoints.background:
            pending.thread = threading.Thread(
                target=_write, args=(pending, snapshot, self._beat), name="zagreus-saver", daemon=True
            )
            pending.thread.start()
        else:
            _write(pending, snapshot, self._beat)
        self._keeping = state.config.zagreus.checkpoints

    @property
    def is_writing(self) -> bool:
        """Whether this rank is still writing; a save is only completed when no rank is."""
        return self._pending is not None and self._pending.thread is not None and self._pending.thread.is_alive()

    @property
    def is_pending(self) -> bool:
        """Whether a save has begun that is not completed; the same on every rank."""
        return self._pending is not None

    def finish(self) -> None:
        """Wait for the save under way, if any, and complete it on all ranks.

        Raises:
            WorkError: a rank could not write, or holds non-finite weights (all of them are named); the checkpoints
                there before are untouched.
        """
        pending = self._pending
        if pending is None:
            return
        if pending.thread is not None:
            pending.thread.join()
        self._pending = None
        written = self._agree(lambda: (self._ranks.node, _result(pending)), pending.aside)
        shares_files = pending.facts["shared_file_system"]
        mine = [record for node, records in written if shares_files or node == self._ranks.node for record in records]
        self._agree(lambda: _complete(pending, mine) if self._ranks.is_leader else None, pending.aside)
        root, step = pending.final.parent, int(pending.final.name)
        self._agree(lambda: layout.write_latest(root, step) if self._ranks.is_leader else None, pending.aside)
        self.newest = pending.final
        self._prune(root)

    def _prune(self, root: Path) -> None:
        """Delete what need not be kept, in a thread: a network file system takes its time."""
        keeping = self._keeping
        if self._deleting is not None and self._deleting.is_alive():
            return  # what it leaves, the next save deletes
        if self._ranks.is_leader and keeping.keep_last is not None:
            try:
                steps = steps_to_prune(root, keep_last=keeping.keep_last, keep_every=keeping.keep_every, verified=True)
            except OSError as error:  # as of a step that cannot be deleted
                print(f"zagreus: could not look for old checkpoints to delete: {error}", file=sys.stderr)
                return
            self._deleting = threading.Thread(target=_delete_steps, args=(root, steps), name="zagreus-pruner")
            self._deleting.start()

    def wait_for_deletions(self) -> None:
        """Wait until old checkpoints that are being deleted are gone."""
        if self._deleting is not None:
            self._deleting.join()
            self._deleting = None

    def _agree(self, action: Callable[[], Any], aside: Path) -> list[Any]:
        """Run ``action`` on every rank; return all results, or fail on every rank when it failed on one."""
        result, error = None, None
        try:
            result = action()
        except Exception as caught:  # reported on every rank below
            error = _words(caught)
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, (result, error), group=self._group)
        failures = [failure for _, failure in gathered]
        if any(failures):
            if self._ranks.is_leader:
                shutil.rmtree(aside, ignore_errors=True)
            raise agreed(
                WorkError(f"saving {aside.parent} failed, earlier checkpoints are untouched: {_by_reason(failures)}")
            )
        return [value for value, _ in gathered]


def _words(error: Exception) -> tuple[str, str]:
    """Return what ranks that fail alike have in common, and the whole, where the system names a file of this rank."""
    kind, alike = type(error).__name__, error.strerror if isinstance(error, OSError) else None
    return f"{kind}: {alike or error}", f"{kind}: {error}"


def _by_reason(failures: Sequence[tuple[str, str] | None]) -> str:
    """Return why ranks failed, given each rank's `_words`: every reason once, as its first rank put it."""
    ranks: dict[str, list[str]] = {}
    words: dict[str, str] = {}
    for rank, failure in enumerate(failures):
        if failure is not None:
            ranks.setdefault(failure[0], []).append(str(rank))
            words.setdefault(*failure)
    return "; ".join(f"{some_ranks(who)}: {words[reason]}" for reason, who in ranks.items())


def _facts(state: TrainingState, ranks: RankLayout) -> dict[str, Any]:
    return {
        "step": state.step,
        "consumed_samples": state.consumed_samples,
        "samples_per_step": state.config.samples_per_step,
        "data": state.data_state,
        "topology": ranks.topology,
        "zero_stage": state.config.optimizer.zero_stage,
        "shared_file_system": state.config.checkpoints.checkpoints_path_is_shared_file_system,
        "engine": current().name,
        "versions": {name: _version(name) for name in ("nanotron-zagreus", "nanotron", "torch")},
    }


def _version(distribution: str) -> str | None:
    """Return the installed version; None for what is only on the path, as a checkout of the engine may be."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _write(pending: _Pending, snapshot: Snapshot, beat: Callable[[], None]) -> None:
    try:
        if not all_finite(snapshot.weight_tensors()):
            raise ValueError("the weights hold NaN or infinity; nothing non-finite is saved")
        pending.records = snapshot.write(pending.aside, beat)
        for folder in sorted({(pending.aside / record.path).parent for record in pending.records}):
            _sync_up_to(folder, pending.aside)
            beat()
    except Exception as error:  # raised on all ranks by finish()
        pending.error = error


def _sync_up_to(folder: Path, top: Path) -> None:
    """Flush the entries of a folder and of those it lies in, below ``top``."""
    while folder != top:
        layout.sync_folder(folder)
        folder = folder.parent


def _result(pending: _Pending) -> list[FileRecord]:
    if pending.error is not None:
        raise pending.error
    return pending.records


def _complete(pending: _Pending, files: list[FileRecord]) -> None:
    """Write the manifest and give the folder its name."""
    write_manifest(pending.aside, files, pending.facts)
    final = pending.final
    replaced = layout.replaced_folder(final.parent, int(final.name))
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    try:
        pending.aside.rename(final)
    except OSError:
        recovery.restore_replaced(final.parent)
        raise
    layout.sync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _delete_steps(root: Path, steps: list[int]) -> None:
    for step in steps:
        try:
            delete_step(root, step)
        except OSError as error:  # too much kept harms nothing but the disk; the next save tries again
            print(f"zagreus: could not delete {layout.step_folder(root, step)}: {error}", file=sys.stderr)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
