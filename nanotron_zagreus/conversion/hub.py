"""Publish a converted folder on the Hugging Face hub; intermediate checkpoints go to branches of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.architecture import read_json
from nanotron_zagreus.checkpoints.manifest import hash_file
from nanotron_zagreus.conversion.record import RECORD_FILE
from nanotron_zagreus.errors import InputError, VerificationError, WorkError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MAIN_BRANCH = "main"
_WEIGHT_FILES = ("model*.safetensors", "model.safetensors.index.json", "model-*.gguf")
"""Every name the converter gives to weights."""


@dataclass(frozen=True, kw_only=True)
class PushPlan:
    """What would be uploaded, and where to."""

    repository: str
    branch: str
    private: bool
    message: str
    files: dict[str, int]
    """File name -> size in bytes."""


def check_repository(repository: str) -> None:
    """Refuse a name that no hub repository has."""
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"repository: got {repository!r}, expected a hub id such as mii-llm/zagreus-0.4B-por")


def plan_push(folder: Path, repository: str, *, branch: str | None = None, private: bool = False) -> PushPlan:
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
    record = read_json(folder / RECORD_FILE)
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


def push(folder: Path, plan: PushPlan, api: Any = None) -> str:
    """Upload ``folder`` as ``plan`` says, in one commit; return its address.

    Args:
        folder: the folder that was planned.
        plan: from :func:`plan_push`.
        api: a huggingface_hub.HfApi; None makes one with the user's stored token.

    Raises:
        WorkError: the hub refused or was not reached; pushing again goes on where it stopped.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = api or HfApi()
    try:
        api.create_repo(plan.repository, private=plan.private, exist_ok=True)
        if plan.branch != MAIN_BRANCH:
            api.create_branch(plan.repository, branch=plan.branch, exist_ok=True)
        info = api.upload_folder(
            repo_id=plan.repository,
            folder_path=folder,
            revision=plan.branch,
            commit_message=plan.message,
            allow_patterns=list(plan.files),
            # A branch starts as a copy of main; another checkpoint's weights must not stay beside these.
            delete_patterns=list(_WEIGHT_FILES),
        )
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WorkError(
            f"{plan.repository}: the hub refused or was not reached: {reason}; log in with `hf auth login`, push again"
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
    """Return a token count as people write it: 610B, 1.5T, 640M; three digits at most."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}" if tokens < 1000 * size else f"{tokens // size}{unit}"
    return str(tokens)
