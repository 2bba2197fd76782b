"""Intervals against published values, closed forms, exact coverage and short simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.intervals import (
    FEWEST_PROMPTS,
    cluster_codes,
    cluster_effect,
    clusters_of,
    mean_interval,
    minimum_detectable_difference,
    tango_interval,
    wilson_interval,
)

Z2 = stats.norm.ppf(0.975) ** 2


def test_wilson_closed_form() -> None:
    k, n = 7, 20
    centre = (k + Z2 / 2) / (n + Z2)
    half = math.sqrt(Z2) / (n + Z2) * math.sqrt(k * (n - k) / n + Z2 / 4)
    assert wilson_interval(k, n) == pytest.approx((centre - half, centre + half))
    assert wilson_interval(0, 10) == pytest.approx((0.0, Z2 / (10 + Z2)))


def test_wilson_equals_scipys_and_clusters_divide_the_counts() -> None:
    for k in (0, 1, 13, 40):
        expected = stats.binomtest(k, 40).proportion_ci(0.95, method="wilson")
        assert wilson_interval(k, 40) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson_interval(20, 80, design_effect=2.0) == pytest.approx(wilson_interval(10, 40))
    low, high = wilson_interval(10, 40, degrees=5)
    assert low < wilson_interval(10, 40)[0]
    assert high > wilson_interval(10, 40)[1]


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises((AssertionError, ValueError)):
        wilson_interval(successes, n)


@pytest.mark.parametrize(
    ("up", "down", "n", "low", "high", "digits"),
    [
        # Bentur et al. (2009) and Cavo et al. (2012) in Fagerland, Lydersen and Laake (2014), Statistics in
        # Medicine 33, 2850-2875, and the R package contingencytables.
        (1, 7, 21, -0.517, -0.026, 3),
        (6, 16, 161, -0.1240, -0.0054, 4),
        # The other ends of the first one: a comparison of second with first.
        (7, 1, 21, 0.026, 0.517, 3),
    ],
)
def test_tango_published_values(up, down, n, low, high, digits) -> None:
    assert [round(end, digits) for end in tango_interval(up, down, n)] == [low, high]


@pytest.mark.parametrize("n", [1, 5, 20, 1000, 100_000])
def test_tango_closed_forms_at_the_edges(n: int) -> None:
    width = Z2 / (n + Z2)
    assert tango_interval(0, 0, n) == pytest.approx((-width, width))
    assert tango_interval(n, 0, n) == pytest.approx(((n - Z2) / (n + Z2), 1.0))
    assert tango_interval(0, n, n) == pytest.approx((-1.0, (Z2 - n) / (n + Z2)))


def test_tango_of_clusters_has_their_design_effect_and_degrees_of_freedom() -> None:
    critical = 2.5 * stats.t.isf(0.025, 6) ** 2
    width = critical / (50 + critical)
    assert tango_interval(0, 0, 50, design_effect=2.5, degrees=6) == pytest.approx((-width, width))


def test_tango_is_antisymmetric_and_holds_the_difference() -> None:
    for up, down, n in [(3, 1, 10), (1, 0, 50), (40, 20, 160), (4, 6, 10)]:
        low, high = tango_interval(up, down, n)
        assert -1 <= low < (up - down) / n < high <= 1
        assert tango_interval(down, up, n) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(("up", "down", "n"), [(0, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_tango_refuses_impossible_counts(up: int, down: int, n: int) -> None:
    with pytest.raises(AssertionError, match="prompts"):
        tango_interval(up, down, n)


def test_tango_covers_where_wald_does_not() -> None:
    """Exact coverage: every table of 20 prompts, weighted by its multinomial probability."""
    n = 20
    tables = [(up, down) for up in range(n + 1) for down in range(n + 1 - up)]
    tango = np.array([tango_interval(up, down, n) for up, down in tables])
    counts = np.array([(up, down, n - up - down) for up, down in tables])
    observed = (counts[:, 0] - counts[:, 1]) / n
    half = np.sqrt(Z2 * ((counts[:, 0] + counts[:, 1]) / n - observed**2) / n)
    wald = np.stack([observed - half, observed + half], axis=1)
    covered = {"tango": [], "wald": []}
    for up_rate, down_rate in [(0.02, 0.0), (0.05, 0.02), (0.1, 0.02), (0.2, 0.1), (0.2, 0.2), (0.5, 0.1)]:
        weights = stats.multinomial.pmf(counts, n, [up_rate, down_rate, 1 - up_rate - down_rate])
        truth = up_rate - down_rate
        for name, ends in (("tango", tango), ("wald", wald)):
            inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
            covered[name].append(weights[inside].sum())
    assert min(covered["tango"]) > 0.94
    assert min(covered["wald"]) < 0.5


def test_an_exact_rejection_implies_that_the_score_interval_excludes_zero() -> None:
    for changed in (5, 6, 7, 12, 30, 59):
        for up in range(changed + 1):
            if stats.binomtest(up, changed).pvalue < 0.05:
                low, high = tango_interval(up, changed - up, 200)
                assert low > 0 or high < 0


def test_mean_interval_matches_student_on_few_values_and_near_normal_ones() -> None:
    few = np.array([0.3, 1.2, -0.4, 0.9, 0.1])
    student = stats.t.interval(0.95, len(few) - 1, few.mean(), stats.sem(few))
    assert mean_interval(few) == pytest.approx(student)
    many = np.random.default_rng(3).normal(size=40)
    student = stats.t.interval(0.95, len(many) - 1, many.mean(), stats.sem(many))
    assert mean_interval(many) == pytest.approx(student, abs=0.06 * many.std())


def test_mean_interval_is_a_bootstrap_from_eight_values_on() -> None:
    for n, symmetric in ((7, True), (8, False)):
        values = np.array([0.0] * (n - 1) + [1.0])
        low, high = mean_interval(values)
        assert (high - values.mean() == pytest.approx(values.mean() - low)) == symmetric


def test_mean_interval_makes_up_for_the_spread_that_resamples_lack() -> None:
    """Means of ten resampled values spread too little by sqrt(9/10), which is 5 % of the width."""
    values = stats.norm.ppf((np.arange(10) + 0.5) / 10)
    low, high = mean_interval(values, resamples=99_999)
    width = 2 * stats.t.ppf(0.975, 9) * stats.sem(values)
    assert high - low == pytest.approx(width, rel=0.02)


def test_mean_interval_leans_to_the_side_of_the_outliers() -> None:
    """Percentiles of the resampled means, not these mirrored at the mean (the basic bootstrap)."""
    values = np.array([0.0] * 18 + [1.0] * 2 + [10.0])
    low, high = mean_interval(values)
    assert high - values.mean() > 1.3 * (values.mean() - low)


def test_mean_interval_is_seeded_whatever_was_drawn_before() -> None:
    values = np.random.default_rng(0).exponential(size=30)
    first = mean_interval(values)
    np.random.seed(7)
    assert mean_interval(values) == first != mean_interval(values, resamples=999)


@pytest.mark.parametrize("n", [3, 8, 20])
def test_mean_interval_covers(n: int) -> None:
    """With 400 repetitions, 0.95 shows as 0.92 to 0.98 in 99 % of cases; plain percentile at 8 has 0.89."""
    rng = np.random.default_rng(n)
    ends = np.array([mean_interval(rng.normal(size=n), resamples=999) for _ in range(400)])
    assert 0.92 <= ((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).mean() <= 0.98


def test_clusters_are_numbered_unless_there_is_nothing_to_correct() -> None:
    assert cluster_codes(["b", "a", "b", ("x", 1)], 4).tolist() == [0, 1, 0, 2]
    for clusters in (None, ["a", "b", "c"], ["a"] * 3):
        assert cluster_codes(clusters, 3) is None
    with pytest.raises(CourseError, match="found 3 prompts and 4 clusters"):
        cluster_codes(list("abca"), 3)


def test_clusters_of_equal_size_have_the_error_of_their_means() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(12, 1)) + rng.normal(size=(12, 5))).ravel()
    labels = np.repeat(np.arange(12), 5)
    effect, degrees = cluster_effect(values, labels)
    assert degrees == pytest.approx(11)
    means = values.reshape(12, 5).mean(1)
    assert effect == pytest.approx((means.var(ddof=1) / 12) / (values.var(ddof=1) / 60))
    assert effect > 2
    student = stats.t.interval(0.95, 11, means.mean(), stats.sem(means))
    assert mean_interval(values, clusters=labels) == pytest.approx(student)


def test_clusters_of_unequal_size_leave_fewer_degrees_of_freedom() -> None:
    """Against the formula with matrices: the spectrum of the adjusted residual makers."""
    sizes = [1, 2, 3, 10, 30]
    labels, n = np.repeat(np.arange(5), sizes), sum(sizes)
    values = np.random.default_rng(1).normal(size=n) + labels
    residual_maker = np.eye(n) - 1 / n
    columns = []
    variance = 0.0
    for cluster in range(5):
        own = labels == cluster
        eigenvalues, vectors = np.linalg.eigh(residual_maker[np.ix_(own, own)])
        adjust = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T
        columns.append(residual_maker[:, own] @ adjust @ np.ones(sizes[cluster]) / n)
        variance += (np.ones(sizes[cluster]) @ adjust @ (values - values.mean())[own] / n) ** 2
    spectrum = np.linalg.eigvalsh(np.stack(columns) @ np.stack(columns).T)
    effect, degrees = cluster_effect(values, labels)
    assert degrees == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum())
    assert degrees < 3
    assert effect * values.var(ddof=1) / n == pytest.approx(variance)


def test_clusters_never_make_an_interval_narrower() -> None:
    # Every cluster holds one 0 and one 1: between clusters there is no variance at all.
    effect, degrees = cluster_effect(np.array([0.0, 1.0] * 6), np.repeat(np.arange(6), 2))
    assert effect == 1.0
    assert degrees == pytest.approx(5)
    assert cluster_effect(np.ones(6), np.array([0, 0, 1, 1, 2, 2]))[0] == 1.0
    assert mean_interval([0.5] * 6, clusters=[0, 0, 1, 1, 2, 2]) == (0.5, 0.5)


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.8])
def test_mean_interval_covers_with_clusters_of_unequal_size(shared: float) -> None:
    """As many relations as there are, of 1 to 28 prompts; `shared` is the variance between relations."""
    sizes = np.linspace(1, 28, 28).astype(int)
    labels = np.repeat(np.arange(28), sizes)
    rng = np.random.default_rng(4)
    ends = []
    for _ in range(1000):
        relation = rng.normal(scale=math.sqrt(shared), size=28)[labels]
        values = relation + rng.normal(scale=math.sqrt(1 - shared), size=len(labels))
        ends.append(mean_interval(values, clusters=labels))
    low, high = np.array(ends).T
    assert 0.93 <= ((low <= 0) & (high >= 0)).mean() <= 0.985


def test_mean_interval_guards() -> None:
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(CourseError, match="at least 2 prompts; found 1"):
        mean_interval([0.5])


def test_detectable_rate_without_churn_is_a_binomial_tail() -> None:
    """With all changes one way, six are needed: the power is P(Binomial(n, d) >= 6)."""
    for n in (6, 8, 50, 200):
        difference = minimum_detectable_difference(n)
        assert stats.binom.sf(5, n, difference) == pytest.approx(0.8, abs=1e-3)


def test_detectable_rate_with_churn_has_the_promised_power() -> None:
    n, discordant = 120, 0.3
    difference = minimum_detectable_difference(n, discordant=discordant)
    rng = np.random.default_rng(0)
    changes = rng.multinomial(
        n, [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant], 3000
    )
    p = 2 * stats.binom.sf(changes[:, 0] - 1, changes[:, 0] + changes[:, 1], 0.5)
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.025)
    assert difference > minimum_detectable_difference(n)


@pytest.mark.parametrize(("n", "sd"), [(30, 0.4), (10, 3.0), (500, 0.1)])
def test_detectable_mean_has_the_promised_power(n: int, sd: float) -> None:
    difference = minimum_detectable_difference(n, sd=sd)
    power = stats.nct.sf(stats.t.isf(0.025, n - 1), n - 1, difference / sd * math.sqrt(n))
    assert power == pytest.approx(0.8, abs=0.015)


def test_detectable_mean_of_few_prompts_has_the_quantiles_of_student() -> None:
    quantiles = stats.t.ppf(0.975, 6) + stats.t.ppf(0.8, 6)
    assert minimum_detectable_difference(7, sd=2.0) == pytest.approx(quantiles * 2 / math.sqrt(7))


def test_detectable_difference_shrinks_with_prompts() -> None:
    sizes = [minimum_detectable_difference(n, discordant=0.1) for n in (20, 100, 500, 2500)]
    assert sizes == sorted(sizes, reverse=True)


def test_five_prompts_can_show_nothing() -> None:
    assert 2 * 0.5 ** (FEWEST_PROMPTS - 1) > 0.05 > 2 * 0.5**FEWEST_PROMPTS
    for sd in (None, 1.0):
        with pytest.raises(AssertionError, match="5 prompts can show no difference"):
            minimum_detectable_difference(5, sd=sd)


def test_prompts_of_one_relation_form_a_cluster_and_others_stand_alone() -> None:
    found = clusters_of(["capital", None, "animal", "capital", None], source="entities")
    assert found[0] == found[3] == ("relation", "capital")
    assert len(set(found)) == 4
    assert set(found) & set(clusters_of(["capital", None, None], source="stories")) == {found[0]}
