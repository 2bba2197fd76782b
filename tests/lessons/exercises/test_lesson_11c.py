"""Answers to the exercises of lesson 11c that are wrong in ways beside those that have their own hint."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from posttrain_helpers.lessons.exercises import check
from posttrain_helpers.lessons.exercises import lesson_11c as lesson
from posttrain_helpers.lessons.exercises.exercise import NotYet
from posttrain_helpers.lessons.exercises.lesson_11c import Asked, Labels


def the_first_ones(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    """Turn over the first labels, always."""
    wrong = sum(a != b for a, b in zip(truth, labels, strict=True))
    return [label != (place < wrong) for place, label in enumerate(truth)]


def a_block(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    """Turn over labels that stand side by side."""
    wrong = sum(a != b for a, b in zip(truth, labels, strict=True))
    start = rng.randrange(max(1, len(truth)))
    turned = [(start + step) % max(1, len(truth)) for step in range(wrong)]
    return [label != (place in turned) for place, label in enumerate(truth)]


def another_generator(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    """Draw with Python's own generator."""
    return lesson.wrong_by_lot(truth, labels, random.Random(random.random()))


def turned_from_labels(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    """Turn over labels of the labeller in place of the truth's."""
    return lesson.wrong_by_lot(labels, truth, rng)


def with_replacement(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    """Draw places with replacement, so that there may be fewer."""
    wrong = sum(a != b for a, b in zip(truth, labels, strict=True))
    turned = [rng.randrange(len(truth)) for _ in range(wrong)]
    return [label != (place in turned) for place, label in enumerate(truth)]


def shuffled_labels(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    """Shuffle the labels: as many of each kind, and any number of wrong ones."""
    return rng.sample(labels, len(labels))


def one_truth(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
    """Turn labels over that prefer the first reply, and no others."""
    wrong = sum(a != b for a, b in zip(truth, labels, strict=True))
    places = [place for place, label in enumerate(truth) if label]
    turned = rng.sample(places, min(wrong, len(places)))
    return [label != (place in turned) for place, label in enumerate(truth)]


@pytest.mark.parametrize(
    "control",
    [
        with_replacement,
        shuffled_labels,
        one_truth,
        the_first_ones,
        a_block,
        another_generator,
        turned_from_labels,
    ],
    ids=lambda function: function.__name__,
)
def test_labels_that_are_not_wrong_by_lot_are_refused(control: Callable) -> None:
    with pytest.raises(NotYet):
        lesson.grade_lot(control)


def test_a_lot_may_be_drawn_in_other_ways() -> None:
    def by_shuffling(truth: Labels, labels: Labels, rng: random.Random) -> Labels:
        places = list(range(len(truth)))
        rng.shuffle(places)
        found = list(truth)
        for place in places[: sum(a != b for a, b in zip(truth, labels, strict=True))]:
            found[place] = not found[place]
        return found

    lesson.grade_lot(by_shuffling)

    def with_arrays(truth: Labels, labels: Labels, rng: random.Random) -> np.ndarray:
        found = np.array(truth)
        places = rng.sample(range(len(truth)), int((found != labels).sum()))
        found[places] = ~found[places]
        return found

    lesson.grade_lot(with_arrays)


def test_labels_are_true_or_false() -> None:
    def halves(*given: Any) -> list[float]:
        return [0.5 * label for label in lesson.wrong_by_lot(*given)]

    with pytest.raises(NotYet, match="8 times True or False"):
        lesson.grade_lot(halves)
    opinions = check("11c.2", lambda one, two: [a - b for a, b in zip(one, two, strict=True)])
    assert "8 times True or False" in opinions.message


def test_labels_that_come_once_only_are_refused() -> None:
    answers = iter([lesson.both_orders(lesson._LEFT_AS_A, lesson._RIGHT_AS_A), 3])
    assert "3 was found" in check("11c.2", lambda one, two: next(answers)).message


def without_a_fixed_lean(left_as_a: Asked, right_as_a: Asked) -> Labels:
    """Take off a lean that fits these numbers and no others."""
    return [
        left - 1.03 > right - 1.03 if left < 5 else left > 0
        for left, right in zip(left_as_a, right_as_a, strict=True)
    ]


@pytest.mark.parametrize("labels", [without_a_fixed_lean], ids=lambda function: function.__name__)
def test_labels_that_change_with_the_lean_are_refused(labels: Callable) -> None:
    assert "other ones" in check("11c.2", labels).message


def test_a_judge_may_be_read_as_a_difference() -> None:
    assert check("11c.2", lambda one, two: [(a - b) / 2 > 0 for a, b in zip(one, two, strict=True)]).correct
