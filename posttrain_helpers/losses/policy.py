"""The losses of policy-gradient training per token, as PPO uses them and lesson 08 shows them.

Pure functions of tensors. B is the number of completions, T the number of their tokens, padded on the right,
V the size of the vocabulary; `mask` has shape (B, T), with 1 on the tokens of a completion, its end token
included, and 0 on padding. Log-probabilities, entropies and divergences are in nats. The advantages come from
`losses.advantages`.
"""

from __future__ import annotations

# At the top, as in `losses.preference`, so that a lesson can show the functions exactly as they are.
import torch


def token_log_probs(logits: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return the log-probability of each token under the full softmax.

    The policy gradient holds for the distribution that the tokens were sampled from, so pass the temperature
    of the sampling, and sample without top-k and top-p.

    Args:
        logits: scores at the positions that predict the tokens (one before each), shape (B, T, V).
        tokens: ids of the tokens, shape (B, T).
        temperature: what the logits are divided by, above 0.

    Returns:
        Log-probabilities in nats, shape (B, T).
    """
    return (logits.float() / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def token_entropy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return the entropy of each next-token distribution: how undecided the policy is.

    Args:
        logits: scores of every vocabulary entry, shape (B, T, V).
        temperature: what the logits are divided by, above 0.

    Returns:
        Entropies in nats, from 0 (one token is certain) to log V (all are equally likely), shape (B, T).
    """
    return torch.special.entr((logits.float() / temperature).softmax(-1)).sum(-1)


def clipped_policy_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clipped surrogate loss of PPO and GRPO.

    The minimum is right for both signs of the advantage: a token stops pulling once its probability has moved
    far enough in the direction that the advantage asks for. The way back stays open.

    Source: Schulman et al. 2017, eq. 7; two different bounds are Yu et al. 2025 (DAPO), section 3.1.

    Args:
        log_probs: log-probabilities of the sampled tokens under the policy, shape (B, T).
        old_log_probs: the same under the policy that sampled them, without gradient, shape (B, T).
        advantages: one per token, shape (B, T), or one per completion, shape (B, 1).
        epsilon: how far the ratio may fall below 1, and rise above it.
        epsilon_high: how far it may rise above 1, if not `epsilon`.

    Returns:
        Loss per token, and True where the clip makes it constant; each of shape (B, T).
    """
    assert advantages.shape in (log_probs.shape, (len(log_probs), 1)), (
        f"advantages have the shape {tuple(advantages.shape)}, beside tokens of {tuple(log_probs.shape)}"
    )
    ratio = (log_probs - old_log_probs).exp()
    high = epsilon if epsilon_high is None else epsilon_high
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - epsilon, 1 + high) * advantages
    return -torch.minimum(unclipped, clipped), clipped < unclipped


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, epsilon: float = 0.2
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clipped loss of PPO's value model: half the squared error, the larger of two.

    Source: the code of Schulman et al. 2017 (OpenAI baselines), described in Engstrom et al. 2020, section 3.

    Args:
        values: what the value model predicts now, shape (B, T).
        old_values: what it predicted when the tokens were sampled, without gradient, shape (B, T).
        returns: what it should predict, without gradient, shape (B, T).
        epsilon: how far a prediction should move from the old one, in units of the reward.

    Returns:
        Loss per token, and True where the clipped prediction gives the larger loss, so that the prediction
        gets no gradient; each of shape (B, T).
    """
    near = values.clamp(old_values - epsilon, old_values + epsilon)
    error, near_error = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * torch.maximum(error, near_error), near_error > error


def approximate_kl(log_probs: torch.Tensor, old_log_probs: torch.Tensor) -> torch.Tensor:
    """Estimate how far an update has moved the policy: half the squared log ratio.

    Source: Schulman 2020, "Approximating KL divergence", k2. Biased, but small while the policies are close.

    Args:
        log_probs: log-probabilities of the sampled tokens under the policy, shape (B, T).
        old_log_probs: the same under the policy that sampled them, shape (B, T).

    Returns:
        One estimate per token in nats, at least 0, shape (B, T).
    """
    return 0.5 * (log_probs - old_log_probs) ** 2
