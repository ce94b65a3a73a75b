"""What the ranks agree on before anything is allocated: that none refuses, and who sees whose files.

Every function is called by all ranks, and returns or raises the same on all of them.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from nanotron_zagreus.checkpoints.layout import node_token, sync_folder
from nanotron_zagreus.config import Config
from nanotron_zagreus.engine.launch import exchange, node, place_on_node, rank
from nanotron_zagreus.errors import InputError, VerificationError, agreed
from nanotron_zagreus.units import first_few

_T = TypeVar("_T")
_FIELD = "checkpoints.checkpoints_path_is_shared_file_system"
_LOOK_SECONDS = 5.0
"""A network file system may show a new file late; this long a token is looked for that should be there."""


def attempt(action: Callable[[], _T]) -> tuple[_T | None, InputError | VerificationError | None]:
    """Run ``action`` on this rank; return its result or its refusal."""
    try:
        return action(), None
    except (InputError, VerificationError) as error:
        return None, error


def raise_together(refusal: InputError | VerificationError | None) -> None:
    """Raise on every rank when any has a refusal, naming the ranks unless all say the same.

    Raises:
        InputError: a rank has one.
        VerificationError: ranks have none but these.
    """
    mine = None if refusal is None else [isinstance(refusal, InputError), str(refusal)]
    found = exchange((os.uname().nodename, mine))
    texts: dict[str, list[str]] = {}
    for number, (host, failure) in enumerate(found):
        if failure:
            texts.setdefault(failure[1], []).append(f"{number} on {host}")
    if not texts:
        return
    if len(texts) == 1 and all(failure for _, failure in found):
        message = next(iter(texts))
    else:
        message = "; ".join(f"{some_ranks(who)}: {text}" for text, who in texts.items())
    kind = InputError if any(failure and failure[0] for _, failure in found) else VerificationError
    raise agreed(kind(message)) from refusal


def agree_on_sharing(config: Config) -> Config:
    """Return the configuration with what is true about the checkpoints folder: whether all nodes see one.

    `false` in the configuration promises nothing, so nodes that do see one folder keep one checkpoint in it. `true`
    is a promise that must hold: ranks would otherwise write into folders that nobody puts together.

    Raises:
        InputError: it says true and some node does not see the others' files; or only some nodes share a folder.
    """
    section = config.checkpoints
    root, is_expected = section.checkpoints_path, section.checkpoints_path_is_shared_file_system
    places = exchange((node(), secrets.token_hex(8)))
    nodes, launch = [number for number, _ in places], places[0][1]
    if len(set(nodes)) == 1:
        return config
    with _token(root, launch):
        exchange(None)  # every token lies there from here on
        seen = exchange(_visible(root, launch, set(nodes), wait=is_expected) if place_on_node()[0] == 0 else None)
    views = {number: set(view) for number, view in zip(nodes, seen, strict=True) if view is not None}
    if all(view == set(nodes) for view in views.values()):
        return dataclasses.replace(
            config, checkpoints=dataclasses.replace(section, checkpoints_path_is_shared_file_system=True)
        )
    is_private = all(view == {number} for number, view in views.items())
    if is_private and not is_expected:
        return config
    raise agreed(InputError(_refusal(root, views, is_expected=is_expected, is_private=is_private)))


def agree_on_weights(folder: Path | None) -> None:
    """Refuse starting weights that are not the same step's on all ranks, as of a run that is still saving.

    Raises:
        InputError: naming the steps.
    """
    found = {name for name in exchange(folder and folder.name) if name}
    if len(found) > 1:
        raise agreed(
            InputError(
                f"model.init_method.path: the ranks found different steps ({', '.join(sorted(found))}); give "
                "the folder of one step"
            )
        )


def _refusal(root: Path, views: dict[int, set[int]], *, is_expected: bool, is_private: bool) -> str:
    got = f"{_FIELD}: got {str(is_expected).lower()}"
    if is_private:
        return (
            f"{got}, but the nodes do not see each other's files in {root}; name a folder that all of them mount, or "
            f"set {_FIELD}: false, and every node keeps a checkpoint of its own"
        )
    number, view = next((number, view) for number, view in views.items() if view != set(views))
    return (
        f"{got}, but in {root} node {number} sees the files of nodes {sorted(view)} of {sorted(views)} only; all nodes "
        "must share the folder, or none; name one that all of them mount"
    )


@contextmanager
def _token(root: Path, launch: str) -> Iterator[None]:
    """Let this node's token lie in the folder while the context is open; its first rank puts it there."""
    if place_on_node()[0] != 0:
        yield
        return
    path = node_token(root, launch, node())
    path.write_text(f"{os.uname().nodename} rank {rank()}\n", encoding="utf-8")
    sync_folder(root)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _visible(root: Path, launch: str, nodes: set[int], *, wait: bool) -> list[int]:
    """Return the nodes whose tokens are in the folder as this node sees it."""
    deadline = time.monotonic() + (_LOOK_SECONDS if wait else 0.0)
    while True:
        found = {number for number in nodes if node_token(root, launch, number).exists()}
        if found == nodes or time.monotonic() >= deadline:
            return sorted(found)
        time.sleep(0.5)


def some_ranks(names: Sequence[str]) -> str:
    """Return `rank 0`, or `ranks 0, 1, 2, 3 and 60 more`."""
    return f"rank{'s' if len(names) > 1 else ''} {first_few(names, 4)}"
