"""Exercises of lesson 11c: whose label is worth most, a control by lot, a leaning judge, one change."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from operator import eq
from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    DRAWS,
    Exercise,
    NotYet,
    call,
    change_exercise,
    check_draws,
    choices_by_key,
    is_far,
    name_mistake,
    yes_or_no,
)
from posttrain_helpers.statistics.paired_tests import paired_binary

# --- 11c.1: which two models make the best labels?

COUPLES = ("95 and 90", "60 and 20", "50 and 45")
_ORDER = {"most often": "60 and 20", "least often": "50 and 45"}


def grade_couples(answer: Any) -> None:
    """Take a couple for each end of the order."""
    said = choices_by_key(answer, _ORDER, COUPLES)
    if said["most often"] == "95 and 90":
        raise NotYet(
            "Two good models rarely disagree on what is right. Of 1,000 problems, on how many is the strong "
            "one right and the weak one wrong, and on how many is it the other way round?"
        )
    if said != _ORDER:
        raise NotYet(
            "For each couple, multiply: strong right and weak wrong; weak right and strong wrong. Which part "
            "of their sum is the first?"
        )


# --- 11c.2: a judge that leans towards what it reads first

# Log-odds of the letter A against B: with the left reply as A, and with the right reply as A.
Asked = Sequence[float]
_LEFT_AS_A = (3.0, 1.0, 2.5, -0.5, -2.0, 0.5, 4.0, -1.0)
_RIGHT_AS_A = (1.0, 2.0, -1.0, 1.5, 0.5, -0.25, 3.5, -2.0)


def both_orders(left_as_a: Asked, right_as_a: Asked) -> Labels:
    """Prefer the left reply where it does better as A than the right one does as A."""
    return [left > right for left, right in zip(left_as_a, right_as_a, strict=True)]


def sum_of_both(left_as_a: Asked, right_as_a: Asked) -> Labels:
    """Add what the judge says of the letter A: the mistake that the notebook shows."""
    return [(left + right) / 2 > 0 for left, right in zip(left_as_a, right_as_a, strict=True)]


def one_order(left_as_a: Asked, right_as_a: Asked) -> Labels:
    """Ask once."""
    return [left > 0 for left in left_as_a]


def the_other_order(left_as_a: Asked, right_as_a: Asked) -> Labels:
    """Ask once, with the right reply first."""
    return [right < 0 for right in right_as_a]


def turned_round(left_as_a: Asked, right_as_a: Asked) -> Labels:
    """Prefer the reply that does worse."""
    return [left < right for left, right in zip(left_as_a, right_as_a, strict=True)]


def votes_of_both(left_as_a: Asked, right_as_a: Asked) -> Labels:
    """Prefer the left reply only if it wins in both orders."""
    return [left > 0 > right for left, right in zip(left_as_a, right_as_a, strict=True)]


def grade_judge(answer: Any) -> None:
    """Call a function of log-odds in both orders."""
    hints = (
        (
            sum_of_both,
            "Let the judge like the first place and nothing else: +2 in both orders. Whom does the label "
            "prefer?",
        ),
        (one_order, "One order is read only; its lean towards the first place stays in."),
        (the_other_order, "One order is read only; its lean towards the first place stays in."),
        (turned_round, "The left reply does better as A than the right one, and yet it loses."),
        (votes_of_both, "A strong opinion in one order outweighs a weak one in the other; votes lose it."),
    )
    expected = both_orders(_LEFT_AS_A, _RIGHT_AS_A)
    found = yes_or_no(call(answer, list(_LEFT_AS_A), list(_RIGHT_AS_A)), len(expected))
    if found != expected:
        name_mistake(hints, found, _LEFT_AS_A, _RIGHT_AS_A, same=eq)
        raise NotYet(f"Your function returns {found}; {expected} is right.")
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


def at_that_rate(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    """Turn each label over with the rate of the wrong ones, so that their number varies."""
    rate = sum(a != b for a, b in zip(truth, labels, strict=True)) / max(1, len(truth))
    return [label != (rng.random() < rate) for label in truth]


def among_the_right(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    """Turn over only labels that were right."""
    right = [place for place, (a, b) in enumerate(zip(truth, labels, strict=True)) if a == b]
    turned = rng.sample(right, min(len(right), len(truth) - len(right)))
    return [label != (place in turned) for place, label in enumerate(truth)]


def the_same_ones(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    """Return the labels as they are."""
    return list(labels)


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


# --- 11c.4: one changed setting

SETTINGS = (
    "args.beta",
    "args.learning_rate",
    "args.num_train_epochs",
    "args.per_device_train_batch_size",
)
_WON = paired_binary([True] * 60 + [False] * 40, [True] * 78 + [False] * 22)

EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        "11c.1",
        "predict",
        grade_couples,
        _ORDER,
        (
            ({**_ORDER, "most often": "95 and 90"}, "rarely disagree"),
            ({**_ORDER, "least often": "95 and 90"}, "multiply"),
            ({"most often": "60 and 20"}, "the keys"),
        ),
        "What counts is the ratio of the odds of being right. Five points make a larger ratio at 95 and 90 "
        "than at 50 and 45, but two good models rarely differ in what they get right: few such pairs.",
    ),
    Exercise(
        "11c.2",
        "bug",
        grade_judge,
        both_orders,
        (
            (sum_of_both, "+2 in both orders"),
            (one_order, "One order is read"),
            (turned_round, "yet it loses"),
            (votes_of_both, "votes lose it"),
        ),
        "The lean to the first place is in both numbers with the same sign. In the difference it cancels; in "
        "the sum the replies cancel and the lean is left.",
    ),
    Exercise(
        "11c.3",
        "function",
        grade_lot,
        wrong_by_lot,
        (
            (at_that_rate, "in every draw"),
            (the_same_ones, "by lot which ones"),
            (among_the_right, "as likely as any other"),
        ),
        "Pairs, order, steps and the number of errors are equal, so what differs between two trainings is "
        "due to which labels are wrong.",
    ),
    change_exercise(
        "11c.4",
        SETTINGS,
        "args.beta=0.05",
        _WON,
        "One change, the same items, an interval, and a verdict that follows from it.",
    ),
)
