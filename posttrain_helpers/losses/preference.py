"""The loss of direct preference optimisation, as lesson 06 shows it; the tests prove it equal to TRL's.

It is one loss per pair, so that a lesson can plot it over its margin; training takes the mean. N stands for
any shape. Log-probabilities are in nats, summed over the tokens of a completion, its end token included
(`generation.likelihood.completion_log_probs`).
"""

from __future__ import annotations

# At the top, unlike elsewhere in the package, so that a lesson can show the function exactly as it is.
import torch
from torch.nn.functional import logsigmoid


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
