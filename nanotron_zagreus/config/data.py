"""The data sections: stages, their folders, and how much of each is drawn."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nanotron_zagreus.config.rules import at_least, path_text
from nanotron_zagreus.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DatasetGroupSection:
    """Folders that share one target, in proportion to their size; for example all English ones."""

    dataset_folder: tuple[Path, ...] | Path
    """Folders of `.ds` shards: one or a list."""
    tokens: int
    """Tokens of the stage meant for the group. Only the proportions between groups matter."""
    max_epochs: float | None = None
    """Refuse more passes over a folder of the group; None: zagreus.max_source_epochs."""

    def __post_init__(self) -> None:
        at_least("tokens", self.tokens, 1)
        if not self.folders:
            raise InputError("dataset_folder: got no folder, expected at least one folder of .ds shards")
        if self.max_epochs is not None and not self.max_epochs > 0:
            raise InputError(f"max_epochs: got {self.max_epochs}, expected a positive number")

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders in order."""
        return (self.dataset_folder,) if isinstance(self.dataset_folder, Path) else self.dataset_folder


@dataclass(frozen=True, kw_only=True)
class DatasetSection:
    """Folders of tokenized shards, one source each, and how much of each to draw."""

    dataset_folder: tuple[Path, ...] | dict[str, float] | Path | None = None
    """Folders of `.ds` shards: one, a list, or a mapping folder -> weight."""
    dataset_weights: tuple[float, ...] | None = None
    """Sampling share of each folder, in order; any positive scale. None: in proportion to size."""
    dataset_groups: dict[str, DatasetGroupSection] | None = None
    """Instead of dataset_folder: named groups of folders, each with its target tokens."""
    tokenizer_names: tuple[str, ...] = ()
    """Other names under which the shards' metadata may know the run's tokenizer."""

    def __post_init__(self) -> None:
        self._check_folders()
        self._check_weights()

    @property
    def groups(self) -> tuple[DatasetGroupSection, ...]:
        """The groups ordered by name, since the order of a YAML mapping means nothing; without groups none."""
        return tuple(group for _, group in sorted((self.dataset_groups or {}).items()))

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders in order: a list's own, a mapping's by name, groups one after the other."""
        if self.dataset_groups is not None:
            return tuple(folder for group in self.groups for folder in group.folders)
        if isinstance(self.dataset_folder, Path):
            return (self.dataset_folder,)
        if isinstance(self.dataset_folder, dict):
            return tuple(Path(folder) for folder in sorted(self.dataset_folder))
        return self.dataset_folder or ()

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The declared weights in the folders' order, as written (not normalised); None: by size or by group."""
        if isinstance(self.dataset_folder, dict):
            return tuple(weight for _, weight in sorted(self.dataset_folder.items()))
        return self.dataset_weights

    def _check_folders(self) -> None:
        for folder in self.dataset_folder if isinstance(self.dataset_folder, dict) else ():
            path_text("dataset_folder", folder)
        if (self.dataset_folder is None) == (self.dataset_groups is None):
            given = "neither it nor" if self.dataset_folder is None else "it and"
            raise InputError(f"dataset_folder: got {given} dataset_groups, expected one of the two")
        if not self.folders:
            raise InputError("dataset_folder: got no folder, expected at least one folder of .ds shards")
        for folder, times in Counter(os.path.normpath(folder) for folder in self.folders).items():
            if times > 1:
                raise InputError(
                    f"dataset_folder: {folder} stands there {times} times; list a folder once, or weigh it"
                )

    def _check_weights(self) -> None:
        folders, weights = self.folders, self.weights
        if isinstance(self.dataset_folder, dict) and self.dataset_weights is not None:
            raise InputError("dataset_weights: given beside a dataset_folder that maps folders to weights; keep one")
        if weights is None:
            return
        if self.dataset_groups is not None:
            raise InputError("dataset_weights: given beside dataset_groups, whose tokens are the weights; keep one")
        if len(weights) != len(folders):
            raise InputError(
                f"dataset_weights: got {len(weights)} weights for {len(folders)} folders, expected one per folder"
            )
        for folder, weight in zip(folders, weights, strict=True):
            if not 0 < weight < float("inf"):
                raise InputError(f"dataset_weights: got {weight} for {folder}, expected a positive number")
        if not math.isfinite(sum(weights)):
            raise InputError(f"dataset_weights: got {list(weights)}, whose sum is no number; use a smaller scale")


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """The data of one stage."""

    dataset: DatasetSection
    seed: int = 42
    """Seeds the order of the windows of each source that no earlier stage draws from."""
    num_loading_workers: int = 0
    """Accepted for upstream's sake; reading is done by one background reader per rank."""

    def __post_init__(self) -> None:
        at_least("num_loading_workers", self.num_loading_workers, 0)


@dataclass(frozen=True, kw_only=True)
class DataStageSection:
    """A span of steps with one mixture, from its first step to the step before the next stage."""

    name: str
    start_training_step: int
    """First step of the stage, counted from 1."""
    data: DataSection
