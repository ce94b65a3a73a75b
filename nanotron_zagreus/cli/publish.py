"""`zagreus card` and `push`: the model card, and the way to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def card(
    folder: Annotated[Path, typer.Argument(metavar="HF_DIR", help="Hugging Face folder made by `zagreus convert`.")],
    details: Annotated[Path | None, typer.Option("--card", help="YAML with languages, license, data sets, …")] = None,
    results: Annotated[Path | None, typer.Option(help="lm-eval results: a file, or a folder of them.")] = None,
) -> None:
    """Write a folder's model card again, with what only its makers know and with evaluation results.

    The YAML may hold model_name, language (a list), license, datasets (a list), tags (a list), base_model, description,
    citation. What is not given again stays as it was; results of other models are left out.

    Example: `zagreus card hf/5000 --card card.yaml --results results/5000`
    """
    from nanotron_zagreus.conversion.eval_scores import EvaluatedModel, read_scores
    from nanotron_zagreus.conversion.hub import hub_names
    from nanotron_zagreus.conversion.model_card import CARD_FILE, read_card_details, write_model_card
    from nanotron_zagreus.conversion.record import read_conversion_record

    record = read_conversion_record(folder)
    given = None if details is None else read_card_details(details)
    scores, notices = None, list[str]()
    if results is not None:
        hub_id = given.model_name if given is not None else (record.get("card") or {}).get("model_name")
        names = (str(folder), record["checkpoint"], *(hub_names(record, hub_id) if hub_id else []))
        model = EvaluatedModel(names=names, step=record.get("step"), checkpoint_sha256=record.get("checkpoint_sha256"))
        scores, notices = read_scores(results, model)
    write_model_card(folder, given, scores)
    print(f"wrote {folder / CARD_FILE}")
    for notice in notices:
        print(f"  note: {notice}")


def push(
    folder: Annotated[Path, typer.Argument(metavar="HF_DIR", help="Hugging Face folder made by `zagreus convert`.")],
    repository: Annotated[str, typer.Argument(help="Hub repository, such as mii-llm/zagreus-0.4B-por.")],
    branch: Annotated[str | None, typer.Option(help="auto: step…-tokens…, from the record; default: main.")] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="What a new repository becomes.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be uploaded; no network.")] = False,
) -> None:
    """Upload a converted folder to the Hugging Face hub; intermediate checkpoints to branches of their own.

    Example: `zagreus push hf/5000 mii-llm/zagreus-0.4B-por --branch auto --dry-run`
    """
    print_push(folder, repository, branch=branch, private=private, dry_run=dry_run)


def print_push(
    folder: Path, repository: str, *, branch: str | None, private: bool, dry_run: bool, to_stderr: bool = False
) -> None:
    """Push, or with ``dry_run`` only say what would be pushed; on stderr where stdout is for JSON."""
    import sys
    from functools import partial

    from nanotron_zagreus.conversion.hub import plan_push
    from nanotron_zagreus.conversion.hub import push as upload

    say = partial(print, file=sys.stderr if to_stderr else sys.stdout)
    plan = plan_push(folder, repository, branch=branch, private=private)
    size = sum(plan.files.values())
    verb = "would push" if dry_run else "pushing"
    say(f"{verb} {len(plan.files)} files, {size:,} bytes, to {plan.repository}, branch {plan.branch}: {plan.message}")
    say(f"  the repository, if it is new: {'private' if plan.private else 'public'}")
    for name, num_bytes in plan.files.items():
        say(f"  {name}  {num_bytes:,}")
    if not dry_run:
        say(upload(folder, plan, say=lambda text: say(f"  {text}")))
        return
    say(f"  removed there, where a conversion left them: {', '.join(plan.removable)}")
