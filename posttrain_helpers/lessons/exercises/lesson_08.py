"""The exercises of lesson 08: the clipped objective, the critic's loss, explained variance, one setting."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    compared,
    is_close,
    number,
    numbers,
)
from posttrain_helpers.statistics.paired_tests import PairedResult, paired_numeric

if TYPE_CHECKING:
    import torch

_SETTINGS = ("args.kl_coef", "args.learning_rate", "args.num_ppo_epochs", "args.num_mini_batches")


def _directions(answer: Any) -> None:
    found = [round(value) for value in numbers(answer, 4)]
    if found == [0, 1, 0, -1]:
        return
    if found == [1, 1, -1, -1]:
        raise NotYet(
            "That is the sign of the advantage alone. Where has the ratio already moved further than the "
            "clip allows, in the direction that the advantage asks for?"
        )
    if found == [1, 0, -1, 0]:
        raise NotYet("That is the maximum of the two terms; PPO takes the minimum. Work out both terms.")
    if found == [0, 0, 0, 0]:
        raise NotYet(
            "All four ratios lie outside 0.8 to 1.2, but the minimum takes the clipped term only where it is "
            "the smaller one."
        )
    raise NotYet(
        "Write down ratio * A and clip(ratio) * A for each token, take the smaller one, and ask whether it "
        "depends on the ratio."
    )


def _critic_batch() -> tuple[torch.Tensor, ...]:
    """Return values now and then, returns and mask; the padding holds numbers that must not count."""
    import torch

    values = torch.tensor([[0.5, 1.4, -0.3], [2.6, 0.1, 9.0]])
    old_values = torch.tensor([[0.4, 0.9, 0.2], [1.9, 0.6, -4.0]])
    returns = torch.tensor([[1.0, 1.6, -0.9], [0.3, 0.1, 0.0]])
    return values, old_values, returns, torch.tensor([[1, 1, 1], [1, 1, 0]])


def critic_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    epsilon: float = 0.2,
) -> torch.Tensor:
    """Return the clipped loss of the critic, the mean over the tokens of the replies."""
    import torch

    near = values.clamp(old_values - epsilon, old_values + epsilon)
    losses = 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return losses[mask.bool()].mean()


def _unclipped(values, old_values, returns, mask, epsilon=0.2):
    return 0.5 * ((values - returns) ** 2)[mask.bool()].mean()


def _smaller(values, old_values, returns, mask, epsilon=0.2):
    import torch

    near = values.clamp(old_values - epsilon, old_values + epsilon)
    return 0.5 * torch.minimum((values - returns) ** 2, (near - returns) ** 2)[mask.bool()].mean()


def _without_half(values, old_values, returns, mask, epsilon=0.2):
    return 2 * critic_loss(values, old_values, returns, mask, epsilon)


def _over_padding(values, old_values, returns, mask, epsilon=0.2):
    import torch

    return critic_loss(values, old_values, returns, torch.ones_like(mask), epsilon)


def _zeros_in_padding(values, old_values, returns, mask, epsilon=0.2):
    return critic_loss(values, old_values, returns, mask, epsilon) * mask.sum() / mask.numel()


_CRITIC_HINTS = (
    (
        _unclipped,
        "That is the plain squared error: the clipped value is missing, which counts where it is larger.",
    ),
    (_smaller, "That is the smaller of the two errors; the critic's loss takes the larger one."),
    (_without_half, "It is twice too large: the formula has a factor in front."),
    (_over_padding, "The padding counts in your mean; take the tokens that the mask marks."),
    (_zeros_in_padding, "The padding adds 0 to your sum but counts in the number that you divide by."),
)


def _grade_critic(answer: Any) -> None:
    batch = _critic_batch()
    for epsilon in (0.2, 0.5):
        found = number(call(answer, *batch, epsilon))
        if is_close(found, critic_loss(*batch, epsilon).item()):
            continue
        for wrong, hint in _CRITIC_HINTS:
            if is_close(found, wrong(*batch, epsilon).item()):
                raise NotYet(hint)
        raise NotYet(
            f"For a batch with epsilon {epsilon} your loss is {found:.3f}. Check the parts one by one: the "
            "clipped values, the two squared errors, the mean over the tokens that the mask marks."
        )


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the share of the variance of the returns that the values explain, over the tokens of replies."""
    inside = mask.bool()
    return 1 - (returns - values)[inside].var() / returns[inside].var()


