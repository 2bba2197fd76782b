"""The KL divergence from the policy to the reference: per token, and two estimates of it from samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def token_kl(policy_logits: torch.Tensor, reference_logits: torch.Tensor) -> torch.Tensor:
    """Return the exact KL(policy || reference) of next-token distributions.

    With the arguments swapped it is KL(reference || policy).

    Args:
        policy_logits: scores of every vocabulary entry, shape (..., V).
        reference_logits: the same from the reference model.

    Returns:
        One divergence per position in nats, shape (...), at least 0 up to rounding.
    """
    from torch.nn.functional import kl_div

    policy, reference = _log_probs(policy_logits), _log_probs(reference_logits)
    # kl_div takes the second distribution first; log_target: both are given as log-probabilities.
    return kl_div(reference, policy, log_target=True, reduction="none").sum(-1)


def _log_probs(logits: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities in float32 at least: the KL is a small difference of large numbers."""
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def k1_estimate(log_probs: torch.Tensor, ref_log_probs: torch.Tensor) -> torch.Tensor:
    """Estimate KL(policy || reference) by the log ratio: unbiased, but often negative for single tokens.

    Source: Schulman 2020, "Approximating KL divergence", k1. It belongs into a reward; as a loss its expected
    gradient is zero.

    Args:
        log_probs: log-probabilities under the policy of tokens that the policy sampled, any shape.
        ref_log_probs: log-probabilities of the same tokens under the reference.

    Returns:
        One estimate per token, in nats.
    """
    return log_probs - ref_log_probs


def k3_estimate(log_probs: torch.Tensor, ref_log_probs: torch.Tensor) -> torch.Tensor:
    """Estimate KL(policy || reference) by k3: unbiased, and never negative.

    Source: Schulman 2020, "Approximating KL divergence", k3.

    Args:
        log_probs: log-probabilities under the policy of tokens that the policy sampled, any shape.
        ref_log_probs: log-probabilities of the same tokens under the reference.

    Returns:
        One estimate per token, in nats.
    """
    log_ratio = ref_log_probs - log_probs
    return log_ratio.expm1() - log_ratio
