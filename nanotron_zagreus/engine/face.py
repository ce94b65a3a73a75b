"""What a Nanotron is to the rest of this package: the one class through which engines may differ.

Every engine has its own file, `nanotron_04` and `nanotron_main`; nothing else asks which one is installed.
What both have under the same name and with the same meaning (parallel blocks, pipeline schedules, optimizer
wrappers, tied parameters) is imported from `nanotron` directly, after `bringup.bring_up`.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nanotron_zagreus.config import Config


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come, for the metadata of a checkpoint."""

    config: Config
    step: int
    consumed_samples: int
    stages: list[dict[str, Any]]
    """The mixture's record of each stage begun: samples, sources, samples_per_source (see `data.resume`)."""
    sources: dict[str, Any]
    """The mixture's record of each source drawn from, by its number as text: folder."""


class Engine(abc.ABC):
    """One Nanotron, installed at ``root``."""

    name: ClassVar[str]
    """As `zagreus.engine` names it."""
    features: ClassVar[tuple[str, ...]]
    """Paths inside the package that this engine has and no other known one has all of."""

    def __init__(self, root: Path) -> None:
        """Remember where it is; nothing is imported yet.

        Args:
            root: folder of the `nanotron` package.
        """
        self.root = root

    @abc.abstractmethod
    def prepare(self) -> None:
        """Import the engine, repaired; idempotent.

        Raises:
            InputError: a package that it cannot do without is not installed.
        """

    @abc.abstractmethod
    def check(self, config: Config) -> None:
        """Refuse what this engine cannot train although another could.

        Raises:
            InputError: naming the field or setting, and what to do.
        """

    @abc.abstractmethod
    def translate(self, config: Config) -> dict[str, Any]:
        """Return the configuration as plain data in the engine's own schema."""

    @abc.abstractmethod
    def config_options(self, model_config_class: type) -> dict[str, Any]:
        """Return what `get_config_from_file` and the trainer's constructor take to read a model section.

        Args:
            model_config_class: a dataclass derived from the engine's LlamaConfig.
        """

    @abc.abstractmethod
    def column_linear_options(self, parallel_config: Any) -> dict[str, Any]:
        """Return the arguments of TensorParallelColumnLinear that only this engine has.

        Args:
            parallel_config: the engine's parallelism section; None: its defaults.
        """

    @abc.abstractmethod
    def check_before_forward(self, trainer: Any) -> None:
        """Run the engine's sanity checks before a step's first micro-batch, unless they are switched off."""

    @abc.abstractmethod
    def check_before_update(self, trainer: Any) -> None:
        """Run the engine's sanity checks between clipping and the optimizer, unless they are switched off."""

    @abc.abstractmethod
    def checkpoint_metadata(self, progress: Progress) -> dict[str, Any]:
        """Return the content of `checkpoint_metadata.json`, which the engine's own `load_meta` reads."""
