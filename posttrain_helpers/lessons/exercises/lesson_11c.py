"""Exercises of lesson 11c: whose label is worth most, a control by lot, a leaning judge, one change."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    DRAWS,
    Exercise,
    NotYet,
    call,
    change_exercise,
    check_draws,
    function_exercise,
    is_far,
    parts_exercise,
    yes_or_no,
)

# --- 11c.2: a judge that leans towards what it reads first

# Log-odds of the letter A against B: with the left reply as A, and with the right reply as A.
Asked = Sequence[float]
_LEFT_AS_A = [3.0, 1.0, 2.5, -0.5, -2.0, 0.5, 4.0, -1.0]
_RIGHT_AS_A = [1.0, 2.0, -1.0, 1.5, 0.5, -0.25, 3.5, -2.0]


def both_orders(left_as_a: Asked, right_as_a: Asked) -> Labels:
    """Prefer the left reply where it does better as A than the right one does as A."""
    return [left > right for left, right in zip(left_as_a, right_as_a, strict=True)]


def check_lean(answer: Any) -> None:
    """Refuse labels that change if the judge likes the first place more, or less."""
    expected = both_orders(_LEFT_AS_A, _RIGHT_AS_A)
    for lean in (-5.0, 5.0):
        leaning = [[value + lean for value in values] for values in (_LEFT_AS_A, _RIGHT_AS_A)]
        if yes_or_no(call(answer, *leaning), len(expected)) != expected:
            raise NotYet("With a judge that leans more to the first place, the labels become other ones.")


# --- 11c.3: as many wrong labels, by lot

Labels = list[bool]
_TRUTH = [True, True, False, True, False, False, True, False]
_LABELS = [True, False, False, True, True, False, False, False]  # three are wrong


def wrong_by_lot(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    """Return the truth with as many labels turned over as are wrong in `labels`, which ones by lot."""
    wrong = sum(a != b for a, b in zip(truth, labels, strict=True))
    turned = rng.sample(range(len(truth)), wrong)
    return [label != (place in turned) for place, label in enumerate(truth)]


def _at_that_rate(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    rate = sum(a != b for a, b in zip(truth, labels, strict=True)) / max(1, len(truth))
    return [label != (rng.random() < rate) for label in truth]


def _among_the_right(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    right = [place for place, (a, b) in enumerate(zip(truth, labels, strict=True)) if a == b]
    turned = rng.sample(right, min(len(right), len(truth) - len(right)))
    return [label != (place in turned) for place, label in enumerate(truth)]


def _turned(answer: Any, truth: Labels, labels: Labels, seed: int) -> frozenset[int]:
    """Return the places at which the function's labels are wrong; there must be as many as in `labels`."""
    found = yes_or_no(call(answer, truth, labels, random.Random(seed)), len(truth))
    turned = frozenset(place for place, label in enumerate(found) if label != truth[place])
    wrong = sum(a != b for a, b in zip(truth, labels, strict=True))
    if len(turned) != wrong:
        raise NotYet(
            f"In one draw {len(turned)} labels are wrong, but {wrong} are in the labels to be compared with. "
            "The number is to be the same in every draw."
        )
    return turned


def grade_lot(answer: Any) -> None:
    """Call a function of the truth, a labeller's labels and a generator many times."""
    draws = [_turned(answer, _TRUTH, _LABELS, seed) for seed in range(DRAWS)]
    check_draws(lambda seed: _turned(answer, _TRUTH, _LABELS, seed))
    wrong = len(draws[0])
    if len(set(draws)) == 1:
        raise NotYet("The same labels are wrong in every draw; draw by lot which ones are.")
    for size, share in ((1, wrong / 8), (2, wrong * (wrong - 1) / 56)):
        counts = Counter(group for draw in draws for group in combinations(sorted(draw), size))
        if any(is_far(counts[group], share) for group in combinations(range(8), size)):
            raise NotYet(
                "Each label must be as likely as any other to be a wrong one, whatever it says and whether "
                "or not the labeller had it wrong."
            )
    for truth, labels in ((_TRUTH, _TRUTH), ([True, False], [False, True])):
        _turned(answer, truth, labels, 0)


_PARTS = (
    "For each couple, multiply: strong right and weak wrong; weak right and strong wrong. Which part of "
    "their sum is the first?"
)
_ONE_ORDER = "One order is read only; its lean towards the first place stays in."

EXERCISES: tuple[Exercise, ...] = (
    parts_exercise(
        "11c.1",
        {"most often": "60 and 20", "least often": "50 and 45"},
        ("95 and 90", "60 and 20", "50 and 45"),
        {
            "most often": {
                "95 and 90": "Two good models rarely disagree on what is right. Of 1,000 problems, on how "
                "many is the strong one right and the weak one wrong, and on how many is it the other way "
                "round?",
                "50 and 45": _PARTS,
            },
            "least often": _PARTS,
        },
        "What counts is the ratio of the odds of being right. Five points make a larger ratio at 95 and 90 "
        "than at 50 and 45, but two good models rarely differ in what they get right: few such pairs.",
    ),
    function_exercise(
        "11c.2",
        "bug",
        both_orders,
        [(_LEFT_AS_A, _RIGHT_AS_A)],
        (
            (
                lambda left_as_a, right_as_a: [a + b > 0 for a, b in zip(left_as_a, right_as_a, strict=True)],
                "Let the judge like the first place and nothing else: +2 in both orders. Whom does the label "
                "prefer?",
            ),
            (lambda left_as_a, right_as_a: [left > 0 for left in left_as_a], _ONE_ORDER),
            (lambda left_as_a, right_as_a: [right < 0 for right in right_as_a], _ONE_ORDER),
            (
                lambda left_as_a, right_as_a: both_orders(right_as_a, left_as_a),
                "The left reply does better as A than the right one, and yet it loses.",
            ),
            (
                lambda left_as_a, right_as_a: [a > 0 > b for a, b in zip(left_as_a, right_as_a, strict=True)],
                "A strong opinion in one order outweighs a weak one in the other; votes lose it.",
            ),
        ),
        lambda found, *asked: f"Your function returns {found}; {both_orders(*asked)} is right.",
        "The lean to the first place is in both numbers with the same sign. In the difference it cancels; in "
        "the sum the replies cancel and the lean is left.",
        also=check_lean,
    ),
    Exercise(
        "11c.3",
        "function",
        grade_lot,
        wrong_by_lot,
        (
            (_at_that_rate, "in every draw"),
            (lambda truth, labels, rng: list(labels), "by lot which ones"),
            (_among_the_right, "as likely as any other"),
        ),
        "Pairs, order, steps and the number of errors are equal, so what differs between two trainings is "
        "due to which labels are wrong.",
    ),
    change_exercise(
        "11c.4",
        (
            "args.beta",
            "args.learning_rate",
            "args.num_train_epochs",
            "args.per_device_train_batch_size",
        ),
        "args.beta=0.05",
        why="One change, the same items, an interval, and a verdict that follows from it.",
    ),
)
