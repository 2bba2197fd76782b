"""Losses written by hand, as the lessons show them; the tests prove them equal to the library's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

IGNORED = -100


def masked_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean negative log-probability of the supervised tokens.

    Args:
        logits: scores of every vocabulary entry at every position, shape (batch, length, vocabulary).
        labels: the token at every position, -100 where it is not supervised, shape (batch, length).

    Returns:
        A scalar, in nats per supervised token.
    """
    log_probs = logits[:, :-1].log_softmax(-1)  # position t predicts token t + 1 ...
    targets = labels[:, 1:]  # ... so the labels move one to the left
    supervised = targets != IGNORED
    chosen = log_probs.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -chosen[supervised].mean()
