"""The best of each group, and its control: against a search by hand, and in size and prompts."""

from __future__ import annotations

from collections import Counter

import pytest

from posttrain_helpers.data.curation import best_of_each, one_of_each
from posttrain_helpers.errors import CourseError

SCORES = [[0.5, 2.0, 1.0], [3.0], [-1.0, -2.0], [1.0, 1.0, 0.0]]


def test_the_best_is_what_a_slow_search_finds() -> None:
    for group, found in zip(SCORES, best_of_each(SCORES), strict=True):
        assert all(group[found] >= score for score in group)


def test_equals_are_drawn_by_lot() -> None:
    found = Counter(best_of_each([[1.0, 1.0, 0.0]], seed)[0] for seed in range(400))
    assert set(found) == {0, 1}
    assert found[0] == pytest.approx(200, abs=50)


def test_the_control_draws_each_reply_equally_often_and_the_same_for_the_same_seed() -> None:
    found = Counter(one_of_each([["a", "b", "c", "d"]], seed)[0] for seed in range(800))
    assert set(found) == {0, 1, 2, 3}
    assert max(found.values()) - min(found.values()) < 90
    assert one_of_each(SCORES, 3) == one_of_each(SCORES, 3)


@pytest.mark.parametrize("group", [[float("nan"), 1.0], [1.0, float("nan")]])
def test_no_score_is_the_highest_beside_nan(group: list[float]) -> None:
    with pytest.raises(CourseError, match="group 1 has a score that is NaN"):
        best_of_each([[1.0], group])


@pytest.mark.parametrize("choose", [best_of_each, one_of_each])
def test_an_empty_group_is_refused(choose: object) -> None:
    with pytest.raises(CourseError, match="group 1 is empty"):
        choose([[1.0], []])
