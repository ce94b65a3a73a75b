"""What each micro-batch divides by makes the engine's mean of means a mean over the step's labels."""

from __future__ import annotations

from typing import Any

import torch


def micro_batches(num_kept: list[int]) -> list[dict[str, torch.Tensor]]:
    """Return micro-batches of 2 x 16 labels that keep so many of them."""
    return [{"label_mask": (torch.arange(32) < kept).view(2, 16)} for kept in num_kept]


def test_the_mean_over_micro_batches_is_the_mean_over_labels(engine: Any) -> None:
    from torch import distributed

    from nanotron_zagreus.training.token_mean import with_token_mean

    batches = with_token_mean(micro_batches([32, 3, 0, 17]), distributed.group.WORLD)
    losses = torch.rand(4, 2, 16, dtype=torch.float64)
    kept = torch.stack([batch["label_mask"] for batch in batches])
    means = [
        (loss * batch["label_mask"]).sum() / batch["num_labels"] for loss, batch in zip(losses, batches, strict=True)
    ]
    # num_labels is fp32.
    torch.testing.assert_close(torch.stack(means).mean(), losses[kept].mean(), rtol=1e-7, atol=0)


def test_full_masks_divide_by_their_own_number_of_labels(engine: Any) -> None:
    from torch import distributed

    from nanotron_zagreus.training.token_mean import with_token_mean

    batches = with_token_mean(micro_batches([32, 32, 32]), distributed.group.WORLD)
    assert [batch["num_labels"].item() for batch in batches] == [32.0, 32.0, 32.0]


def test_a_step_without_labels_divides_by_no_zero(engine: Any) -> None:
    from torch import distributed

    from nanotron_zagreus.training.token_mean import with_token_mean

    batches = with_token_mean(micro_batches([0, 0]), distributed.group.WORLD)
    assert all(batch["num_labels"].item() > 0 for batch in batches)
