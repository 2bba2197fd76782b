"""Wins, losses and ties are counted as a reader would count them."""

from __future__ import annotations

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.paired_tests import TIE, verdict, win_rate


def test_wins_ties_and_losses_are_counted():
    result = win_rate([1.0, 1.0, 1.0, 1.0], [2.0, 1.0, 0.5, 3.0])
    assert (result.up, result.same, result.down) == (2, 1, 1)
    assert result.before == 0.5
    assert result.after == pytest.approx((2 + 0.5) / 4)


def test_the_size_of_a_win_does_not_matter():
    assert win_rate([0.0] * 9, [100.0] + [-0.1] * 8).after == pytest.approx(1 / 9)


def test_swapping_the_models_mirrors_the_rate():
    first, second = [0.1, 0.5, 0.9, 0.3, 0.2], [0.4, 0.5, 0.1, 0.8, 0.7]
    assert win_rate(first, second).after == pytest.approx(1 - win_rate(second, first).after)


def test_rounding_is_a_tie():
    result = win_rate([0.1 + 0.2, 1.0], [0.3, 1.0])
    assert result.same == 2


@pytest.mark.parametrize(("size", "ties"), [(TIE, 3), (2 * TIE, 1)])
def test_a_difference_as_large_as_the_tie_is_one(size: float, ties: int):
    result = win_rate([0.0, 0.0, 0.0], [size, -size, 0.0])
    assert (result.same, result.up, result.down) == (ties, (3 - ties) // 2, (3 - ties) // 2)


def test_a_clear_winner_improves_and_an_equal_does_not():
    assert verdict(win_rate([0.0] * 40, [1.0] * 38 + [-1.0] * 2)) == "improved"
    assert verdict(win_rate([0.0] * 40, [1.0] * 20 + [-1.0] * 20)) == "no_difference_shown"


def test_wins_in_one_cluster_are_worth_one():
    before, after, labels = [0.0] * 40, [1.0] * 30 + [-1.0] * 10, [i // 5 for i in range(40)]
    assert verdict(win_rate(before, after)) == "improved"
    clustered = win_rate(before, after, clusters=labels)
    assert (clustered.up, clustered.down, clustered.clusters) == (30, 10, 8)
    assert clustered.p == pytest.approx(2 * (1 + 8 + 28) / 2**8)  # at most two of eight relations lost
    assert verdict(clustered) == "no_difference_shown"


@pytest.mark.parametrize(
    ("before", "message"), [([1.0], "one score per prompt"), ([1.0, None], "1 of 2 prompts")]
)
def test_missing_scores_are_refused(before: list, message: str):
    with pytest.raises(CourseError, match=message):
        win_rate(before, [1.0, 2.0])
