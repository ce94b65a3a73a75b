"""A recipe: the sources of a corpus in one YAML file, each tokenized into a folder of its own.

tokenizer: meta-llama/Llama-3.2-1B
sources:
  fineweb-por:
    inputs: [hf://datasets/HuggingFaceFW/fineweb-2/data/por_Latn/train]
    text_column: text

Beside its source's name a folder says which special tokens are in it: `fineweb-por/tokenized` (BOS, as
published), `fineweb-por/bos_eos`, `fineweb-por/eos` or `fineweb-por/plain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanotron_zagreus.config.loading import load_section
from nanotron_zagreus.config.rules import at_least
from nanotron_zagreus.data.encoders import EncoderName
from nanotron_zagreus.data.tokenization_plan import TokenizationJob
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.resources import find_config

_VARIANTS = {(True, False): "tokenized", (True, True): "bos_eos", (False, True): "eos", (False, False): "plain"}


@dataclass(frozen=True, kw_only=True)
class RecipeSource:
    """One source."""

    inputs: tuple[str, ...]
    """Files, folders, patterns, URLs; or one dataset on the hub, `owner/name[:config[:split]]`."""
    text_column: str = "text"
    tasks: int | None = None
    """Shards to make at most; None: what the command says."""
    description: str = ""

    def __post_init__(self) -> None:
        if self.tasks is not None:
            at_least("tasks", self.tasks, 1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The sources of a corpus and how all of them are tokenized."""

    tokenizer: str
    sources: dict[str, RecipeSource]
    bos: bool = True
    eos: bool = False
    bos_token: str | None = None
    eos_token: str | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("sources: got none, expected at least one")


def load_recipe(file: Path) -> Recipe:
    """Return the recipe in ``file``, a path or a shipped one's name such as smollm2/data_por.yaml.

    Raises:
        InputError: it is malformed.
    """
    return load_section(Recipe, find_config(file, kind="data"))


def jobs_of(
    recipe: Recipe,
    output: Path,
    *,
    inputs: Sequence[str] = (),
    tokenizer: str | None = None,
    bos: bool | None = None,
    eos: bool | None = None,
    num_tasks: int | None = None,
    encoder: EncoderName = "auto",
) -> list[TokenizationJob]:
    """Return one job per source of ``recipe``.

    Args:
        output: parent of the sources' folders.
        inputs: `SOURCE=PATH` replaces a source's inputs, for a copy on a local disk; the others keep theirs.
        tokenizer, bos, eos: replace the recipe's, unless None.
        num_tasks: for the sources that name none.

    Raises:
        InputError: an input names no source of the recipe.
    """
    replaced: dict[str, tuple[str, ...]] = {}
    for text in inputs:
        name, separator, value = text.partition("=")
        if not separator or name not in recipe.sources:
            raise InputError(
                f"--input: got {text!r}, with --recipe expected SOURCE=PATH, SOURCE one of {', '.join(recipe.sources)}"
            )
        replaced[name] = (*replaced.get(name, ()), value)
    bos, eos = recipe.bos if bos is None else bos, recipe.eos if eos is None else eos
    return [
        TokenizationJob(
            inputs=replaced.get(name, source.inputs),
            output=output / name / _VARIANTS[bos, eos],
            tokenizer=tokenizer or recipe.tokenizer,
            text_column=source.text_column,
            num_tasks=source.tasks or num_tasks,
            bos=bos,
            eos=eos,
            bos_token=recipe.bos_token,
            eos_token=recipe.eos_token,
            encoder=encoder,
        )
        for name, source in recipe.sources.items()
    ]
