"""From rewards to advantages: how much better than expected a token or a completion was.

Pure functions of tensors. B is the number of completions, T the number of their tokens, padded on the right;
`mask` has shape (B, T), with 1 on the tokens of a completion, its end token included, and 0 on padding. What
stands in the padding never matters, not even NaN. Log-probabilities and divergences are in nats. The
advantages go into `losses.policy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain_helpers.losses.kl import k1_estimate, k3_estimate

if TYPE_CHECKING:
    import torch

KL_ESTIMATORS = {"k1": k1_estimate, "k3": k3_estimate}


def masked_whiten(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
    """Scale the tokens of a batch to variance 1, and shift them to mean 0.

    The variance is the unbiased one, and 1e-8 is added to it, as TRL does.

    Args:
        values: one number per token, shape (B, T).
        mask: 1 on the tokens that count, else 0, shape (B, T).
        shift_mean: False keeps the mean as it is, for rewards whose sign matters.

    Returns:
        The whitened values, 0 outside the mask, shape (B, T).
    """
    chosen = values[mask.bool()]
    assert chosen.numel() >= 2, f"whitening needs at least 2 tokens, but the mask has {chosen.numel()}"
    mean, variance = chosen.mean(), chosen.var()
    whitened = (values - mean) * (variance + 1e-8).rsqrt()
    if not shift_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask.bool(), 0)


def shaped_rewards(
    scores: torch.Tensor,
    log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    mask: torch.Tensor,
    kl_coef: float,
    kl_estimator: str = "k1",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one reward per token: the price of leaving the reference, and at the last token the score.

    Source: Ziegler et al. 2019, eq. 2; Ouyang et al. 2022, eq. 2. Their penalty is the log ratio, k1.

    Args:
        scores: what the reward model or a verifier gives each completion, shape (B,).
        log_probs: log-probabilities under the policy of the tokens that it sampled, shape (B, T).
        ref_log_probs: log-probabilities of the same tokens under the reference, shape (B, T).
        mask: 1 on the tokens of the completion, else 0, padded on the right, shape (B, T).
        kl_coef: reward per nat that a token is away from the reference.
        kl_estimator: "k1" or "k3", see `losses.kl`.

    Returns:
        The rewards and the estimates of the divergence, each 0 outside the mask, shape (B, T).
    """
    lengths = mask.long().sum(-1)
    assert (lengths > 0).all(), "a completion without tokens has none that could carry its score"
    kl = KL_ESTIMATORS[kl_estimator](log_probs, ref_log_probs).masked_fill(~mask.bool(), 0)
    last = (lengths - 1).unsqueeze(-1)
    rewards = (-kl_coef * kl).scatter_add(-1, last, scores.to(kl.dtype).unsqueeze(-1))
    return rewards, kl


def generalized_advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return generalised advantage estimates (GAE) and the returns that the value model learns to predict.

    The value after the last token of a completion is 0: nothing is left to decide there. The advantages are
    not whitened (`masked_whiten` does it).

    Source: Schulman et al. 2016, eq. 11-16.

    Args:
        rewards: one reward per token, shape (B, T), as `shaped_rewards` gives them.
        values: the rewards that the value model expects from this token on, before the token is chosen, shape
            (B, T).
        mask: 1 on the tokens of the completion, else 0, padded on the right, shape (B, T).
        gamma: how much a reward loses per token that it lies ahead.
        lam: 0 trusts the values (low variance, biased while they are wrong), 1 only the rewards (unbiased,
            high variance).

    Returns:
        The advantages and the returns (advantages + values), each 0 outside the mask, shape (B, T).
    """
    import torch

    rewards, values = (tensor.masked_fill(~mask.bool(), 0) for tensor in (rewards, values))
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    backwards = []
    for t in reversed(range(values.shape[1])):
        error = rewards[:, t] + gamma * next_value - values[:, t]
        # In the padding all three are 0, so what is carried to the last token is 0 as well.
        next_advantage = error + gamma * lam * next_advantage
        next_value = values[:, t]
        backwards.append(next_advantage)
    advantages = torch.stack(backwards[::-1], dim=1)
    return advantages, advantages + values


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the share of the variance of the returns that the critic's values explain, over all tokens.

    Args:
        values: what the critic predicted, shape (B, T).
        returns: what it should have predicted, shape (B, T).
        mask: 1 on the tokens of the completions, else 0, shape (B, T).

    Returns:
        A scalar: 1 for perfect values, 0 for values that are all equal, below 0 for worse ones; NaN where all
        returns are equal.
    """
    inside = mask.bool()
    return 1 - (returns - values)[inside].var() / returns[inside].var()
