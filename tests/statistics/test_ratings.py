"""Bradley-Terry against closed forms, scipy and simulations; online Elo by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import beta

from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.ratings import ELO_PER_NAT, Ranking, bradley_terry


def duel(wins: int, losses: int, ties: int = 0) -> list[tuple[str, str, float]]:
    return [("a", "b", 1)] * wins + [("a", "b", 0)] * losses + [("a", "b", 0.5)] * ties


def round_robin(strengths: list[float], prompts: int, rng: np.random.Generator, spread: float = 0.0) -> list:
    """Every pair on every prompt; each model's strength varies from prompt to prompt by `spread`."""
    labels = [f"m{i}" for i in range(len(strengths))]
    own = np.array(strengths) + spread * rng.normal(size=(prompts, len(labels)))
    return [
        (labels[i], labels[j], float(rng.random() < 1 / (1 + math.exp(own[p, j] - own[p, i]))), p)
        for p in range(prompts)
        for i in range(len(labels))
        for j in range(i + 1, len(labels))
    ]


def nats(ranking: Ranking, first: str, second: str) -> float:
    """By how much the strength of the first label is the higher one."""
    return (ranking.ratings[first] - ranking.ratings[second]) / ELO_PER_NAT


@pytest.mark.parametrize(("wins", "losses"), [(13, 7), (20, 0), (0, 5), (1, 1)])
def test_two_models_have_the_closed_form(wins: int, losses: int) -> None:
    ranking = bradley_terry(duel(wins, losses), resamples=2)
    assert nats(ranking, "a", "b") == pytest.approx(math.log((wins + 0.5) / (losses + 0.5)))
    assert ranking.ratings["a"] + ranking.ratings["b"] == pytest.approx(2000)


@pytest.mark.parametrize(("wins", "losses"), [(13, 7), (20, 0)])
def test_two_models_have_jeffreys_interval(wins: int, losses: int) -> None:
    ranking = bradley_terry(duel(wins, losses), resamples=20_000)
    # Ratings lie around 1000, so the distance of two is twice that of one from 1000.
    ends = np.array([ranking.low["a"], ranking.high["a"]]) - 1000
    rates = 1 / (1 + np.exp(-2 * ends / ELO_PER_NAT))
    assert rates == pytest.approx(beta.ppf((0.025, 0.975), wins + 0.5, losses + 0.5), abs=0.01)
    assert ends[0] < ends[1]


def test_the_scale_is_elos() -> None:
    # Ten times as many wins as losses, virtual halves included: 400 points.
    ratings = bradley_terry(duel(wins=104, losses=10), resamples=2).ratings
    assert ratings["a"] - ratings["b"] == pytest.approx(400 * math.log10(104.5 / 10.5))
    assert ELO_PER_NAT * math.log(10) == pytest.approx(400)


def test_a_tie_is_half_a_win_each() -> None:
    tied, split = bradley_terry(duel(3, 1, ties=4), resamples=2), bradley_terry(duel(5, 3), resamples=2)
    assert tied.ratings == pytest.approx(split.ratings)


def test_strengths_maximise_the_penalised_likelihood() -> None:
    # A full round robin of equal lengths: the three virtual ties are shared equally by the six pairs.
    rows = round_robin([0.0, 0.4, 1.0, 3.0], 30, np.random.default_rng(0))
    labels = ["m0", "m1", "m2", "m3"]

    def loss(free: np.ndarray) -> float:
        strength = dict(zip(labels, [0.0, *free], strict=True))
        data = [(one, other, won, 1.0) for one, other, won, _ in rows]
        virtual = [(one, other, 0.5, 3 / 6) for i, one in enumerate(labels) for other in labels[i + 1 :]]
        return sum(
            weight
            * (
                won * math.log1p(math.exp(strength[other] - strength[one]))
                + (1 - won) * math.log1p(math.exp(strength[one] - strength[other]))
            )
            for one, other, won, weight in (*data, *virtual)
        )

    best = minimize(loss, np.zeros(3), tol=1e-9).x
    ranking = bradley_terry(rows, resamples=2)
    found = [nats(ranking, label, "m0") for label in labels[1:]]
    assert found == pytest.approx(list(best), abs=1e-4)


def test_virtual_ties_follow_the_matches() -> None:
    # In a chain every link is the only one, so each pair has a whole virtual tie and its own closed form.
    rows = [("a", "b", 1)] * 9 + [("c", "b", 0)] * 4 + [("c", "d", 1)] * 2
    ranking = bradley_terry(rows, resamples=2)
    for winner, loser, wins in (("a", "b", 9), ("b", "c", 4), ("c", "d", 2)):
        assert nats(ranking, winner, loser) == pytest.approx(math.log((wins + 0.5) / 0.5))


