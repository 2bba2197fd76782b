"""The exercises of lesson 08: the clipped objective, explained variance, leave one out, one setting."""

from __future__ import annotations

from typing import Any

import torch

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    change_exercise,
    function_exercise,
    number,
    numbers,
    plain,
    value_exercise,
)


def _directions(answer: Any) -> list[float]:
    found = numbers(answer, 4)
    if not set(found) <= {-1, 0, 1}:
        raise NotYet("Only the direction is asked for: 1, -1 or 0 for each token.")
    return found


# Values, returns and mask; the padding holds numbers that must not count.
_CRITIC_BATCH = (
    torch.tensor([[0.4, 0.9, 0.2], [1.9, 0.6, -4.0]]),
    torch.tensor([[1.0, 1.6, -0.9], [0.3, 0.1, 7.0]]),
    torch.tensor([[1, 1, 1], [1, 1, 0]]),
)


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the share of the variance of the returns that the values explain, over the tokens of replies."""
    inside = mask.bool()
    return 1 - (returns - values)[inside].var() / returns[inside].var()


def _mean_square(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    inside = mask.bool()
    return 1 - ((returns - values)[inside] ** 2).mean() / returns[inside].var(unbiased=False)


def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """Return each reward minus the mean of the others to the same prompt, shape (prompts, replies)."""
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


_GROUPS = (
    [[0.5, 2.0, -1.5, 1.5], [1.0, -1.0, 0.0, 4.0]],
    [[3.0, 0.0], [1.0, 2.0], [0.5, -1.0]],
    [[1.0, 1.0, 1.0]],
)


def _in_the_shape_of(answer: Any, expected: torch.Tensor) -> torch.Tensor:
    rows = plain(answer)
    rows = [plain(row) for row in rows] if isinstance(rows, (list, tuple)) else []
    if [len(row) if isinstance(row, list) else 0 for row in rows] != [expected.shape[1]] * len(expected):
        raise NotYet("One advantage for each reward is expected, in the shape of the rewards.")
    return torch.tensor([[number(value) for value in row] for row in rows])


def _same_advantages(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=5e-3, atol=5e-3)


EXERCISES: tuple[Exercise, ...] = (
    value_exercise(
        "08.1",
        [0, 1, 0, -1],
        (
            (
                [1, 1, -1, -1],
                "That is the sign of the advantage alone. Where has the ratio already moved further than the "
                "clip allows, in the direction that the advantage asks for?",
            ),
            (
                [1, 0, -1, 0],
                "That is the maximum of the two terms; PPO takes the minimum. Work out both terms.",
            ),
            (
                [0, 0, 0, 0],
                "All four ratios lie outside 0.8 to 1.2, but the minimum takes the clipped term only where "
                "it is the smaller one.",
            ),
        ),
        lambda _: (
            "Write down ratio * A and clip(ratio) * A for each token, take the smaller one, and ask whether "
            "it depends on the ratio."
        ),
        "Who has moved far enough in the wanted direction rests; who went the wrong way is brought back.",
        read=_directions,
    ),
    function_exercise(
        "08.2",
        "bug",
        explained_variance,
        [_CRITIC_BATCH],
        (
            (
                lambda values, returns, mask: 1 - ((returns - values) * mask).var() / (returns * mask).var(),
                "Still the same number as before. What do the columns behind a short reply hold once they "
                "are multiplied by the mask, and does a variance leave them out?",
            ),
            (
                lambda values, returns, mask: (
                    1 - (returns - values)[mask.bool()].var() / (returns * mask).var()
                ),
                "Half repaired: the two variances must be taken over the same tokens.",
            ),
            (
                _mean_square,
                "You take the mean square of the errors. A critic that is wrong by the same amount "
                "everywhere explains all of the variance; use the variance of the errors.",
            ),
            (
                lambda values, returns, mask: 1 - (returns - values)[mask].var() / returns[mask].var(),
                "The mask holds numbers, and as an index 0 and 1 are the first and the second row; an index "
                "that chooses tokens has to be of type bool.",
            ),
        ),
        lambda found, *batch: (
            f"For a batch with one token of padding your function gives {found:.3f}, which is not right. "
            "Check the formula, and list the tokens over which each variance is taken."
        ),
        "Zeros in the padding are data to a variance: choose tokens by the mask instead of multiplying.",
    ),
    function_exercise(
        "08.3",
        "function",
        leave_one_out,
        [(torch.tensor(rewards),) for rewards in _GROUPS],
        (
            (
                lambda rewards: rewards - rewards.mean(1, keepdim=True),
                "Your baseline contains the reply's own reward, so a good reply raises what it is measured "
                "against. Leave it out of the mean.",
            ),
            (
                lambda rewards: rewards - (rewards.sum() - rewards) / (rewards.numel() - 1),
                "You average over the replies to all prompts, but prompts differ; stay within a row.",
            ),
            (
                lambda rewards: leave_one_out(rewards.T).T,
                "You compare replies to different prompts: the mean runs over the wrong axis.",
            ),
            (
                lambda rewards: rewards - (rewards.sum(1, keepdim=True) - rewards) / rewards.shape[1],
                "The sum leaves one reply out, but you still divide by the number of all of them.",
            ),
            (
                lambda rewards: rewards - leave_one_out(rewards),
                "That is the baseline. How much better than it was the reply?",
            ),
        ),
        lambda found, rewards: (
            f"For the rewards {rewards.tolist()} you get {[round(x, 2) for x in found.flatten().tolist()]}. "
            "Work out one of them by hand: the reward, minus the mean of the other rewards in its row."
        ),
        "A prompt whose replies all earn the same teaches nothing: each of its advantages is 0.",
        read=_in_the_shape_of,
        same=_same_advantages,
    ),
    change_exercise(
        "08.4",
        ("args.kl_coef", "args.learning_rate", "args.num_ppo_epochs", "args.vf_coef"),
        "args.kl_coef=0.1",
        why="One change, the same prompts, an interval. Another seed could still say something else.",
    ),
)
