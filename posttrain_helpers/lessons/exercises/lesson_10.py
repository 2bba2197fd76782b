"""The exercises of lesson 10: rewards that teach the same, pass@k, dynamic sampling, one setting."""

from __future__ import annotations

from math import comb
from typing import Any

import torch

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    function_exercise,
    parts_exercise,
    plain,
    yes_or_no,
)
from posttrain_helpers.statistics.selection import pass_at_k


def can_teach(rewards: torch.Tensor, group_size: int) -> list[bool]:
    """Say for each problem whether its group can teach something."""
    groups = rewards.view(-1, group_size)
    return (groups.max(dim=1).values > groups.min(dim=1).values).tolist()


def _not_all_right(rewards: torch.Tensor, group_size: int) -> list[bool]:
    rates = rewards.view(-1, group_size).mean(1)
    return ((rates > 0) & (rates < 1)).tolist()


def _grade_teaching(answer: Any) -> None:
    groups = torch.tensor(
        [
            [1.0, 1.0, 1.0],
            [0.0, 1.0, 0.0],
            [0.5, 0.5, 0.5],
            [0.0, 0.0, 0.0],
            [1.0, 0.5, 1.0],
            [1.0, 1.0, 0.0],
        ]
    )
    verdicts = call(answer, groups.flatten(), 3)
    if isinstance(plain(verdicts), (list, tuple)) and len(verdicts) == 3:
        raise NotYet(
            "For six problems with three completions each, your function returns three verdicts. Along "
            "which dimension does it compare?"
        )
    found = yes_or_no(verdicts, 6)
    if found == can_teach(groups.flatten(), 3):
        return
    if found[0] or found[3]:
        raise NotYet(
            "A group whose answers are all right, or all wrong, has advantages of 0: it teaches nothing."
        )
    if found[2]:
        raise NotYet(
            "Rewards need not be 0 or 1: a group in which all got 0.5 is counted as one that can teach."
        )
    raise NotYet("A group in which one reward differs from the others is missed.")


EXERCISES: tuple[Exercise, ...] = (
    parts_exercise(
        "10.1",
        [0, 0, 1, 0, 1, 1],
        (0, 1),
        {
            0: "Add 5 to every reward: what does that do to the mean, and to the difference from it?",
            1: "Multiply every reward by 3: what does that do to the difference, and to what divides it?",
            3: "Can you make 1, -1, -1, 1 of 1, 0, 0, 1 by one product and one sum for all four?",
            4: 'With the scale "none" nothing divides. What is left of the 3?',
            2: "Two completions are right. Are they still equally good when one of them gets more?",
            5: "Work out the mean and the four differences of 1, 0.5, 0, 1: are the two wrong ones equal?",
        },
        "Divided by its own deviation, a group knows how its rewards lie to each other, and no scale.",
        read=lambda answer: yes_or_no(answer, 6),
    ),
    function_exercise(
        "10.2",
        "function",
        pass_at_k,
        [(8, 2, 2), (8, 3, 4), (10, 1, 1), (8, 0, 4), (5, 4, 3), (4, 4, 4)],
        (
            (
                lambda n, c, k: 1 - (1 - c / n) ** k,
                "That draws with replacement: the same sample may be chosen twice, which makes the estimate "
                "biased.",
            ),
            (
                lambda n, c, k: min(1.0, k * c / n),
                "k times the rate counts a choice that holds two right samples twice.",
            ),
            (
                lambda n, c, k: comb(n - c, k) / comb(n, k),
                "That is the share of the choices that hold no right sample.",
            ),
            (
                lambda n, c, k: comb(c, k) / comb(n, k),
                "That is the share of the choices that hold right samples only; one is enough.",
            ),
        ),
        lambda found, n, c, k: (
            f"With n={n} and c={c} fewer than k={k} samples are wrong, so every choice of {k} holds a right "
            f"one, but your function returns {found:.3f}."
            if n - c < k
            else f"For n={n}, c={c}, k={k} your function returns {found:.3f}. Count the choices of k "
            "samples, and those among them that hold no right one."
        ),
        "1 - comb(n - c, k) / comb(n, k): comb is 0 where fewer than k samples are wrong, so that case "
        "needs no extra line.",
    ),
    Exercise(
        "10.3",
        "bug",
        _grade_teaching,
        can_teach,
        (
            (
                lambda rewards, size: can_teach(rewards.view(-1, size).T.flatten(), len(rewards) // size),
                "three verdicts",
            ),
            (lambda rewards, size: (rewards.view(-1, size).mean(1) > 0).tolist(), "all right, or all wrong"),
            (_not_all_right, "need not be 0 or 1"),
            (lambda rewards, size: (rewards[::size] != rewards[1::size]).tolist(), "is missed"),
        ),
        "As many problems as completions hid the wrong dimension: test with two sizes that differ.",
    ),
    change_exercise(
        "10.4",
        (
            "args.num_generations",
            "args.learning_rate",
            "args.beta",
            "args.scale_rewards",
            "args.epsilon_high",
        ),
        "args.num_generations=4",
        why="One change, the same problems, an interval. Another seed could still say something else.",
    ),
)
