"""Paired comparisons, verdicts and claims, against scipy, closed forms and hand counts."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from paired_results import binary
from scipy import stats

from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.claims import Claim
from posttrain_helpers.statistics.intervals import (
    mean_interval,
    minimum_detectable_difference,
    tango_interval,
)
from posttrain_helpers.statistics.paired_tests import (
    describe,
    paired,
    paired_binary,
    paired_differences,
    paired_numeric,
    verdict,
)


def test_paired_binary_counts_and_tests_exactly() -> None:
    result = binary(up=6, down=0, same=14)
    assert (result.n, result.up, result.down, result.same, result.kind) == (20, 6, 0, 14, "binary")
    assert (result.before, result.after) == (0.7, 1.0)
    assert result.difference == pytest.approx(0.3)
    assert result.p == pytest.approx(2 * 0.5**6)
    assert (result.low, result.high) == tango_interval(6, 0, 20)
    assert result.sd == pytest.approx(np.std([1] * 6 + [0] * 14, ddof=1))


def test_paired_binary_matches_the_published_exact_p() -> None:
    # Cavo et al. (2012) in Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables, ch. 8.
    assert binary(up=6, down=16, same=139).p == pytest.approx(0.052479, abs=5e-7)


def test_no_change_has_an_interval_with_width_and_p_one() -> None:
    result = binary(up=0, down=0, same=20)
    z2 = stats.norm.ppf(0.975) ** 2
    assert result.p == 1.0
    assert (result.low, result.high) == pytest.approx((-z2 / (20 + z2), z2 / (20 + z2)))
    assert verdict(result) == "no_difference_shown"
    assert verdict(result, 0.03) == "no_difference_shown"
    assert verdict(binary(up=0, down=0, same=200), 0.03) == "non_inferior"


def test_fewer_than_six_changed_prompts_are_never_significant() -> None:
    five = binary(up=5, down=0, same=15)
    assert five.low > 0  # the interval alone would call this an improvement
    assert five.p == pytest.approx(0.0625)
    assert verdict(five) == "no_difference_shown"
    assert verdict(binary(up=6, down=0, same=14)) == "improved"
    assert verdict(binary(up=0, down=6, same=14)) == "worse"


def test_p_underflow_stays_positive_and_json_safe() -> None:
    result = binary(up=5000, down=0, same=0)
    assert stats.binomtest(5000, 5000).pvalue == 0.0
    assert 0 < result.p < 1e-300
    claim = Claim.from_result("everything", "exact_match", result, "improved")
    assert json.loads(json.dumps(asdict(claim), allow_nan=False))["p"] == result.p


def test_results_hold_plain_python_numbers() -> None:
    for result in (
        binary(3, 1, 6),
        paired_numeric([0.1, 0.2, 0.4], [0.3, 0.1, 0.9]),
        binary(3, 1, 6, clusters=[0, 1] * 5),
        paired_numeric([0.1, 0.2, 0.4], [0.3, 0.1, 0.9], clusters=[0, 1, 1]),
    ):
        for value in dataclasses.asdict(result).values():
            assert type(value) in (int, float, str, bool, type(None))


@pytest.mark.parametrize("compare", [paired_binary, paired_numeric, paired])
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([], [], "found 0 before and 0 after"),
        ([1, 0], [1], "found 2 before and 1 after"),
        ([1, None, 0], [1, 1, None], "2 of 3 prompts"),
        ([1.0, math.nan], [1.0, 0.0], "1 of 2 prompts"),
        ([1.0, 0.0], [1.0, math.inf], "1 of 2 prompts"),
    ],
)
def test_unpaired_scores_are_refused(compare, before: list, after: list, message: str) -> None:
    with pytest.raises(CourseError, match=message):
        compare(before, after)


def test_paired_binary_refuses_graded_scores() -> None:
    with pytest.raises(CourseError, match="paired_numeric"):
        paired_binary([0.5, 1.0], [1.0, 1.0])


def test_paired_chooses_the_comparison() -> None:
    assert paired([True, False], [1.0, 1.0]).kind == "binary"
    assert paired([0.5, 0.0], [1.0, 1.0]).kind == "numeric"
    assert not paired([0.5, 0.0], [1.0, 1.0], higher_is_better=False).higher_is_better


def test_sign_flip_p_is_exact_on_few_prompts() -> None:
    differences = np.array([0.9, 0.4, -0.2, 0.7, 0.3, 1.1, 0.05])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 7)).reshape(7, -1).T
    means = (signs * differences).mean(axis=1)
    expected = (np.abs(means) >= abs(differences.mean()) - 1e-12).mean()
    result = paired_numeric(np.zeros(7), differences)
    assert result.p == pytest.approx(expected)
    assert (result.up, result.down, result.same) == (6, 1, 0)


def test_sign_flip_p_follows_the_t_test_on_many_prompts() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(size=200)
    after = before + rng.normal(0.07, 0.5, size=200)
    result = paired_numeric(before, after)
    assert result.p == pytest.approx(stats.ttest_rel(after, before).pvalue, abs=0.02)
    assert result.difference == pytest.approx((after - before).mean())


def test_prompts_that_repeat_a_cluster_are_worth_one() -> None:
    up, down, same = 9, 1, 5
    alone = binary(up, down, same)
    before, after = [0] * up + [1] * down + [1] * same, [1] * up + [0] * down + [1] * same
    labels = list(range(len(before))) * 4
    fourfold = paired_binary(before * 4, after * 4, clusters=labels)
    assert (fourfold.n, fourfold.up, fourfold.down, fourfold.clusters) == (60, 36, 4, 15)
    assert (fourfold.before, fourfold.difference) == (alone.before, alone.difference)
    assert fourfold.p == pytest.approx(alone.p)  # McNemar's, of 10 changed clusters
    assert fourfold.p > 1000 * paired_binary(before * 4, after * 4).p
    assert fourfold.design_effect == pytest.approx(4 * (59 / 60) / (14 / 15))
    # Student's t with 14 degrees of freedom instead of the normal distribution: a little wider than alone.
    assert 1 < (fourfold.high - fourfold.low) / (alone.high - alone.low) < 1.15
    scores = np.array([0.3, 0.9, -0.4, 0.7, 0.2, 1.1, 0.05])
    graded = paired_numeric(np.zeros(28), np.tile(scores, 4), clusters=list("abcdefg") * 4)
    expected = paired_numeric(np.zeros(7), scores)
    assert (graded.p, graded.low, graded.high) == pytest.approx((expected.p, expected.low, expected.high))


def test_clusters_of_one_prompt_and_one_cluster_of_all_change_nothing() -> None:
    before, after = [0, 1, 0, 0, 1, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1, 0]
    scores = np.random.default_rng(0).normal(size=8)
    for clusters in (list("abcdefgh"), ["a"] * 8, None):
        assert paired_binary(before, after, clusters=clusters) == paired_binary(before, after)
        assert paired(before, scores, clusters=clusters) == paired_numeric(before, scores)
        assert paired(before, scores, clusters=clusters).clusters is None


def test_the_cluster_test_counts_every_combination_of_signs() -> None:
    before = np.zeros(14, dtype=int)
    after = np.array([1, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1])
    before[[5, 6]] = 1
    labels = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4, 5, 5]
    sums = np.bincount(labels, after - before)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    expected = (np.abs(signs @ sums) >= abs(sums.sum())).mean()
    assert 0.05 < expected < 0.5
    assert paired_binary(before, after, clusters=labels).p == pytest.approx(expected)
    # Scores that are not all 0 or 1 have the same test, drawn at random where there are too many clusters.
    graded = paired_numeric(before / 2, after / 2, clusters=labels)
    assert graded.p == pytest.approx(expected)
    assert graded.clusters == 6


def test_clusters_that_do_not_change_leave_an_interval_with_width() -> None:
    result = paired_binary([1] * 300, [1] * 300, clusters=[i % 28 for i in range(300)])
    t2 = stats.t.ppf(0.975, 27) ** 2
    assert result.p == 1.0
    assert (result.low, result.high) == pytest.approx((-t2 / (300 + t2), t2 / (300 + t2)), rel=1e-3)
    assert result.design_effect == 1.0
    assert verdict(result, 0.03) == "non_inferior"


@pytest.mark.parametrize("kind", ["binary", "numeric"])
def test_equal_models_differ_as_rarely_in_clusters_as_promised(kind: str) -> None:
    """Whole relations turn out better or worse by chance; prompts taken one by one call that an effect."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(28), np.arange(1, 29))
    wrong, wrong_alone, inside = [], [], []
    for _ in range(80):
        tilt = rng.normal(0, 0.25, size=28)[labels]
        if kind == "binary":
            before, after = rng.random((2, len(labels))) < np.array([0.5 - tilt / 2, 0.5 + tilt / 2])
            alone = paired_binary(before, after)
            result = paired_binary(before, after, clusters=labels)
        else:
            before, after = np.zeros(len(labels)), tilt + rng.normal(0, 0.4, size=len(labels))
            alone = paired_numeric(before, after, resamples=99)
            result = paired_numeric(before, after, clusters=labels, resamples=199)
        wrong.append(verdict(result) != "no_difference_shown")
        wrong_alone.append(verdict(alone) != "no_difference_shown")
        inside.append(result.low <= 0 <= result.high)
    assert np.mean(wrong) <= 0.08
    assert np.mean(wrong_alone) > 0.25
    assert 0.91 <= np.mean(inside) <= 0.985


