"""The exercises of lesson 08: the clipped objective, explained variance, leave one out, one setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    all_close,
    call,
    change_exercise,
    is_close,
    name_mistake,
    number,
    numbers,
    plain,
)
from posttrain_helpers.statistics.paired_tests import paired_numeric

if TYPE_CHECKING:
    import torch

_SETTINGS = (
    "args.kl_coef",
    "args.learning_rate",
    "args.num_ppo_epochs",
    "args.vf_coef",
)
_REWARDS = (
    [[0.5, 2.0, -1.5, 1.5], [1.0, -1.0, 0.0, 4.0]],
    [[3.0, 0.0], [1.0, 2.0], [0.5, -1.0]],
    [[1.0, 1.0, 1.0]],
)


def _directions(answer: Any) -> None:
    found = numbers(answer, 4)
    if found == [0, 1, 0, -1]:
        return
    if not set(found) <= {-1, 0, 1}:
        raise NotYet("Only the direction is asked for: 1, -1 or 0 for each token.")
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
    """Return values, returns and mask; the padding holds numbers that must not count."""
    import torch

    values = torch.tensor([[0.4, 0.9, 0.2], [1.9, 0.6, -4.0]])
    returns = torch.tensor([[1.0, 1.6, -0.9], [0.3, 0.1, 7.0]])
    return values, returns, torch.tensor([[1, 1, 1], [1, 1, 0]])


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


def _mask_as_row_numbers(values, returns, mask):
    return 1 - (returns - values)[mask].var() / returns[mask].var()


def _grade_explained(answer: Any) -> None:
    values, returns, mask = _critic_batch()
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
    if is_close(found, _mask_as_row_numbers(values, returns, mask).item()):
        raise NotYet(
            "The mask holds numbers, and as an index 0 and 1 are the first and the second row; an index that "
            "chooses tokens has to be of type bool."
        )
    raise NotYet(
        f"For a batch with one token of padding your function gives {found:.3f}, which is not right. Check "
        "the formula, and list the tokens over which each variance is taken."
    )


def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """Return each reward minus the mean of the others to the same prompt, shape (prompts, replies)."""
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def _own_included(rewards):
    return rewards - rewards.mean(1, keepdim=True)


def _over_all(rewards):
    return rewards - (rewards.sum() - rewards) / (rewards.numel() - 1)


def _over_prompts(rewards):
    return leave_one_out(rewards.T).T


def _wrong_count(rewards):
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / rewards.shape[1]


def _baseline_alone(rewards):
    return rewards - leave_one_out(rewards)


_GROUP_HINTS = (
    (
        _own_included,
        "Your baseline contains the reply's own reward, so a good reply raises what it is measured against. "
        "Leave it out of the mean.",
    ),
    (_over_all, "You average over the replies to all prompts, but prompts differ; stay within a row."),
    (_over_prompts, "You compare replies to different prompts: the mean runs over the wrong axis."),
    (_wrong_count, "The sum leaves one reply out, but you still divide by the number of all of them."),
    (_baseline_alone, "That is the baseline. How much better than it was the reply?"),
)


def _grade_leave_one_out(answer: Any) -> None:
    import torch

    for rows in _REWARDS:
        rewards = torch.tensor(rows)
        found = plain(call(answer, rewards))
        shape = [len(row) if isinstance(row, list) else 0 for row in map(plain, _rows(found))]
        if shape != [len(row) for row in rows]:
            raise NotYet("One advantage for each reward is expected, in the shape of the rewards.")
        values = [number(value) for row in found for value in plain(row)]
        if _all_close(values, leave_one_out(rewards)):
            continue
        name_mistake(_GROUP_HINTS, values, rewards, same=_all_close)
        raise NotYet(
            f"For the rewards {rows} you get {[round(value, 2) for value in values]}. Work out one of "
            "them by hand: the reward, minus the mean of the other rewards in its row."
        )


def _rows(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else []


def _all_close(values: list[float], expected: torch.Tensor) -> bool:
    return all_close(values, expected.flatten().tolist())


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
            ([0.4, 0.6, -0.4, -0.6], "Only the direction"),
        ),
        why="Who has moved far enough in the wanted direction rests; who went the wrong way is brought back.",
    ),
    Exercise(
        id="08.2",
        kind="bug",
        grade=_grade_explained,
        solution=explained_variance,
        mistakes=(
            (_with_padding, "Still the same number"),
            (_only_errors_cut, "Half repaired"),
            (_mean_square, "mean square"),
            (_mask_as_row_numbers, "of type bool"),
            (lambda *_: 0.5, "which is not right"),
        ),
        why="Zeros in the padding are data to a variance: choose tokens by the mask instead of multiplying.",
    ),
    Exercise(
        id="08.3",
        kind="function",
        grade=_grade_leave_one_out,
        solution=leave_one_out,
        mistakes=(
            (_own_included, "own reward"),
            (_over_all, "stay within a row"),
            (_over_prompts, "the wrong axis"),
            (_wrong_count, "the number of all of them"),
            (_baseline_alone, "That is the baseline"),
            (lambda rewards: rewards[0], "in the shape of the rewards"),
            (lambda rewards: rewards * 3 + 1, "Work out one of them by hand"),
        ),
        why="A prompt whose replies all earn the same teaches nothing: each of its advantages is 0.",
    ),
    change_exercise(
        "08.4",
        allowed=_SETTINGS,
        changed="args.kl_coef=0.1",
        result=paired_numeric([0.0, 0.1] * 30, [0.5, 0.7] * 30),
        why="One change, the same prompts, an interval. Another seed could still say something else.",
    ),
)
