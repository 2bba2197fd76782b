"""The exercises of lesson 06, direct preference optimization."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    is_close,
    name_mistake,
    number,
    numbers,
    plain,
    selection,
)
from posttrain_helpers.losses.preference import dpo_loss
from posttrain_helpers.statistics import paired_numeric
from posttrain_helpers.wording import counted

_DIRECTIONS = ("rises", "falls")


def _grade_beta(answer: Any) -> None:
    words = selection(answer, _DIRECTIONS)
    if len(words) != 2:
        raise NotYet('Give two words, the first for KL and the second for the mean reward: ["...", "..."].')
    divergence, reward = words
    if (divergence, reward) == ("rises", "rises"):
        raise NotYet(
            "Look at the objective of step 1: beta stands before KL with a minus sign. Does a higher price "
            "make the policy buy more of it?"
        )
    if divergence != reward:
        raise NotYet(
            "The reference earns little, and reward is gained by leaving it. Can the two move in opposite "
            "directions?"
        )


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
_METRIC_INPUTS = ((_PAIRS, 0.1), (_PAIRS, 0.5), (_PAIRS[:, :2], 0.1))


def batch_metrics(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    beta: float,
) -> tuple[float, float]:
    """Return accuracy and mean margin of the implicit rewards."""
    margins = beta * ((policy_chosen - ref_chosen) - (policy_rejected - ref_rejected))
    return (margins > 0).float().mean().item(), margins.mean().item()


def _without_reference(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    beta: float,
) -> tuple[float, float]:
    return batch_metrics(policy_chosen, policy_rejected, policy_chosen * 0, policy_chosen * 0, beta)


def _without_beta(*sums: torch.Tensor, beta: float | None = None) -> tuple[float, float]:
    return batch_metrics(*sums[:4], beta=1.0)


def _ties_won(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    beta: float,
) -> tuple[float, float]:
    margins = beta * ((policy_chosen - ref_chosen) - (policy_rejected - ref_rejected))
    return (margins >= 0).float().mean().item(), margins.mean().item()


def _swapped(*arguments: Any) -> tuple[float, float]:
    accuracy, margin = batch_metrics(*arguments)
    return margin, accuracy


def _grade_metrics(answer: Any) -> None:
    for sums, beta in _METRIC_INPUTS:
        found = call(answer, *sums, beta)
        if not isinstance(plain(found), (list, tuple)):
            raise NotYet("Two numbers are expected, accuracy first and margin second.")
        given = numbers(found, 2)
        if _same(given, batch_metrics(*sums, beta)):
            continue
        hints = (
            (_swapped, "The two numbers are in the wrong order: accuracy first, margin second."),
            (
                _without_reference,
                "A reply that was likely from the start has gained nothing. Where is the reference?",
            ),
            (_ties_won, "Before the first step no pair is won yet. What does your function return there?"),
            (_without_beta, "The accuracy is right. The margin is one of rewards, and what scales a reward?"),
        )
        name_mistake(hints, given, *sums, beta, same=_same)
        raise NotYet(
            f"For {sums.shape[1]} pairs and beta = {beta} your function returns accuracy {given[0]:.3f} and "
            f"margin {given[1]:.3f}, which is not right; work one pair out by hand."
        )


def _same(found: list[float], expected: tuple[float, float]) -> bool:
    return all(is_close(a, b, 1e-4) for a, b in zip(found, expected, strict=True))


def batch_loss(policy: torch.Tensor, ref: torch.Tensor, mask: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the mean DPO loss of a batch; chosen replies first, shape (2 * pairs, tokens)."""
    gains = ((policy - ref) * mask).sum(-1)
    chosen, rejected = gains.chunk(2)
    return -logsigmoid(beta * (chosen - rejected)).mean()