def test_describe_names_the_clusters_and_what_they_could_have_shown() -> None:
    labels = [i // 10 for i in range(100)]
    won = paired_binary([0] * 100, [1] * 60 + [0] * 40, clusters=labels)
    assert "on these 100 held-out prompts in 10 clusters 60 up, 0 down" in describe(won, "exact match")
    # All prompts of a cluster change alike: a hundred prompts are worth ten.
    mixed = paired_binary([0] * 30 + [1] * 70, [1] * 30 + [0] * 20 + [1] * 50, clusters=labels)
    assert mixed.design_effect == pytest.approx(10, rel=0.15)
    visible = minimum_detectable_difference(10, discordant=0.5)
    assert f"could have shown >= {visible:.3f}" in describe(mixed, "exact match")
    few = paired_binary([0] * 100, [1] * 100, clusters=[i // 20 for i in range(100)])
    assert few.p == 2 * 0.5**5
    assert verdict(few) == "no_difference_shown"
    few = paired_binary([0] * 50 + [1] * 50, [1] * 50 + [0] * 50, clusters=[i // 20 for i in range(100)])
    assert describe(few, "exact match").endswith("5 clusters are too few to show any.")


@pytest.mark.parametrize("compare", [paired_binary, paired_numeric, paired])
def test_every_prompt_needs_a_cluster(compare) -> None:
    with pytest.raises(CourseError, match="found 3 prompts and 2 clusters"):
        compare([1, 0, 1], [1, 1, 0], clusters=["a", "b"])


def test_rounding_is_not_a_change() -> None:
    before = np.array([0.1, 0.7, 100.0, 0.3] * 5)
    result = paired_numeric(before, before + 1e-15)
    assert (result.up, result.down, result.same) == (0, 0, 20)
    assert result.p == 1.0
    assert result.low == result.high == 0.0


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_rounding_is_judged_by_the_size_of_the_scores(size: float) -> None:
    before = np.random.default_rng(0).normal(size=20) * size
    assert paired_numeric(before, before * (1 + 1e-14)).same == 20
    assert paired_numeric(before, before * (1 + 1e-9)).same == 0
    # Equal changes stay equal, so that their interval has no width.
    shifted = paired_numeric(before, before + 0.1 * size)
    assert np.ptp(before + 0.1 * size - before) > 0
    assert (shifted.up, shifted.low) == (20, shifted.high)
    # The larger scores decide, on whichever side they are.
    uneven = np.array([0.3, 0.1 + 0.2] * 5) * size
    for first, second in ((uneven, 0 * uneven), (0 * uneven, uneven)):
        assert np.ptp(second - first) > 0
        assert np.ptp(paired_differences(first, second)) == 0


def test_identical_changes_show_a_direction_but_no_equality() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=30)
    same = paired_numeric(scores, scores)
    assert verdict(same, 0.5) == "no_difference_shown"  # an interval without width bounds nothing
    assert "no width" in describe(same, "loss")
    assert verdict(paired_numeric(scores, scores + 0.1)) == "improved"


@pytest.mark.parametrize("n", [7, 60])
def test_the_interval_of_graded_scores_is_that_of_the_mean_difference(n: int) -> None:
    scores = np.random.default_rng(0).normal(size=n)
    result = paired_numeric(np.zeros(n), scores)
    assert (result.low, result.high) == mean_interval(scores)


def test_resamples_are_seeded_and_as_many_as_asked_for() -> None:
    scores = np.random.default_rng(0).normal(0.2, size=40)
    result, few = (paired_numeric(np.zeros(40), scores, resamples=number) for number in (999, 99))
    assert paired_numeric(np.zeros(40), scores, resamples=999) == result
    assert (few.low, few.high) == mean_interval(scores, resamples=99) != (result.low, result.high)


def test_one_prompt_has_no_mean_interval() -> None:
    with pytest.raises(CourseError, match="at least 2 prompts"):
        paired_numeric([0.2], [0.7])


def test_lower_is_better_turns_the_verdict() -> None:
    assert verdict(binary(20, 0, 20)) == "improved"
    assert verdict(binary(20, 0, 20, higher_is_better=False)) == "worse"
    assert verdict(binary(0, 20, 20, higher_is_better=False)) == "improved"
    assert "(lower is better)" in describe(binary(0, 20, 20, higher_is_better=False), "rude replies")
    # 1 up of 300 repeats more: high = +0.02, so a margin of 0.03 holds and one of 0.01 does not.
    risen = binary(1, 0, 299, higher_is_better=False)
    assert verdict(risen, 0.03) == "non_inferior"
    assert verdict(risen, 0.01) == "no_difference_shown"


def test_the_margin_asks_another_question() -> None:
    better = binary(20, 0, 180)
    slightly_worse = binary(0, 8, 192)
    much_worse = binary(0, 60, 140)
    assert verdict(better) == "improved"
    assert verdict(better, 0.03) == "non_inferior"
    assert verdict(slightly_worse) == "worse"
    assert verdict(slightly_worse, 0.10) == "non_inferior"
    assert verdict(much_worse, 0.10) == "worse"
    assert verdict(binary(10, 12, 78), 0.03) == "no_difference_shown"


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_an_interval_that_just_reaches_the_margin_is_not_within_it(higher_is_better: bool) -> None:
    result = binary(10, 12, 78, higher_is_better=higher_is_better)
    worst = -result.low if higher_is_better else result.high
    assert verdict(result, worst) == "no_difference_shown"
    assert verdict(result, math.nextafter(worst, 1)) == "non_inferior"


@pytest.mark.parametrize("margin", [0, -0.03, math.nan])
def test_a_margin_is_positive(margin: float) -> None:
    with pytest.raises(CourseError, match="margin must be greater than 0"):
        verdict(binary(1, 1, 1), margin)


def test_a_verdict_needs_the_interval_and_the_test() -> None:
    # Every prompt rose, so p = 2/2^7, but one of them by so much that the mean is uncertain.
    rises = np.array([0.44, 0.07, 0.62, 0.24, 2.37, 0.05, 1.04])
    for changes, better in ((rises, True), (-rises, True), (-rises, False)):
        result = paired_numeric(np.zeros(7), changes, higher_is_better=better)
        assert result.p == pytest.approx(2 * 0.5**7)
        assert result.low < 0 < result.high
        assert verdict(result) == "no_difference_shown"
        assert "interval and test disagree" in describe(result, "reward")
    # Nor does the interval alone make one worse.
    assert binary(0, 5, 15).high < 0
    assert verdict(binary(0, 5, 15)) == "no_difference_shown"


def test_a_p_of_exactly_five_percent_is_not_significant() -> None:
    result = dataclasses.replace(binary(20, 0, 20), p=0.05)
    assert verdict(result) == "no_difference_shown"
    assert verdict(dataclasses.replace(result, p=math.nextafter(0.05, 0))) == "improved"


def test_a_p_that_cannot_be_smaller_is_written_as_a_bound() -> None:
    before = np.random.default_rng(0).normal(size=30)
    clear = paired_numeric(before, before + np.linspace(0.5, 1, 30))
    assert clear.p == pytest.approx(2 / 10_000)
    assert clear.p_at_floor
    assert "p <= 0.0002)" in describe(clear, "reward")
    coarse = paired_numeric(before, before + np.linspace(0.5, 1, 30), resamples=999)
    assert "p <= 0.002)" in describe(coarse, "reward")
    claim = Claim.from_result("rises", "reward", coarse, "worse")
    assert claim.p_at_floor
    with pytest.raises(AssertionError, match=r"95 % interval .*, p <= 0\.002\)"):
        claim.check()
    # Enumerated flips have no floor but their number: 2/2^10 is exact.
    exact = paired_numeric(before[:10], before[:10] + np.linspace(0.5, 1, 10))
    assert exact.p == pytest.approx(2 * 0.5**10)
    assert not exact.p_at_floor
    assert "p = 0.002)" in describe(exact, "reward")
    unclear = paired_numeric(before, before[::-1])
    assert not unclear.p_at_floor
    # As many clusters as can be enumerated.
    clustered = paired_numeric(np.zeros(30), np.linspace(0.5, 1, 30), clusters=[i // 3 for i in range(30)])
    assert clustered.p == pytest.approx(2 * 0.5**10)
    assert not clustered.p_at_floor


def test_describe_improvement() -> None:
    low, high = tango_interval(20, 1, 50)
    assert describe(binary(20, 1, 29), "exact match") == (
        "exact match: on these 50 held-out prompts 20 up, 1 down, 29 same; difference +0.380 "
        f"(95 % interval {low:+.3f} to {high:+.3f}, p < 0.0001). Improved."
    )


def test_describe_says_what_could_have_been_shown() -> None:
    visible = minimum_detectable_difference(100, discordant=0.5)
    assert visible > minimum_detectable_difference(100, discordant=0.3) + 0.01
    for up, down in ((30, 20), (20, 30)):
        text = describe(binary(up, down, 50), "exact match")
        assert f"No difference shown; this many prompts could have shown >= {visible:.3f}" in text
    scores = np.random.default_rng(0).normal(size=50)
    result = paired_numeric(np.zeros(50), scores - scores.mean())
    assert f">= {minimum_detectable_difference(50, sd=result.sd):.3g}" in describe(result, "reward")


def test_describe_other_endings() -> None:
    assert "5 prompts are too few to show any" in describe(binary(2, 1, 2), "exact match")
    assert "interval and test disagree" in describe(binary(5, 0, 15), "exact match")
    assert "Not worse by 0.030 or more." in describe(binary(0, 0, 200), "exact match", 0.03)
    assert "does not rule out" in describe(binary(0, 0, 20), "exact match", 0.03)
    assert describe(binary(0, 9, 11), "exact match").endswith("Worse.")
