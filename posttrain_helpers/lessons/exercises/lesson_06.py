"""The exercises of lesson 06, direct preference optimization."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import logsigmoid

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    change_exercise,
    function_exercise,
    selection,
    value_exercise,
)
from posttrain_helpers.wording import counted

Tensor = torch.Tensor


def _two_words(answer: Any) -> list[str]:
    words = selection(answer, ("rises", "falls"))
    if len(words) != 2:
        raise NotYet('Give two words, the first for KL and the second for the mean reward: ["...", "..."].')
    return words


# Log-probabilities of replies: policy chosen, policy rejected, reference chosen, reference rejected. The
# second pair is a tie, as before the first step; the chosen reply of the third is the likelier one, and yet
# it lost.
_PAIRS = torch.tensor(
    [
        [-10.0, -20.0, -6.0, -9.0],
        [-16.0, -12.0, -9.0, -9.5],
        [-11.0, -20.0, -4.0, -8.0],
        [-13.0, -12.0, -8.0, -9.0],
    ]
)


def batch_metrics(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
) -> tuple[float, float]:
    """Return accuracy and mean margin of the implicit rewards."""
    margins = beta * ((policy_chosen - ref_chosen) - (policy_rejected - ref_rejected))
    return (margins > 0).float().mean().item(), margins.mean().item()


def _ties_won(*arguments: Any) -> tuple[float, float]:
    chosen, rejected, ref_chosen, ref_rejected, _ = arguments
    _, margin = batch_metrics(*arguments)
    return (chosen - ref_chosen >= rejected - ref_rejected).float().mean().item(), margin


def batch_loss(policy: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Return the mean DPO loss of a batch; chosen replies first, shape (2 * pairs, tokens)."""
    return _loss_of(((policy - ref) * mask).sum(-1), beta)


def _loss_of(gains: Tensor, beta: float) -> Tensor:
    chosen, rejected = gains.chunk(2)
    return -logsigmoid(beta * (chosen - rejected)).mean()


def _token_batch(seed: int, pairs: int, beta: float) -> tuple[Tensor, Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(seed)
    policy, ref = (-3 * torch.rand(2 * pairs, 12, generator=generator) for _ in range(2))
    prompts = torch.randint(0, 4, (2 * pairs, 1), generator=generator)
    lengths = torch.randint(2, 9, (2 * pairs, 1), generator=generator)
    places = torch.arange(12)
    return policy, ref, ((places >= prompts) & (places < prompts + lengths)).long(), beta


_OPPOSITE = (
    "The reference earns little, and reward is gained by leaving it. Can the two move in opposite directions?"
)

EXERCISES: tuple[Exercise, ...] = (
    value_exercise(
        "06.1",
        ["falls", "falls"],
        (
            (
                ["rises", "rises"],
                "Look at the objective of step 1: beta stands before KL with a minus sign. Does a higher "
                "price make the policy buy more of it?",
            ),
            (["falls", "rises"], _OPPOSITE),
        ),
        lambda _: _OPPOSITE,
        "Beta is the price of distance from the reference. At a higher price the policy moves less "
        "far, and misses the reward that it would have found there.",
        read=_two_words,
    ),
    function_exercise(
        "06.2",
        "function",
        batch_metrics,
        [(*_PAIRS, 0.1), (*_PAIRS, 0.5), (*_PAIRS[:, :2], 0.1)],
        (
            (
                lambda *arguments: batch_metrics(*arguments)[::-1],
                "The two numbers are in the wrong order: accuracy first, margin second.",
            ),
            (
                lambda chosen, rejected, *more: batch_metrics(chosen, rejected, 0, 0, more[-1]),
                "A reply that was likely from the start has gained nothing. Where is the reference?",
            ),
            (_ties_won, "Before the first step no pair is won yet. What does your function return there?"),
            (
                lambda *arguments: batch_metrics(*arguments[:4], beta=1.0),
                "The accuracy is right. The margin is one of rewards, and what scales a reward?",
            ),
        ),
        lambda found, *given: (
            f"For {len(given[0])} pairs and beta = {given[-1]} your function returns accuracy {found[0]:.3f} "
            f"and margin {found[1]:.3f}, which is not right; work one pair out by hand."
        ),
        "These are `rewards/accuracies` and `rewards/margins` in the trainer's log. Both compare gains "
        "over the reference, so a reply need not be likely to win.",
    ),
    function_exercise(
        "06.3",
        "bug",
        batch_loss,
        [_token_batch(0, 1, 0.1), _token_batch(1, 3, 0.1), _token_batch(2, 4, 0.5)],
        (
            (
                lambda policy, ref, mask, beta: _loss_of(
                    ((policy - ref) * mask).sum(-1) / mask.sum(-1), beta
                ),
                "Take two replies of which every token gained 0.1 nats, one with 5 tokens and one with 50. "
                "Which became likelier by the larger factor, and does this function see it?",
            ),
            (
                lambda policy, ref, mask, beta: batch_loss(policy, ref, torch.ones_like(mask), beta),
                "What does your function do with positions where the mask is 0?",
            ),
            (
                lambda policy, ref, mask, beta: batch_loss(ref, policy, mask, beta),
                "The sign is turned round. Whose change is measured, the policy's or the reference's, and "
                "which half of the rows holds the chosen replies?",
            ),
            (
                lambda policy, ref, mask, beta: batch_loss(policy, ref, mask, beta) * (len(mask) // 2),
                "With one pair it is right, with several too large. Which loss does a batch of pairs have?",
            ),
        ),
        lambda found, policy, ref, mask, beta: (
            f"On a batch of {counted(len(mask) // 2, 'pair')} with beta = {beta} your loss is {found:.4f}, "
            f"not {batch_loss(policy, ref, mask, beta):.4f}. Write down what the log-probability of one "
            "reply is, and compare."
        ),
        "The log-probability of a reply is the sum over its tokens. The mean makes another loss: its "
        "log-ratios are no longer those of replies, and its beta has another scale. Both losses start at "
        "ln 2 and fall, so no learning curve shows the mistake. (Lesson 07 has losses that divide by length "
        "on purpose.)",
    ),
    change_exercise(
        "06.4",
        ("args.beta", "args.learning_rate", "args.num_train_epochs"),
        "args.learning_rate=7e-5",
        (({"changed": "args.beta=0.1 args.learning_rate=7e-5"}, "Change one setting"),),
        "One change, the same prompts, an interval, and a verdict that the interval supports: that is an "
        "experiment. Another seed would be the next one.",
    ),
)
