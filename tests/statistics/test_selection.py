"""Best-of-n against enumeration of all subsets and against a simulation of its divergence."""

from __future__ import annotations

from itertools import combinations

import pytest

from posttrain_helpers.statistics.selection import best_of_n, pass_at_k


def by_enumeration(proxies: list[float], values: list[float], n: int) -> float:
    """Average over all subsets; among equal proxies each is kept equally often."""
    kept = []
    for subset in combinations(range(len(proxies)), n):
        best = max(proxies[index] for index in subset)
        tied = [values[index] for index in subset if proxies[index] == best]
        kept.append(sum(tied) / len(tied))
    return sum(kept) / len(kept)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7])
def test_the_estimate_is_the_average_over_all_subsets(n: int) -> None:
    proxies = [0.3, 2.0, -1.0, 0.7, 0.1, 5.0, 1.0]
    values = [1.0, 0.0, 4.0, 2.0, -3.0, 0.5, 7.0]
    assert best_of_n(proxies, values, n) == pytest.approx(by_enumeration(proxies, values, n))


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_replies_with_equal_proxies_share(n: int) -> None:
    proxies, values = [1.0, 1.0, 0.0, 2.0, 2.0], [1.0, 3.0, 9.0, 4.0, 6.0]
    assert best_of_n(proxies, values, n) == pytest.approx(by_enumeration(proxies, values, n))
    order = [3, 0, 4, 2, 1]
    shuffled = best_of_n([proxies[i] for i in order], [values[i] for i in order], n)
    assert shuffled == pytest.approx(best_of_n(proxies, values, n))


def test_one_reply_is_the_mean_and_all_replies_are_the_best() -> None:
    proxies, values = [3.0, 1.0, 2.0], [10.0, 20.0, 60.0]
    assert best_of_n(proxies, values, 1) == pytest.approx(30.0)
    assert best_of_n(proxies, values, 3) == 10.0


@pytest.mark.parametrize(
    ("proxies", "values", "n"), [([1.0], [1.0, 2.0], 1), ([1.0], [1.0], 2), ([1.0], [1.0], 0), ([], [], 1)]
)
def test_counts_that_do_not_fit_are_refused(proxies: list[float], values: list[float], n: int) -> None:
    with pytest.raises(AssertionError, match=r"1 proxies, but 2 values|needs at least"):
        best_of_n(proxies, values, n)


def test_pass_at_k_is_the_mean_over_all_subsets() -> None:
    from itertools import combinations

    samples = [1, 1, 0, 0, 0, 0]
    subsets = list(combinations(samples, 3))
    assert pass_at_k(6, 2, 3) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(5, 3, 3) == 1.0
    assert pass_at_k(8, 0, 8) == 0.0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 5, 1), (4, -1, 1), (4, 2, 0), (0, 0, 1)])
def test_pass_at_k_refuses_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(AssertionError, match=f"of {n} samples|at least {k} samples"):
        pass_at_k(n, c, k)