def _batch_loss_of_means(
    policy: torch.Tensor, ref: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    gains = ((policy - ref) * mask).sum(-1) / mask.sum(-1)
    chosen, rejected = gains.chunk(2)
    return -logsigmoid(beta * (chosen - rejected)).mean()


def _batch_loss_with_padding(
    policy: torch.Tensor, ref: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    return batch_loss(policy, ref, torch.ones_like(mask), beta)


def _batch_loss_turned_round(
    policy: torch.Tensor, ref: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    return batch_loss(ref, policy, mask, beta)


def _batch_loss_with_the_sum_of_pairs(
    policy: torch.Tensor, ref: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    return batch_loss(policy, ref, mask, beta) * (len(mask) // 2)


def _token_batches() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]]:
    batches = []
    for seed, pairs, beta in ((0, 1, 0.1), (1, 3, 0.1), (2, 4, 0.5)):
        generator = torch.Generator().manual_seed(seed)
        policy, ref = (-3 * torch.rand(2 * pairs, 12, generator=generator) for _ in range(2))
        prompts = torch.randint(0, 4, (2 * pairs, 1), generator=generator)
        lengths = torch.randint(2, 9, (2 * pairs, 1), generator=generator)
        places = torch.arange(12)
        mask = (places >= prompts) & (places < prompts + lengths)
        batches.append((policy, ref, mask.long(), beta))
    return batches


def _grade_batch_loss(answer: Any) -> None:
    for policy, ref, mask, beta in _token_batches():
        found = number(call(answer, policy, ref, mask, beta))
        expected = batch_loss(policy, ref, mask, beta).item()
        if is_close(found, expected, 1e-4):
            continue
        hints = (
            (
                _batch_loss_of_means,
                "Take two replies of which every token gained 0.1 nats, one with 5 tokens and one with 50. "
                "Which became likelier by the larger factor, and does this function see it?",
            ),
            (_batch_loss_with_padding, "What does your function do with positions where the mask is 0?"),
            (
                _batch_loss_turned_round,
                "The sign is turned round. Whose change is measured, the policy's or the reference's, and "
                "which half of the rows holds the chosen replies?",
            ),
            (
                _batch_loss_with_the_sum_of_pairs,
                "With one pair it is right, with several too large. Which loss does a batch of pairs have?",
            ),
        )
        name_mistake(hints, found, policy, ref, mask, beta, same=partial(is_close, tolerance=1e-4))
        raise NotYet(
            f"On a batch of {counted(len(mask) // 2, 'pair')} with beta = {beta} your loss is {found:.4f}, "
            f"not {expected:.4f}. Write down what the log-probability of one reply is, and compare."
        )


_LESS_DISTANCE = paired_numeric([2.0, 1.5, 1.0] * 32, [0.5, 0.75, 0.25] * 32, higher_is_better=False)
_SETTING = "args.learning_rate=7e-5"

EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        id="06.1",
        kind="predict",
        grade=_grade_beta,
        solution=["falls", "falls"],
        mistakes=(
            (["rises", "rises"], "minus sign"),
            (["falls", "rises"], "opposite directions"),
            ("falls", "two words"),
        ),
        why="Beta is the price of distance from the reference. At a higher price the policy moves less "
        "far, and misses the reward that it would have found there.",
    ),
    Exercise(
        id="06.2",
        kind="function",
        grade=_grade_metrics,
        solution=batch_metrics,
        mistakes=(
            (_without_reference, "Where is the reference"),
            (_without_beta, "what scales a reward"),
            (_ties_won, "Before the first step"),
            (_swapped, "wrong order"),
            (dpo_loss, "numbers"),
        ),
        why="These are `rewards/accuracies` and `rewards/margins` in the trainer's log. Both compare gains "
        "over the reference, so a reply need not be likely to win.",
    ),
    Exercise(
        id="06.3",
        kind="bug",
        grade=_grade_batch_loss,
        solution=batch_loss,
        mistakes=(
            (_batch_loss_of_means, "does this function see it"),
            (_batch_loss_with_padding, "where the mask is 0"),
            (_batch_loss_turned_round, "Whose change"),
            (_batch_loss_with_the_sum_of_pairs, "With one pair it is right"),
            (lambda policy, ref, mask, beta: policy.sum() * 0 + 9.0, "log-probability of one reply"),
        ),
        why="The log-probability of a reply is the sum over its tokens. The mean makes another loss: its "
        "log-ratios are no longer those of replies, and its beta has another scale. Both losses start at "
        "ln 2 and fall, so no learning curve shows the mistake. (Lesson 07 has losses that divide by length "
        "on purpose.)",
    ),
    change_exercise(
        "06.4",
        allowed=("args.beta", "args.learning_rate", "args.num_train_epochs"),
        changed=_SETTING,
        result=_LESS_DISTANCE,
        why="One change, the same prompts, an interval, and a verdict that the interval supports: that is an "
        "experiment. Another seed would be the next one.",
        more=(
            (
                {
                    "changed": "args.beta=0.1 args.learning_rate=7e-5",
                    "result": _LESS_DISTANCE,
                    "verdict": "improved",
                },
                "Change one setting",
            ),
        ),
    ),
)
