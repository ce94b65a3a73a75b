"""Write a folder's README.md: metadata that the hub reads, and a page that people read.

Facts come from the conversion record; what no checkpoint knows (languages, licence, data sets) comes from
a short YAML file of the user's; scores come from lm-eval's files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.checkpoints.layout import replace_durably
from nanotron_zagreus.config.loading import load_section
from nanotron_zagreus.config.parsing import build
from nanotron_zagreus.conversion.card_template import CARD_TEMPLATE
from nanotron_zagreus.conversion.dtypes import TORCH_NAMES
from nanotron_zagreus.conversion.eval_scores import Score
from nanotron_zagreus.conversion.hf_config import json_text
from nanotron_zagreus.conversion.record import RECORD_FILE, is_hub_id, read_conversion_record
from nanotron_zagreus.errors import MissingInputError

CARD_FILE = "README.md"
_LOADED = re.compile(r'(from_pretrained\()"[^"]*"(?:, revision="[^"]*")?')
"""What the usage example loads."""

_PROMPTS = {
    "pt": "A inteligência artificial é uma disciplina que",
    "it": "L'intelligenza artificiale è una disciplina che",
    "es": "La inteligencia artificial es una disciplina que",
    "fr": "L'intelligence artificielle est une discipline qui",
}
_ROW_NAMES = {
    "run": "Run",
    "tokens_trained": "Tokens trained on",
    "tokens_per_step": "Tokens per step",
    "sequence_length_tokens": "Sequence length",
    "train_steps_planned": "Steps planned",
    "optimizer": "Optimizer",
    "adam_betas": "Adam betas",
    "learning_rate": "Peak learning rate",
    "min_decay_lr": "Final learning rate",
    "lr_warmup_steps": "Warmup steps",
    "lr_decay_starting_step": "Decay starts at step",
    "lr_decay_steps": "Decay steps",
    "lr_decay_style": "Decay",
    "weight_decay": "Weight decay",
    "clip_grad": "Gradient clipping",
    "dtype": "Precision",
    "parallelism": "Parallelism",
    "seed": "Seed",
    "tokenizer": "Tokenizer",
}


@dataclass(frozen=True, kw_only=True)
class CardDetails:
    """What only the people who trained the model know; every field may be left out."""

    model_name: str | None = None
    """Hub id or name; default: the run's name."""
    language: tuple[str, ...] = ()
    """ISO 639-1 codes, such as en and pt."""
    license: str | None = None
    """The hub's name of the licence of the weights, such as apache-2.0."""
    datasets: tuple[str, ...] = ()
    """Hub ids of the training data."""
    tags: tuple[str, ...] = ()
    base_model: str | None = None
    """Hub id of the model whose weights training started from, if it was not random ones."""
    description: str | None = None
    citation: str | None = None


def read_card_details(path: Path) -> CardDetails:
    """Return the details in a YAML file.

    Raises:
        InputError: no such file, an unknown key, or a value of the wrong kind.
    """
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file of card details")
    return load_section(CardDetails, path)


def write_model_card(folder: Path, details: CardDetails | None = None, scores: Sequence[Score] | None = None) -> None:
    """Write ``folder``'s README.md from its conversion record, and keep in the record what was said beyond it.

    Args:
        folder: a Hugging Face folder made by this project's converter.
        details: what only its makers know; None: what the card said before.
        scores: lm-eval's, for the table and the hub's model index; None: those of the card before.

    Raises:
        MissingInputError: the folder has no conversion.json.
        InputError: its conversion.json is no conversion's.
    """
    record = read_conversion_record(folder)
    changes: dict[str, Any] = {}
    if details is not None:
        changes["card"] = asdict(details)
    if scores is not None:
        changes["scores"] = [asdict(score) for score in scores]
    if changes:
        record |= changes
        replace_durably(folder / RECORD_FILE, json_text(record).encode())
    kept = build(CardDetails, json.loads(json.dumps(record.get("card") or {})))
    _fill_template(record, kept, [Score(**score) for score in record.get("scores") or ()]).save(folder / CARD_FILE)


def name_repository(card: str, repository: str, revision: str | None) -> str:
    """Return the card's text, its usage example loading the model from a hub repository.

    Args:
        card: the text.
        repository: hub id.
        revision: branch that holds the model; None: the default one.
    """
    where = f'"{repository}"' + (f', revision="{revision}"' if revision else "")
    return _LOADED.sub(lambda match: match[1] + where, card)


def _fill_template(record: dict[str, Any], details: CardDetails, scores: Sequence[Score]) -> Any:
    from huggingface_hub import ModelCard

    training = record.get("training") or {}
    arch = Architecture(**record["architecture"])
    started_from = record.get("started_from")
    name = details.model_name or training.get("run") or Path(record["checkpoint"]).name
    return ModelCard.from_template(
        _card_data(name, details, scores),
        template_str=CARD_TEMPLATE,
        model_name=name,
        description=details.description,
        citation=details.citation,
        arch=arch,
        num_parameters=arch.num_parameters,
        dtype=TORCH_NAMES[record["dtype"]],
        base_model=details.base_model,
        started_from=Path(started_from).name if started_from else None,
        prompt=next((_PROMPTS[code] for code in details.language if code in _PROMPTS), "Once upon a time"),
        rows=[(label, _show(training[key])) for key, label in _ROW_NAMES.items() if key in training],
        stages=training.get("stages", []),
        scores=scores,
        step=record["step"],
        record=record,
        verification=record["verification"],
        tokenizer_note=_tokenizer_note(record["tokenizer"], training.get("tokenizer"), details.license),
    )


def _card_data(name: str, details: CardDetails, scores: Sequence[Score]) -> Any:
    """Return the metadata block; scores on some of the documents are none to compare, and stay out of it."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=score.task,
            dataset_name=score.task,
            metric_type=score.metric,
            metric_value=score.value,
        )
        for score in scores
        if score.limit is None
    ]
    return ModelCardData(
        language=list(details.language) or None,
        license=details.license,
        base_model=details.base_model,
        datasets=list(details.datasets) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["nanotron", "zagreus", *details.tags],
        model_name=name if results else None,
        eval_results=results or None,
    )


def _tokenizer_note(used: str, trained: str | None, weights_license: str | None) -> str | None:
    """Return what to say when the tokenizer comes from somebody else's repository, which is not ours to license."""
    name = next((name for name in (used, trained) if name and is_hub_id(name)), None)
    if name is None:
        return None
    weights = f"The weights are released under `{weights_license}`. " if weights_license else ""
    terms = ", the Llama 3.2 Community License" if "llama-3.2" in name.lower() else ""
    return (
        f"{weights}The tokenizer files come from `{name}` and stay under that repository's licence{terms}; "
        "the licence of the weights does not cover them."
    )


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
