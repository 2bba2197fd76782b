"""The exercises of lesson 12: flips, a test for scores, an interval of sampled replies, one setting."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from scipy.stats import rankdata

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    function_exercise,
    is_close,
    like,
    number,
    numbers,
    value_exercise,
)
from posttrain_helpers.statistics.intervals import mean_interval


def _another_number_of_flips(found: float) -> str:
    if 6 < found <= 20:
        return "So many are enough. Would one fewer be enough, too?"
    if found > 20:
        return "The prompts that did not flip say nothing, so their number does not come in."
    return "Throw n coins: how probable is it that all fall to the same side, heads or tails?"


def sign_flip_p(differences: list[float]) -> float:
    """Return the share of all sign patterns whose sum is at least as far from 0 as the observed one."""
    return float((np.abs(_totals(differences)) >= abs(sum(differences))).mean())


def _totals(differences: list[float]) -> np.ndarray:
    signs = np.array(list(product((1, -1), repeat=len(differences))))
    return signs @ np.array(differences, dtype=float)


def _of_ranks(differences: list[float]) -> float:
    return sign_flip_p((np.sign(differences) * rankdata(np.abs(differences))).tolist())


# Fractions that binary numbers hold exactly, so that sums that are equal compare as equal.
_DIFFERENCES = (
    [0.5, 1.0, 0.25, 2.0, -0.25],
    [-1.0, -0.5, -2.0, -0.25, 0.5, -1.5],
    [1.0] * 6,
    [4.0, -0.5, -1.0, 0.25, 0.75],  # its ranks have another p-value
)


def _another_p(found: float, differences: list[float]) -> str:
    if is_close(found, sign_flip_p(differences), 0.03):
        return (
            f"{found:.4f} is close. {len(differences)} numbers have so few sign patterns that you can go "
            "through all of them instead of drawing some."
        )
    return f"For {differences} your function gives {found:.4f}; list the patterns by hand."


def interval_of_mean(scores: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean score: a row for each prompt, a column for each sample."""
    return _around(scores.mean(axis=1), len(scores))


def _around(values: np.ndarray, count: int, ddof: int = 1) -> tuple[float, float]:
    half = 1.96 * values.std(ddof=ddof) / count**0.5
    return values.mean() - half, values.mean() + half


_INTERVAL_HINTS = (
    (
        lambda scores: _around(scores.ravel(), scores.size),
        "Every reply still counts as if it had a prompt of its own.",
    ),
    (
        lambda scores: _around(scores.mean(axis=0), scores.shape[1]),
        "You average over the prompts. What varies by chance from one evaluation to the next?",
    ),
    (
        lambda scores: _around(scores.mean(axis=1), scores.size),
        "You average the replies of a prompt, and then count all of them: how many means are left?",
    ),
    (
        lambda scores: _around(scores[:, 0], len(scores)),
        "With one reply for each prompt the rest of the data is thrown away.",
    ),
    (
        lambda scores: _around(scores.mean(axis=1), len(scores), ddof=0),
        "The prompts are counted right. Their standard deviation is a sample's: keep `ddof=1`, so that its "
        "squares are divided by n - 1.",
    ),
)
_SAMPLED = (
    (1.0, 3.0, 2.0, 2.5),
    (0.0, 0.5, 1.0, 0.0),
    (4.0, 3.0, 4.0, 3.5),
    (2.0, 2.0, 1.0, 3.0),
    (3.0, 0.0, 1.0, 1.0),
)


def _grade_interval(answer: Any) -> None:
    for scores in (np.array(_SAMPLED), np.array(_SAMPLED)[:, :2]):
        found = numbers(call(answer, scores), 2)
        # Student's quantile is better for so few prompts than the 1.96 of the lesson.
        if like(found, interval_of_mean(scores)) or like(found, mean_interval(scores.mean(axis=1))):
            continue
        for wrong, hint in _INTERVAL_HINTS:
            if like(found, wrong(scores)):
                raise NotYet(hint)
        raise NotYet(
            f"For {len(scores)} prompts with {scores.shape[1]} replies each your function gives "
            f"{found[0]:.2f} to {found[1]:.2f}. Which numbers are independent of each other?"
        )


EXERCISES: tuple[Exercise, ...] = (
    value_exercise(
        "12.1",
        6,
        (
            (
                5,
                "Five coins fall to one given side once in 32 throws. Would five flips in the other "
                "direction have surprised you as much?",
            ),
            (4, "Four coins all fall to one given side once in 16 throws: that is more often than 5 %."),
        ),
        _another_number_of_flips,
        "Six coins fall to one side, either side, once in 32 throws: p = 0.03. Five: once in 16.",
        read=number,
    ),
    Exercise(
        "12.2",
        "bug",
        _grade_interval,
        interval_of_mean,
        _INTERVAL_HINTS,
        "The prompt is the unit: its replies are averaged first, and copies of a reply add nothing.",
    ),
    function_exercise(
        "12.3",
        "function",
        sign_flip_p,
        [(differences,) for differences in _DIFFERENCES],
        (
            (
                lambda differences: (_totals(differences) >= sum(differences)).mean(),
                "You count one side only. A fall of the same size would have surprised you as much as the "
                "rise.",
            ),
            (
                lambda differences: (np.abs(_totals(differences)) > abs(sum(differences))).mean(),
                "The pattern that was observed is one of the possible ones, too: count those that are as far "
                "from 0.",
            ),
            (
                lambda differences: sign_flip_p(np.sign(differences).tolist()),
                "That is McNemar's test on the signs: here a large difference counts more than a small one.",
            ),
            (_of_ranks, "That is Wilcoxon's test, on the ranks; sum the differences themselves."),
            (
                lambda differences: 1.0,
                "Every pattern seems to count. Does your sum change when a sign is flipped? Another order of "
                "the same numbers has the same sum.",
            ),
        ),
        _another_p,
        "It asks of scores what McNemar's test asks of flips; six equal rises have p = 2/64 in both.",
    ),
    change_exercise(
        "12.4",
        ("data.n_train", "args.learning_rate", "args.num_train_epochs"),
        "data.n_train=256",
        why="The interval is about these two runs; the spread of the seeds says what another run may do.",
    ),
)
