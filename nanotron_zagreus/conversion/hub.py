"""Publish a converted folder on the Hugging Face hub; intermediate checkpoints go to branches of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from nanotron_zagreus.conversion.gguf_export import GGUFType, gguf_file_name
from nanotron_zagreus.conversion.model_card import CARD_FILE, name_repository
from nanotron_zagreus.conversion.record import RECORD_FILE, read_conversion_record
from nanotron_zagreus.conversion.tensor_reading import INDEX_FILE, SINGLE_FILE
from nanotron_zagreus.errors import InputError, VerificationError, WorkError
from nanotron_zagreus.file_hash import hash_file
from nanotron_zagreus.hub_errors import first_line, hub_errors

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MAIN_BRANCH = "main"
_OWN_WEIGHTS = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|model-(F32|BF16|Q8_0)\.gguf"
)
"""Every name the converter gives to weights, and no other: files that people made from them are theirs."""


@dataclass(frozen=True, kw_only=True)
class PushPlan:
    """What would be uploaded, and where to."""

    repository: str
    branch: str
    private: bool
    message: str
    files: dict[str, int]
    """File name -> size in bytes."""

    @property
    def revision(self) -> str | None:
        """What a user must name to load the model; None for the default branch."""
        return None if self.branch == MAIN_BRANCH else self.branch

    @property
    def removable(self) -> tuple[str, ...]:
        """Names that the converter gives to weights and this folder has not: a push removes them from the branch."""
        ggufs = map(gguf_file_name, get_args(GGUFType))
        names = [name for name in (SINGLE_FILE, INDEX_FILE, *ggufs) if name not in self.files]
        return (*names, "model-NNNNN-of-NNNNN.safetensors of another division")

    def stale(self, remote: Iterable[str]) -> list[str]:
        """Return which of a branch's files are weights that a conversion made and this folder does not have."""
        return sorted(name for name in remote if _OWN_WEIGHTS.fullmatch(name) and name not in self.files)


def check_repository(repository: str) -> None:
    """Refuse a name that no hub repository has."""
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"repository: got {repository!r}, expected a hub id such as mii-llm/zagreus-0.4B-por")


def plan_push(folder: Path, repository: str, *, branch: str | None = None, private: bool = True) -> PushPlan:
    """Return what pushing ``folder`` means, without touching the network.

    Args:
        folder: a Hugging Face folder made by this project's converter.
        repository: hub id, such as `mii-llm/zagreus-0.4B-por`.
        branch: None is main; `auto` is `step…-tokens…B`, from the folder's conversion record.
        private: make the repository private when it does not exist yet.

    Raises:
        InputError: no converted folder, an unverified one, or a name the hub cannot have.
        VerificationError: the weights are not the ones that were verified.
    """
    check_repository(repository)
    record = read_conversion_record(folder)
    if record.get("verification") is None:
        raise InputError(f"{folder}: was converted without verification; convert it again before publishing it")
    _check_weights(folder, record)
    name = step_branch(record) if branch == "auto" else branch or MAIN_BRANCH
    step = record.get("step")
    return PushPlan(
        repository=repository,
        branch=name,
        private=private,
        message="Add the converted checkpoint" + ("" if step is None else f" of step {step:,}"),
        files={path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
    )


def step_branch(record: dict[str, Any]) -> str:
    """Return the branch of an intermediate checkpoint, such as `step582000-tokens610B`.

    Raises:
        InputError: the record does not know the step or the tokens.
    """
    step = record.get("step")
    tokens = (record.get("training") or {}).get("tokens_trained")
    if not isinstance(step, int) or not isinstance(tokens, int):
        raise InputError(
            f"branch: {RECORD_FILE} does not say how many steps and tokens the checkpoint has seen; name the branch"
        )
    return f"step{step}-tokens{_short(tokens)}"


def hub_names(record: dict[str, Any], repository: str) -> list[str]:
    """Return what a converted checkpoint may be called on the hub: the repository, or its own branch there."""
    try:
        return [repository, f"{repository}@{step_branch(record)}"]
    except InputError:
        return [repository]


def push(folder: Path, plan: PushPlan, api: Any = None, say: Callable[[str], None] = lambda _: None) -> str:
    """Upload ``folder`` as ``plan`` says, in one commit; return its address.

    The card's usage example is made to load the model from where it is going. A branch starts as a copy of main, and
    another checkpoint's weights must not stay beside these: the same commit removes them.

    Args:
        folder: the folder that was planned.
        plan: from :func:`plan_push`.
        api: a huggingface_hub.HfApi; None makes one with the user's stored token.
        say: told what will be removed.

    Raises:
        WorkError: the hub refused or was not reached; pushing again goes on where it stopped.
    """
    from huggingface_hub import HfApi

    api = api or HfApi()
    card = folder / CARD_FILE
    if card.is_file():
        card.write_text(name_repository(card.read_text(encoding="utf-8"), plan.repository, plan.revision), "utf-8")
    try:
        api.create_repo(plan.repository, private=plan.private, exist_ok=True)
        if plan.branch != MAIN_BRANCH:
            api.create_branch(plan.repository, branch=plan.branch, exist_ok=True)
        stale = plan.stale(api.list_repo_files(plan.repository, revision=plan.branch))
        for name in stale:
            say(f"removing {name} there: weights of another conversion")
        info = api.upload_folder(
            repo_id=plan.repository,
            folder_path=folder,
            revision=plan.branch,
            commit_message=plan.message,
            allow_patterns=list(plan.files),
            delete_patterns=stale or None,
        )
    except hub_errors() as error:
        raise WorkError(
            f"{plan.repository}: the hub refused or was not reached: {first_line(error)}; log in with "
            "`hf auth login`, push again"
        ) from error
    return str(info.commit_url)


def _check_weights(folder: Path, record: dict[str, Any]) -> None:
    """Refuse a folder whose weight files are not, byte for byte, those of its record."""
    gguf = record.get("gguf")
    for file in [*record["weights"], *([gguf["file"]] if gguf else [])]:
        path = folder / file["name"]
        if not path.is_file() or hash_file(path) != file["sha256"]:
            raise VerificationError(
                f"{path}: is not the file that was verified when the folder was made; convert again before publishing"
            )


def _short(tokens: int) -> str:
    """Return a token count as people write it: 610B, 1.5T, 640M; three digits at most below a thousand T."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        # What three digits round up to one of the next unit is written in that unit.
        if tokens >= 0.9995 * size:
            return f"{tokens / size:.3g}{unit}" if tokens < 999.5 * size else f"{tokens / size:.0f}{unit}"
    return str(tokens)
