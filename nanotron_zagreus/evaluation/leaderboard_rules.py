"""How the Portuguese leaderboard shares a model's context between prompt and answer.

Its own harness decides this outside the task files, so stock lm-eval needs telling. A task asks for these
rules by `context_rules: leaderboard-pt` in its metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "leaderboard-pt"
"""Of these rules, in a task's metadata and in results."""

_OF_OTHER_TASKS = "whole-shots"


def applies(metadata: Mapping[str, Any] | None) -> bool:
    """Say whether a task file with this ``metadata`` asks for the leaderboard's rules."""
    return (metadata or {}).get("context_rules") == NAME


def context_rule(metadata: Mapping[str, Any] | None) -> str:
    """Return which rule shares the context of a task with this ``metadata``: the leaderboard's, or whole shots only."""
    return NAME if applies(metadata) else _OF_OTHER_TASKS


def generation_tokens(max_length: int) -> int:
    """Return how many tokens the leaderboard generates with a model of this context.

    What a prompt of 2,560 tokens leaves of the context, at least 32; 1,536 tokens for contexts beyond
    4,096. The prompt gets the rest of the context.
    """
    return max(32, max_length - 2560) if max_length <= 4096 else 1536


def prompt_without_shots(prompt: str, description: str, delimiter: str) -> str:
    """Return ``prompt``, which has lost all its shots, as the leaderboard writes it.

    Its block of shots ends in the delimiter even when no shot is left in it.
    """
    return description + delimiter + prompt.removeprefix(description)


def chat_turns(turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the turns of a chat as the leaderboard hands them to a template: without blank lines at their ends."""
    return [{**turn, "content": turn["content"].strip()} for turn in turns]


def cut_to_last_tokens(
    tokens: torch.Tensor, mask: torch.Tensor, num_tokens: int, bos_token_id: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut prompts from the left, keeping the BOS token of those that begin with one.

    Args:
        tokens: token ids padded on the left, [batch, length].
        mask: 1 for tokens, 0 for padding, [batch, length].
        num_tokens: length to cut to.
        bos_token_id: the model's BOS token, if it has one.

    Returns:
        Tokens and mask, [batch, min(length, num_tokens)].
    """
    import torch

    lengths = mask.sum(dim=1)
    rows = torch.arange(len(tokens))
    first = tokens[rows, tokens.shape[1] - lengths]
    tokens, mask = tokens[:, -num_tokens:].clone(), mask[:, -num_tokens:]
    if bos_token_id is not None:
        tokens[(lengths > num_tokens) & (first == bos_token_id), 0] = bos_token_id
    return tokens, mask
