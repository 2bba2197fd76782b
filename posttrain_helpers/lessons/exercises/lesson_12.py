"""The exercises of lesson 12: flips, a test for scores, an interval of sampled replies, one setting."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np

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
)
from posttrain_helpers.statistics.intervals import mean_interval
from posttrain_helpers.statistics.paired_tests import PairedResult, paired_binary

_SETTINGS = ("data.n_train", "args.learning_rate", "args.num_train_epochs")


def _flips(answer: Any) -> None:
    found = number(answer)
    if found == 6:
        return
    if found == 5:
        raise NotYet(
            "Five coins fall to one given side once in 32 throws. Would five flips in the other direction "
            "have surprised you as much?"
        )
    if found == 4:
        raise NotYet("Four coins all fall to one given side once in 16 throws: that is more often than 5 %.")
    if 6 < found <= 20:
        raise NotYet("So many are enough. Would one fewer be enough, too?")
    if found > 20:
        raise NotYet("The prompts that did not flip say nothing, so their number does not come in.")
    raise NotYet("Throw n coins: how probable is it that all fall to the same side, heads or tails?")


def sign_flip_p(differences: list[float]) -> float:
    """Return the share of all sign patterns whose sum is at least as far from 0 as the observed one."""
    observed = abs(sum(differences))
    totals = [
        sum(sign * value for sign, value in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(abs(total) >= observed for total in totals) / len(totals)


def _totals(differences):
    signs = np.array(list(product((1, -1), repeat=len(differences))))
    return signs @ np.array(differences, dtype=float)


def _one_sided(differences):
    return float((_totals(differences) >= sum(differences)).mean())


def _strictly(differences):
    return float((np.abs(_totals(differences)) > abs(sum(differences))).mean())


def _only_signs(differences):
    return sign_flip_p(np.sign(differences).tolist())


def _of_ranks(differences):
    from scipy.stats import rankdata

    return sign_flip_p((np.sign(differences) * rankdata(np.abs(differences))).tolist())


def _without_flips(differences):
    return 1.0


_SIGN_HINTS = (
    (
        _one_sided,
        "You count one side only. A fall of the same size would have surprised you as much as the rise.",
    ),
    (
        _strictly,
        "The pattern that was observed is one of the possible ones, too: count those that are as far from 0.",
    ),
    (
        _only_signs,
        "That is McNemar's test on the signs: here a large difference counts more than a small one.",
    ),
    (_of_ranks, "That is Wilcoxon's test, on the ranks; sum the differences themselves."),
    (
        _without_flips,
        "Every pattern seems to count. Does your sum change when a sign is flipped? Another order of the "
        "same numbers has the same sum.",
    ),
)
# Fractions that binary numbers hold exactly, so that sums that are equal compare as equal.
_DIFFERENCES = (
    (0.5, 1.0, 0.25, 2.0, -0.25),
    (-1.0, -0.5, -2.0, -0.25, 0.5, -1.5),
    (1.0,) * 6,
    (4.0, -0.5, -1.0, 0.25, 0.75),  # its ranks have another p-value
)


def _grade_sign_flips(answer: Any) -> None:
    for differences in _DIFFERENCES:
        found, expected = number(call(answer, list(differences))), sign_flip_p(list(differences))
        if is_close(found, expected, 1e-6):
            continue
        name_mistake(_SIGN_HINTS, found, list(differences))
        if is_close(found, expected, 0.03):
            raise NotYet(
                f"{found:.4f} is close. {len(differences)} numbers have so few sign patterns that you can go "
                "through all of them instead of drawing some."
            )
        raise NotYet(f"For {list(differences)} your function gives {found:.4f}; list the patterns by hand.")


def interval_of_mean(scores: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean score: a row for each prompt, a column for each sample."""
    means = scores.mean(axis=1)
    half = 1.96 * means.std(ddof=1) / len(means) ** 0.5
    return means.mean() - half, means.mean() + half


def _around(values, count):
    half = 1.96 * values.std(ddof=1) / count**0.5
    return values.mean() - half, values.mean() + half


def _as_shipped(scores):
    return _around(scores.ravel(), scores.size)


def _over_prompts(scores):
    return _around(scores.mean(axis=0), scores.shape[1])


def _divided_by_all(scores):
    return _around(scores.mean(axis=1), scores.size)


def _first_sample(scores):
    return _around(scores[:, 0], len(scores))


def _divided_by_n(scores):
    means = scores.mean(axis=1)
    half = 1.96 * means.std() / len(means) ** 0.5
    return means.mean() - half, means.mean() + half


_INTERVAL_HINTS = (
    (_as_shipped, "Every reply still counts as if it had a prompt of its own."),
    (_over_prompts, "You average over the prompts. What varies by chance from one evaluation to the next?"),
    (
        _divided_by_all,
        "You average the replies of a prompt, and then count all of them: how many means are left?",
    ),
    (_first_sample, "With one reply for each prompt the rest of the data is thrown away."),
    (
        _divided_by_n,
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
        found, expected = numbers(call(answer, scores), 2), interval_of_mean(scores)
        same = partial(all_close, tolerance=1e-4)
        # Student's quantile is better for so few prompts than the 1.96 of the lesson.
        if same(found, expected) or same(found, mean_interval(scores.mean(axis=1))):
            continue
        name_mistake(_INTERVAL_HINTS, found, scores, same=same)
        raise NotYet(
            f"For {len(scores)} prompts with {scores.shape[1]} replies each your function gives "
            f"{found[0]:.2f} to {found[1]:.2f}. Which numbers are independent of each other?"
        )


def _result(up: int) -> PairedResult:
    return paired_binary([0] * 60 + [1] * 60, [1] * up + [0] * (60 - up) + [1] * 60)


EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        id="12.1",
        kind="predict",
        grade=_flips,
        solution=6,
        mistakes=(
            (5, "in the other direction"),
            (4, "more often than 5 %"),
            (7, "one fewer"),
            (50, "did not flip"),
            (3, "Throw n coins"),
        ),
        why="Six coins fall to one side, either side, once in 32 throws: p = 0.03. Five: once in 16.",
    ),
    Exercise(
        id="12.2",
        kind="bug",
        grade=_grade_interval,
        solution=interval_of_mean,
        mistakes=(
            (_as_shipped, "a prompt of its own"),
            (_over_prompts, "average over the prompts"),
            (_divided_by_all, "how many means are left"),
            (_first_sample, "thrown away"),
            (_divided_by_n, "ddof=1"),
            (lambda scores: (0.0, 1.0), "independent of each other"),
        ),
        why="The prompt is the unit: its replies are averaged first, and copies of a reply add nothing.",
    ),
    Exercise(
        id="12.3",
        kind="function",
        grade=_grade_sign_flips,
        solution=sign_flip_p,
        mistakes=(
            (_one_sided, "one side only"),
            (_strictly, "observed is one of the possible ones"),
            (_only_signs, "McNemar's test on the signs"),
            (_of_ranks, "on the ranks"),
            (_without_flips, "Every pattern seems to count"),
            (lambda differences: sign_flip_p(differences) + 0.01, "go through all of them"),
            (lambda differences: 0.5, "by hand"),
        ),
        why="It asks of scores what McNemar's test asks of flips; six equal rises have p = 2/64 in both.",
    ),
    change_exercise(
        "12.4",
        allowed=_SETTINGS,
        changed="data.n_train=256",
        result=_result(20),
        why="The interval is about these two runs; the spread of the seeds says what another run may do.",
    ),
)
