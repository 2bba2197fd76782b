"""The losses of preference learning, as the lessons show them; the tests prove them equal to TRL's.

Every function returns one loss per pair (or per labelled reply), so that a lesson can plot the loss over its
margin; training takes the mean. N stands for any shape. Log-probabilities are in nats. "Sums" run over the
tokens of a completion, its end token included (`generation.likelihood.completion_log_probs`);
"means" are sums divided by the number of these tokens. Which of the two a loss takes is a part of the loss:
swapping them gives another loss with another scale of beta.
"""

from __future__ import annotations

# At the top, unlike elsewhere in the package, so that a lesson can show the functions exactly as they are.
import torch
from torch.nn.functional import logsigmoid


def bradley_terry_loss(
    chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor, margin: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Return the loss of a reward model: -log P(chosen beats rejected).

    Source: Bradley & Terry 1952; Ouyang et al. 2022, eq. 1; the margin is Touvron et al. 2023 (Llama 2),
    eq. 2.

    Args:
        chosen_rewards: scores of the chosen replies, shape (N,).
        rejected_rewards: scores of the rejected replies, shape (N,).
        margin: by how much the chosen reply should at least win, shape (N,) or a number.

    Returns:
        Loss per pair, shape (N,).
    """
    return -logsigmoid(chosen_rewards - rejected_rewards - margin)


def dpo_loss(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Return the loss of direct preference optimisation.

    Source: Rafailov et al. 2023, eq. 7. A higher beta keeps the optimum closer to the reference.

    Args:
        policy_chosen: sum of the log-probabilities of the chosen completion under the policy, shape (N,).
        policy_rejected: the same for the rejected completion.
        ref_chosen: as `policy_chosen`, under the reference model.
        ref_rejected: as `policy_rejected`, under the reference model.
        beta: strength of the KL penalty that the loss stands for.

    Returns:
        Loss per pair, shape (N,); ln 2 where the policy equals the reference.
    """
    chosen_reward = beta * (policy_chosen - ref_chosen)
    rejected_reward = beta * (policy_rejected - ref_rejected)
    return -logsigmoid(chosen_reward - rejected_reward)


def ipo_loss(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    chosen_lengths: torch.Tensor,
    rejected_lengths: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Return the loss of identity preference optimisation, averaged per token as TRL does.

    Source: Azar et al. 2023, eq. 17, where beta is called tau. The equation takes the log ratios of whole
    completions; TRL divides each by the number of tokens, so that long completions do not dominate the
    square.

    Args:
        policy_chosen: sum of the log-probabilities of the chosen completion under the policy, shape (N,).
        policy_rejected: the same for the rejected completion.
        ref_chosen: as `policy_chosen`, under the reference model.
        ref_rejected: as `policy_rejected`, under the reference model.
        chosen_lengths: tokens of the chosen completions, shape (N,).
        rejected_lengths: tokens of the rejected completions, shape (N,).
        beta: the margin aimed at is 1 / (2 beta) nats per token.

    Returns:
        Loss per pair, shape (N,); 1 / (4 beta²) where the policy equals the reference.
    """
    chosen_ratio = (policy_chosen - ref_chosen) / chosen_lengths
    rejected_ratio = (policy_rejected - ref_rejected) / rejected_lengths
    return (chosen_ratio - rejected_ratio - 1 / (2 * beta)) ** 2


def kto_loss(
    policy_log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    desirable: torch.Tensor,
    kl: torch.Tensor | float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """Return the Kahneman-Tversky loss of single replies that are labelled good or bad.

    Source: Ethayarajh et al. 2024, eq. 7 in the numbering that TRL cites. The reference point z0 is `kl`.

    Args:
        policy_log_probs: sum of the log-probabilities of each completion under the policy, shape (N,).
        ref_log_probs: the same under the reference model.
        desirable: True where the reply is labelled good, shape (N,).
        kl: the reference point, as `kto_kl` estimates it; at least 0 and without gradient.
        beta: how soon gains and losses saturate.
        desirable_weight: weight of the good replies.
        undesirable_weight: weight of the bad replies.

    Returns:
        Loss per reply, shape (N,); half the weight where the policy equals the reference.
    """
    margins = policy_log_probs - ref_log_probs - kl
    desirable_loss = desirable_weight * (1 - torch.sigmoid(beta * margins))
    undesirable_loss = undesirable_weight * (1 - torch.sigmoid(-beta * margins))
    return torch.where(desirable, desirable_loss, undesirable_loss)


def kto_kl(policy_mismatched: torch.Tensor, ref_mismatched: torch.Tensor) -> torch.Tensor:
    """Estimate the reference point of `kto_loss` from replies scored under prompts of other rows.

    Source: Ethayarajh et al. 2024, section 4. The completions move to another prompt and are scored again;
    to roll the log-probabilities of the matched rows changes nothing, because a mean has no order.

    Args:
        policy_mismatched: sum of the log-probabilities of each mismatched completion under the policy,
            shape (N,).
        ref_mismatched: the same under the reference model.

    Returns:
        A scalar of at least 0, without gradient.
    """
    return (policy_mismatched - ref_mismatched).mean().clamp(min=0).detach()


def orpo_loss(
    chosen_nll: torch.Tensor,
    policy_chosen_mean: torch.Tensor,
    policy_rejected_mean: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Return the loss of odds-ratio preference optimisation, which needs no reference model.

    Source: Hong et al. 2024, eq. 6 and 7; beta is called lambda there. The paper's first term is the loss of
    the chosen completion. TRL's is the mean over all tokens of the batch's chosen sequences, those of the
    prompt included.

    Args:
        chosen_nll: negative log-likelihood of the chosen sequences in nats per token, shape (N,) or a scalar.
        policy_chosen_mean: mean log-probability per token of the chosen completion, shape (N,), below 0.
        policy_rejected_mean: the same for the rejected completion.
        beta: weight of the odds ratio.

    Returns:
        Loss per pair, shape (N,).
    """
    chosen_log_odds = policy_chosen_mean - torch.log(-torch.expm1(policy_chosen_mean))  # log(p / (1 - p))
    rejected_log_odds = policy_rejected_mean - torch.log(-torch.expm1(policy_rejected_mean))
    return chosen_nll - beta * logsigmoid(chosen_log_odds - rejected_log_odds)


def simpo_loss(
    policy_chosen_mean: torch.Tensor, policy_rejected_mean: torch.Tensor, beta: float, gamma: float
) -> torch.Tensor:
    """Return the loss of simple preference optimisation, which needs no reference model.

    Source: Meng et al. 2024, eq. 6. Gamma stands outside beta: it is a margin between rewards, not between
    log-probabilities.

    Args:
        policy_chosen_mean: mean log-probability per token of the chosen completion, shape (N,).
        policy_rejected_mean: the same for the rejected completion.
        beta: the reward is beta times the mean log-probability.
        gamma: by how much the chosen reward should at least win.

    Returns:
        Loss per pair, shape (N,).
    """
    return -logsigmoid(beta * (policy_chosen_mean - policy_rejected_mean) - gamma)
