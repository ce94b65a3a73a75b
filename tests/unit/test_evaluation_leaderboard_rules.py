"""The leaderboard's division of the context; expectations worked out by hand from its rule."""

from __future__ import annotations

import pytest
import torch

from nanotron_zagreus.evaluation import leaderboard_rules

_BOS, _PAD = 7, 0


@pytest.mark.parametrize(
    ("context", "tokens"),
    [(1024, 32), (2592, 32), (2593, 33), (4096, 1536), (4097, 1536), (40960, 1536)],
)
def test_answers_get_what_a_prompt_of_2560_tokens_leaves(context: int, tokens: int) -> None:
    assert leaderboard_rules.generation_tokens(context) == tokens


def test_only_tasks_that_ask_for_the_rules_get_them() -> None:
    assert leaderboard_rules.applies({"version": 1.0, "context_rules": "leaderboard-pt"})
    assert not leaderboard_rules.applies({"version": 1.0})
    assert not leaderboard_rules.applies(None)


def test_a_lost_block_of_shots_leaves_its_delimiter() -> None:
    assert leaderboard_rules.prompt_without_shots("Leia.\n\nTexto: a", "Leia.\n\n", "\n\n") == "Leia.\n\n\n\nTexto: a"


def test_cut_prompts_keep_bos_and_their_last_tokens() -> None:
    tokens = torch.tensor(
        [
            [_BOS, 1, 2, 3, 4, 5],  # too long: BOS and the last three
            [_PAD, _BOS, 1, 2, 3, 4],  # too long by one
            [_PAD, _PAD, _BOS, 1, 2, 3],  # fits
            [1, 2, 3, 4, 5, 6],  # too long, and never had a BOS
        ]
    )
    mask = torch.tensor([[1] * 6, [0] + [1] * 5, [0, 0] + [1] * 4, [1] * 6])
    cut, cut_mask = leaderboard_rules.cut_to_last_tokens(tokens, mask, 4, _BOS)
    assert cut.tolist() == [[_BOS, 3, 4, 5], [_BOS, 2, 3, 4], [_BOS, 1, 2, 3], [3, 4, 5, 6]]
    assert cut_mask.tolist() == [[1] * 4] * 4
    assert tokens[0].tolist() == [_BOS, 1, 2, 3, 4, 5]  # the caller's tensor is left alone
    without = leaderboard_rules.cut_to_last_tokens(tokens, mask, 4, None)[0]
    assert without[0].tolist() == [2, 3, 4, 5]


def test_prompts_that_fit_stay_as_they_are() -> None:
    tokens, mask = torch.tensor([[_PAD, _BOS, 1], [_BOS, 1, 2]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    for room in (3, 10):
        cut, cut_mask = leaderboard_rules.cut_to_last_tokens(tokens, mask, room, _BOS)
        assert torch.equal(cut, tokens) and torch.equal(cut_mask, mask)


def test_turns_of_a_chat_have_no_blank_ends() -> None:
    turns = [{"role": "system", "content": "Leia.\n\n"}, {"role": "user", "content": " a\n"}]
    assert leaderboard_rules.chat_turns(turns) == [
        {"role": "system", "content": "Leia."}, {"role": "user", "content": "a"}
    ]  # fmt: skip
    assert turns[0]["content"] == "Leia.\n\n"
