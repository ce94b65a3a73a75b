"""Which folders of a run hold documents with other beginnings or ends than the others, as far as it was recorded.

Legal, and hardly ever meant: a model that sees ends of text in some of its data learns to stop in some kinds of text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nanotron_zagreus.data.tokenizer_identity import read_record
from nanotron_zagreus.units import first_few

_VERBS = {"bos": "begins", "eos": "ends"}
_MOST_NAMED = 3


def mixed_special_tokens(folders: Iterable[Path]) -> list[str]:
    """Return a sentence for each end of the documents at which the folders differ.

    Args:
        folders: of shards; those that are not here, or that `zagreus tokenize` did not make, are not judged.
    """
    known = [(folder, read_record(folder)) for folder in dict.fromkeys(folders) if folder.is_dir()]
    sentences = []
    for role, verb in _VERBS.items():
        kinds: dict[str | None, list[Path]] = {}
        for folder, record in known:
            if record is not None and f"{role}_token" in record:
                kinds.setdefault(record[f"{role}_token"], []).append(folder)
        if len(kinds) < 2:
            continue
        (token, members), *others = sorted(kinds.items(), key=_named_first)
        rest = ", ".join(f"{_token(other)} in {first_few(holders, _MOST_NAMED)}" for other, holders in others)
        sentences.append(
            f"data_stages: {_token(token)} {verb} documents in {first_few(members, _MOST_NAMED)}, but {rest}; unless "
            "that is meant, tokenize one kind again"
        )
    return sentences


def _named_first(kind: tuple[str | None, list[Path]]) -> tuple[bool, str]:
    return kind[0] is None, kind[0] or ""


def _token(token: str | None) -> str:
    return "nothing" if token is None else repr(token)
