"""Cohen's kappa against hand counts and closed forms; its interval by a short simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.agreement import cohen_kappa


def rated(table: list[list[int]]) -> tuple[list[int], list[int]]:
    """The labels of both raters, from the number of items with each combination."""
    cells = [(i, j) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    return [i for i, _ in cells], [j for _, j in cells]


def test_kappa_by_hand() -> None:
    # 50 items; both yes 20, both no 15, yes/no 5, no/yes 10. The first says yes 25 times, the second 30.
    # Agreement 35/50 = 0.7; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; kappa (0.7 - 0.5) / (1 - 0.5) = 0.4.
    result = cohen_kappa(*rated([[20, 5], [10, 15]]))
    assert result.kappa == pytest.approx(0.4)
    assert result.agreement == pytest.approx(0.7)
    assert result.low < 0.4 < result.high


def test_kappa_of_three_labels_by_hand() -> None:
    # 100 items; agreement 0.3 + 0.2 + 0.2 = 0.7; rows .4 .3 .3, columns .45 .25 .3;
    # by chance .18 + .075 + .09 = .345.
    result = cohen_kappa(*rated([[30, 5, 5], [5, 20, 5], [10, 0, 20]]))
    assert result.kappa == pytest.approx((0.7 - 0.345) / (1 - 0.345))


def test_any_hashable_label_and_any_sequence() -> None:
    first, second = rated([[20, 5], [10, 15]])
    names = ["first", ("tie", None)]
    named = cohen_kappa(tuple(names[i] for i in first), [names[j] for j in second])
    assert named == cohen_kappa(np.array(first), np.array(second))


def test_the_raters_are_interchangeable_and_order_of_items_is_not_used() -> None:
    first, second = rated([[20, 5], [10, 15]])
    assert cohen_kappa(second, first).kappa == pytest.approx(cohen_kappa(first, second).kappa)
    shuffled = np.random.default_rng(0).permutation(50)
    again = cohen_kappa(np.array(first)[shuffled], np.array(second)[shuffled])
    assert again.kappa == pytest.approx(0.4)


def test_opposite_raters_have_kappa_minus_one() -> None:
    assert cohen_kappa("AB" * 10, "BA" * 10).kappa == pytest.approx(-1.0)


def test_a_constant_judge_has_kappa_zero() -> None:
    result = cohen_kappa(["A"] * 20, ["A"] * 12 + ["B"] * 8)
    assert result.kappa == 0.0
    assert result.agreement == pytest.approx(0.6)
    assert result.low < 0 < result.high


def test_a_perfect_agreement_still_has_an_interval_with_width() -> None:
    result = cohen_kappa("A" * 10 + "B" * 10, "A" * 10 + "B" * 10, resamples=20_000)
    assert (result.kappa, result.high) == (1.0, 1.0)
    # The two cells of disagreement weigh Gamma(1/4) each: their share of the whole is Beta(1/2, 20 1/2), and
    # with labels of about equal rates kappa is 1 - 2 * that share.
    assert result.low == pytest.approx(1 - 2 * beta.ppf(0.975, 0.5, 20.5), abs=0.02)
    assert cohen_kappa("AB" * 100, "AB" * 100).low > result.low


def test_the_interval_is_seeded() -> None:
    ratings = rated([[20, 5], [10, 15]])
    assert cohen_kappa(*ratings) == cohen_kappa(*ratings)
    assert cohen_kappa(*ratings).low != cohen_kappa(*ratings, resamples=500).low


@pytest.mark.parametrize("shares", [[[0.45, 0.05], [0.10, 0.40]], [[0.48, 0.02], [0.02, 0.48]]])
@pytest.mark.parametrize("n", [20, 100])
def test_the_interval_covers(shares: list[list[float]], n: int) -> None:
    truth = (shares[0][0] + shares[1][1] - 0.5) / 0.5  # one rater is balanced: chance agreement is 1/2
    rng = np.random.default_rng(0)
    covered = 0
    for counts in rng.multinomial(n, np.ravel(shares), size=400):
        result = cohen_kappa(*rated(counts.reshape(2, 2).tolist()), resamples=500)
        covered += result.low <= truth <= result.high
    # A plain bootstrap covers about half of the time for the second table with 20 items.
    assert 0.91 <= covered / 400 <= 0.98


def test_refuses_what_is_no_pair_of_ratings() -> None:
    with pytest.raises(CourseError, match="found 0 and 0"):
        cohen_kappa([], [])
    with pytest.raises(CourseError, match="found 2 and 1"):
        cohen_kappa("AB", "A")
    with pytest.raises(CourseError, match="found only 'A' on 3 items"):
        cohen_kappa("AAA", "AAA")