def _with_padding(values, returns, mask):
    return 1 - ((returns - values) * mask).var() / (returns * mask).var()


def _only_errors_cut(values, returns, mask):
    return 1 - (returns - values)[mask.bool()].var() / (returns * mask).var()


def _mean_square(values, returns, mask):
    inside = mask.bool()
    return 1 - ((returns - values)[inside] ** 2).mean() / returns[inside].var(unbiased=False)


def _grade_explained(answer: Any) -> None:
    values, _, returns, mask = _critic_batch()
    found = number(call(answer, values, returns, mask))
    if is_close(found, explained_variance(values, returns, mask).item()):
        return
    if is_close(found, _with_padding(values, returns, mask).item()):
        raise NotYet(
            "Still the same number as before. What do the columns behind a short reply hold once they are "
            "multiplied by the mask, and does a variance leave them out?"
        )
    if is_close(found, _only_errors_cut(values, returns, mask).item()):
        raise NotYet("Half repaired: the two variances must be taken over the same tokens.")
    if is_close(found, _mean_square(values, returns, mask).item()):
        raise NotYet(
            "You take the mean square of the errors. A critic that is wrong by the same amount everywhere "
            "explains all of the variance; use the variance of the errors."
        )
    raise NotYet(
        f"For a batch with one token of padding your function gives {found:.3f}, which is not right."
    )


def _result(after: float) -> PairedResult:
    return paired_numeric([0.0, 0.1] * 30, [after, after + 0.2] * 30)


EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        id="08.1",
        kind="predict",
        grade=_directions,
        solution=[0, 1, 0, -1],
        mistakes=(
            ([1, 1, -1, -1], "sign of the advantage alone"),
            ([1, 0, -1, 0], "the maximum of the two terms"),
            ([0, 0, 0, 0], "only where it is the smaller one"),
            ([1, 1, 0, 0], "ratio * A and clip(ratio) * A"),
        ),
        why="Who has moved far enough in the wanted direction rests; who went the wrong way is brought back.",
    ),
    Exercise(
        id="08.2",
        kind="function",
        grade=_grade_critic,
        solution=critic_loss,
        mistakes=(
            (_unclipped, "plain squared error"),
            (_smaller, "the larger one"),
            (_without_half, "twice too large"),
            (_over_padding, "The padding counts in your mean"),
            (_zeros_in_padding, "the number that you divide by"),
            (lambda *_: math.pi, "Check the parts one by one"),
        ),
        why="The larger error is the pessimistic one, as the minimum is for the policy.",
    ),
    Exercise(
        id="08.3",
        kind="bug",
        grade=_grade_explained,
        solution=explained_variance,
        mistakes=(
            (_with_padding, "Still the same number"),
            (_only_errors_cut, "Half repaired"),
            (_mean_square, "mean square"),
            (lambda *_: 0.5, "which is not right"),
        ),
        why="Zeros in the padding are data to a variance: choose tokens by the mask instead of multiplying.",
    ),
    Exercise(
        id="08.4",
        kind="change",
        grade=partial(compared, allowed=_SETTINGS),
        solution={"changed": "args.kl_coef=0.1", "result": _result(0.5), "verdict": "improved"},
        mistakes=(
            (
                {"changed": "args.kl_coef=0.1", "result": _result(0.5), "verdict": "worse"},
                "does it leave 0 out",
            ),
            (
                {"changed": "args.temperature=0.5", "result": _result(0.5), "verdict": "improved"},
                "This exercise is about",
            ),
            ({"changed": "args.kl_coef=0.1", "result": 0.5, "verdict": "improved"}, "paired comparison"),
        ),
        why="One change, the same prompts, an interval. Another seed could still say something else.",
    ),
)
