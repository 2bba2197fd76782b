"""The exercises of lesson 10: rewards that teach the same, pass@k, dynamic sampling, one setting."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING, Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    is_close,
    name_mistake,
    number,
    plain,
    yes_or_no,
)
from posttrain_helpers.statistics.paired_tests import paired_numeric
from posttrain_helpers.statistics.selection import pass_at_k

if TYPE_CHECKING:
    import torch

_SETTINGS = (
    "args.num_generations",
    "args.learning_rate",
    "args.beta",
    "args.scale_rewards",
    "args.epsilon_high",
)


def _changed_rewards(answer: Any) -> None:
    plus, times, steps, minus, unscaled, form = yes_or_no(answer, 6)
    if plus:
        raise NotYet("Add 5 to every reward: what does that do to the mean, and to the difference from it?")
    if times:
        raise NotYet(
            "Multiply every reward by 3: what does that do to the difference, and to what divides it?"
        )
    if minus:
        raise NotYet("Can you make 1, -1, -1, 1 of 1, 0, 0, 1 by one product and one sum for all four?")
    if not unscaled:
        raise NotYet('With the scale "none" nothing divides. What is left of the 3?')
    if not steps:
        raise NotYet("Two completions are right. Are they still equally good when one of them gets more?")
    if not form:
        raise NotYet(
            "Work out the mean and the four differences of 1, 0.5, 0, 1: are the two wrong ones equal?"
        )


def _independent(n, c, k):
    return 1 - (1 - c / n) ** k


def _k_times(n, c, k):
    return min(1.0, k * c / n)


def _all_wrong(n, c, k):
    return comb(n - c, k) / comb(n, k)


def _all_right(n, c, k):
    return comb(c, k) / comb(n, k)


_PASS_HINTS = (
    (
        _independent,
        "That draws with replacement: the same sample may be chosen twice, which makes the estimate biased.",
    ),
    (_k_times, "k times the rate counts a choice that holds two right samples twice."),
    (_all_wrong, "That is the share of the choices that hold no right sample."),
    (_all_right, "That is the share of the choices that hold right samples only; one is enough."),
)


def _grade_pass(answer: Any) -> None:
    for n, c, k in ((8, 2, 2), (8, 3, 4), (10, 1, 1), (8, 0, 4), (5, 4, 3), (4, 4, 4)):
        found = number(call(answer, n, c, k))
        if is_close(found, pass_at_k(n, c, k), 1e-6):
            continue
        if (n, c, k) == (8, 2, 2):
            name_mistake(_PASS_HINTS, found, n, c, k)
        if n - c < k:
            raise NotYet(
                f"With n={n} and c={c} fewer than k={k} samples are wrong, so every choice of {k} holds a "
                f"right one, but your function returns {found:.3f}."
            )
        raise NotYet(
            f"For n={n}, c={c}, k={k} your function returns {found:.3f}. Count the choices of k samples, and "
            "those among them that hold no right one."
        )


def _product_form(n, c, k):
    """The product form of the paper, which needs a case of its own where few samples are wrong."""
    value = 1.0
    for i in range(n - c + 1, n + 1):
        value *= 1 - k / i
    return 1 - value if n - c >= k else 0.0


def can_teach(rewards: torch.Tensor, group_size: int) -> list[bool]:
    """Say for each problem whether its group can teach something."""
    groups = rewards.view(-1, group_size)
    return (groups.max(dim=1).values > groups.min(dim=1).values).tolist()


def _by_column(rewards, group_size):
    groups = rewards.view(-1, group_size)
    return (groups.max(dim=0).values > groups.min(dim=0).values).tolist()


def _some_right(rewards, group_size):
    return (rewards.view(-1, group_size).mean(1) > 0).tolist()


def _two_of_each(rewards, group_size):
    groups = rewards.view(-1, group_size)
    return (groups[:, 0] != groups[:, 1]).tolist()


def _not_all_right(rewards, group_size):
    rates = rewards.view(-1, group_size).mean(1)
    return ((rates > 0) & (rates < 1)).tolist()


def _grade_teaching(answer: Any) -> None:
    import torch

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
    Exercise(
        id="10.1",
        kind="predict",
        grade=_changed_rewards,
        solution=[0, 0, 1, 0, 1, 1],
        mistakes=(
            ([1, 1, 1, 1, 1, 1], "from it"),
            ([0, 1, 1, 1, 1, 1], "what divides it"),
            ([0, 0, 1, 1, 1, 1], "one product and one sum"),
            ([0, 0, 1, 0, 0, 1], "What is left of the 3"),
            ([0, 0, 0, 0, 1, 1], "when one of them gets more"),
            ([0, 0, 1, 0, 1, 0], "the two wrong ones"),
        ),
        why="Divided by its own deviation, a group knows how its rewards lie to each other, and no scale.",
    ),
    Exercise(
        id="10.2",
        kind="function",
        grade=_grade_pass,
        solution=pass_at_k,
        mistakes=(
            (_independent, "with replacement"),
            (_k_times, "twice"),
            (_all_wrong, "hold no right sample"),
            (_all_right, "one is enough"),
            (_product_form, "every choice of 3 holds a right one"),
            (lambda n, c, k: 0.1, "Count the choices"),
        ),
        why="1 - comb(n - c, k) / comb(n, k): comb is 0 where fewer than k samples are wrong, so that case "
        "needs no extra line.",
    ),
    Exercise(
        id="10.3",
        kind="bug",
        grade=_grade_teaching,
        solution=can_teach,
        mistakes=(
            (_by_column, "three verdicts"),
            (_some_right, "all right, or all wrong"),
            (_not_all_right, "need not be 0 or 1"),
            (_two_of_each, "is missed"),
        ),
        why="As many problems as completions hid the wrong dimension: test with two sizes that differ.",
    ),
    change_exercise(
        "10.4",
        allowed=_SETTINGS,
        changed="args.num_generations=4",
        result=paired_numeric([0.5, 0.75] * 30, [0.6, 0.85] * 30),
        why="One change, the same problems, an interval. Another seed could still say something else.",
    ),
)
