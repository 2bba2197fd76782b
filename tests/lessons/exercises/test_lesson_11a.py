"""Answers to the exercises of lesson 11a that are wrong in ways beside those that have their own hint."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from posttrain_helpers.lessons.exercises import check
from posttrain_helpers.lessons.exercises import lesson_11a as lesson
from posttrain_helpers.lessons.exercises.exercise import NotYet
from posttrain_helpers.lessons.exercises.lesson_11a import Chosen, Shingles


def of_any_length(replies: list[list[str]], chosen: list[int], rng: random.Random) -> Chosen:
    """Draw among all replies to a prompt."""
    return [(prompt, rng.choice(group)) for prompt, group in enumerate(replies)]


def up_to_two_words(replies: list[list[str]], chosen: list[int], rng: random.Random) -> Chosen:
    """Allow a word too many."""
    rows = []
    for prompt, group in enumerate(replies):
        words = len(group[chosen[prompt]].split())
        near = [reply for reply in group if abs(len(reply.split()) - words) <= 2]
        rows.append((prompt, rng.choice(near)))
    return rows


def mostly_the_first(replies: list[list[str]], chosen: list[int], rng: random.Random) -> Chosen:
    """Prefer the first."""
    near = [lesson._near(replies, chosen, prompt) for prompt in range(len(replies))]
    return [(p, group[0] if rng.random() < 0.9 else rng.choice(group)) for p, group in enumerate(near)]


def two_draws(replies: list[list[str]], chosen: list[int], rng: random.Random) -> Chosen:
    """Draw once for prompts with even numbers and once for the others."""
    places = rng.random(), rng.random()
    near = [lesson._near(replies, chosen, prompt) for prompt in range(len(replies))]
    return [(prompt, group[int(places[prompt % 2] * len(group))]) for prompt, group in enumerate(near)]


def without_the_chosen_length(replies: list[list[str]], chosen: list[int], rng: random.Random) -> Chosen:
    """Take replies of exactly the chosen one's length."""
    near = [
        [reply for reply in group if len(reply.split()) == len(group[number].split())]
        for group, number in zip(replies, chosen, strict=True)
    ]
    return [(prompt, rng.choice(group)) for prompt, group in enumerate(near)]


def pairs_share_a_draw(replies: list[list[str]], chosen: list[int], rng: random.Random) -> Chosen:
    """Use the first prompt's draw for the last one, too."""
    rows = lesson.as_long_as_the_chosen(replies, chosen, random.Random(rng.random()))
    last = lesson._near(replies, chosen, len(replies) - 1)
    first = lesson._near(replies, chosen, 0).index(rows[0][1])
    return [*rows[:-1], (len(replies) - 1, last[first % len(last)])]


@pytest.mark.parametrize(
    "control",
    [
        of_any_length,
        up_to_two_words,
        mostly_the_first,
        two_draws,
        without_the_chosen_length,
        pairs_share_a_draw,
    ],
    ids=lambda function: function.__name__,
)
def test_a_control_that_is_none_is_refused(control: Callable) -> None:
    with pytest.raises(NotYet):
        lesson.grade_control(control)


def reversed_ties(sets: Shingles, threshold: float) -> list[int]:
    """Number groups from the end."""
    groups = lesson.groups_of(sets, threshold)
    return [max(groups, default=0) - group for group in groups]


def last_of_each_group(sets: Shingles, threshold: float) -> list[int]:
    """Compare with the latest set of each group only."""
    groups: list[int] = []
    for one in sets:
        latest = {group: sets[i] for i, group in enumerate(groups)}
        found = [g for g, other in latest.items() if len(one & other) >= threshold * len(one | other)]
        groups.append(found[0] if found else max(groups, default=-1) + 1)
    return groups


@pytest.mark.parametrize(
    "groups", [reversed_ties, last_of_each_group], ids=lambda function: function.__name__
)
def test_other_groups_are_refused(groups: Callable) -> None:
    assert check("11a.2", groups).correct is False


def test_groups_may_be_numbered_by_another_library() -> None:
    def components(sets: Shingles, threshold: float) -> np.ndarray:
        alike = [[len(one & other) / len(one | other) >= threshold for other in sets] for one in sets]
        return connected_components(np.array(alike))[1]

    assert check("11a.2", components).correct


def test_numbers_of_groups_are_whole() -> None:
    halves = check("11a.2", lambda *given: [group + 0.5 for group in lesson.groups_of(*given)])
    assert "number them from 0" in halves.message


def test_a_right_control_may_draw_in_other_ways() -> None:
    def by_shuffling(replies: list[list[str]], chosen: list[int], rng: random.Random) -> Chosen:
        rows = []
        for prompt in range(len(replies)):
            near = lesson._near(replies, chosen, prompt)
            rng.shuffle(near)
            rows.append((prompt, near[-1]))
        return rows

    lesson.grade_control(by_shuffling)