@pytest.mark.parametrize("farthest", [8, 1])
def test_a_model_that_wins_everything_stays_finite_with_a_wide_interval(farthest: int) -> None:
    """In a full field, and in a chain, where next to no losses of some resamples add up from link to link."""
    pairs = [(i, j) for i in range(8) for j in range(i + 1, 8) if j - i <= farthest]
    rows = [(f"m{i}", f"m{j}", 1, p) for p in range(20) for i, j in pairs]
    ranking = bradley_terry(rows)
    assert list(ranking.ratings) == [f"m{i}" for i in range(8)]
    assert all(map(math.isfinite, (*ranking.low.values(), *ranking.high.values())))
    assert ranking.high["m0"] - ranking.low["m0"] > 500


def test_a_label_with_one_opponent_in_a_dense_field_keeps_a_whole_virtual_tie() -> None:
    rng = np.random.default_rng(0)
    rows = round_robin([0.0] * 6, 20, rng) + [("new", "m0", 1.0, p) for p in range(20)]
    assert nats(bradley_terry(rows, resamples=2), "new", "m0") == pytest.approx(math.log(20.5 / 0.5))


def test_known_strengths_are_found() -> None:
    truth = [0.0, 0.5, 1.0, 2.0]
    ratings = bradley_terry(round_robin(truth, 4000, np.random.default_rng(0)), resamples=2).ratings
    for i, strength in enumerate(truth):
        assert (ratings[f"m{i}"] - 1000) / ELO_PER_NAT == pytest.approx(strength - np.mean(truth), abs=0.06)


def test_the_intervals_cover_when_prompts_are_resampled() -> None:
    rng = np.random.default_rng(0)
    strengths = [0.0, 0.0, 1.0, 4.0]
    truth = bradley_terry(round_robin(strengths, 5000, rng, spread=1.0), resamples=2).ratings
    covered = []
    for _ in range(100):
        ranking = bradley_terry(round_robin(strengths, 40, rng, spread=1.0), resamples=200)
        covered += [ranking.low[m] <= rating <= ranking.high[m] for m, rating in truth.items()]
    assert 0.90 <= np.mean(covered) <= 0.98


def test_matches_of_one_prompt_are_not_independent() -> None:
    # The same ten prompts, each judged ten times with the same outcome, are worth ten matches, not 100.
    once = [("a", "b", float(p < 7), p) for p in range(10)]
    of_prompts = bradley_terry(once * 10)
    alone = bradley_terry([row[:3] for row in once * 10])
    assert of_prompts.ratings == alone.ratings

    def width(ranking: Ranking) -> float:
        return ranking.high["a"] - ranking.low["a"]

    assert width(of_prompts) > 2.5 * width(alone)


def test_order_and_side_do_not_matter() -> None:
    rows = round_robin([0.0, 0.5, 1.0], 20, np.random.default_rng(0))
    turned = [(other, one, 1 - won, prompt) for one, other, won, prompt in reversed(rows)]
    ratings = bradley_terry(rows, resamples=2).ratings
    assert bradley_terry(turned, resamples=2).ratings == pytest.approx(ratings, abs=1e-6)


def test_the_seed_decides_the_intervals() -> None:
    assert bradley_terry(duel(13, 7)) == bradley_terry(duel(13, 7))
    assert bradley_terry(duel(13, 7), seed=1).low != bradley_terry(duel(13, 7)).low


def test_the_best_comes_first_and_lies_in_its_interval() -> None:
    ranking = bradley_terry([("a", "b", 0), ("a", "b", 0), ("b", "c", 0.5)])
    assert list(ranking.ratings) == list(ranking.low) == list(ranking.high) == ["b", "c", "a"]
    for label, rating in ranking.ratings.items():
        assert ranking.low[label] < rating < ranking.high[label]


def test_a_ranking_needs_matches() -> None:
    with pytest.raises(CourseError, match=r"found none\. Judge some pairs"):
        bradley_terry([])


def test_groups_without_a_link_are_named() -> None:
    rows = [("a", "b", 1), ("c", "d", 0), ("b", "e", 0.5)]
    with pytest.raises(CourseError, match=r"one another: a, b, e; c, d\. Judge"):
        bradley_terry(rows)
    assert len(bradley_terry([*rows, ("a", "c", 0)], resamples=2).ratings) == 5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "a", 1)], r"\('a', 'a', 1\) is no match"),
        ([("a", "b", 1), ("a", "b", 0.7)], r"\('a', 'b', 0.7\): an outcome is 1, 0.5 or 0"),
        ([("a", "b", None)], "an outcome is"),
        ([("a", "b", float("nan"))], "an outcome is"),
        ([("a", "b")], "is no match"),
        ([("a", "b", 1, "p", "q")], "is no match"),
        ([("a", "b", 1, "p"), ("a", "b", 0)], "is no match"),
        ([("a", "b", 1), ("a", "b", 0, "p")], "is no match"),
    ],
)
def test_refuses_rows_that_are_no_matches(rows, message) -> None:
    with pytest.raises(AssertionError, match=message):
        bradley_terry(rows)
