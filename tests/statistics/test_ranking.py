"""Ranks with ties: by hand, the tests against scipy, the error rate by simulation."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from scipy import stats

from posttrain_helpers.statistics import ranking
from posttrain_helpers.statistics.claims import holm
from posttrain_helpers.statistics.intervals import mean_interval, wilson_interval
from posttrain_helpers.statistics.paired_tests import paired_binary, paired_numeric, verdict
from posttrain_helpers.statistics.ranking import pair_p_values, significant_ranks


def p_values(scores, clusters=None) -> list[float]:
    """The p of every pair, in the order (a, b), (a, c), (b, c)."""
    return list(
        pair_p_values({label: np.asarray(found) for label, found in scores.items()}, clusters).values()
    )


def normal_scores(means: list[float], n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Scores of models m0, m1, ... with an effect of the item that all of them share."""
    rng = np.random.default_rng(seed)
    item = rng.normal(size=n)
    return {f"m{i}": mean + item + rng.normal(size=n) for i, mean in enumerate(means)}


def test_yes_no_ranks_by_hand() -> None:
    # b beats a on 12 items and loses on none: p = 2 * 2^-12; c differs from b on one item, from a on 11.
    scores = {"a": [0] * 12 + [1] * 8, "b": [1] * 20, "c": [0] + [1] * 19}
    frame = significant_ranks(scores)
    assert frame.index.tolist() == ["b", "c", "a"]
    assert frame.index.name == "label"
    assert frame["rank"].tolist() == [1, 1, 3]
    assert frame["worst_rank"].tolist() == [2, 2, 3]
    assert frame["tied_with"].tolist() == [("c",), ("b",), ()]
    assert frame["n"].tolist() == [20, 20, 20]
    assert frame.loc["a", "mean"] == pytest.approx(0.4)
    assert tuple(frame.loc["c", ["low", "high"]]) == wilson_interval(19, 20)
    assert p_values(scores) == pytest.approx([2 * 0.5**12, 2 * 0.5**11, 1.0])


def test_intervals_of_rates_widen_with_the_clusters() -> None:
    # Each answer stands twice, so 40 items tell what 20 do.
    scores = {"a": [1, 1, 0, 0] * 10}
    row = significant_ranks(scores, clusters=[index // 2 for index in range(40)]).loc["a"]
    low, high = wilson_interval(10, 20)
    assert row["low"] < low < 0.5 < high < row["high"]
    assert row["low"] == pytest.approx(low, abs=0.02)


def test_ties_are_not_transitive() -> None:
    scores = {"low": [0] * 20 + [1] * 20, "middle": [0] * 14 + [1] * 26, "high": [0] * 8 + [1] * 32}
    frame = significant_ranks(scores)
    assert frame["rank"].to_dict() == {"high": 1, "middle": 1, "low": 2}
    assert frame["worst_rank"].to_dict() == {"high": 2, "middle": 3, "low": 3}
    assert frame["tied_with"].to_dict() == {
        "high": ("middle",),
        "middle": ("high", "low"),
        "low": ("middle",),
    }


@pytest.mark.parametrize("identical", [[1, 0, 1, 1], [0.25, 0.5, 0.1, 0.3], [0.1 * i for i in range(40)]])
def test_identical_scores_tie(identical: list[float]) -> None:
    frame = significant_ranks({"a": identical, "b": list(identical)})
    assert frame["rank"].tolist() == [1, 1]
    assert frame["worst_rank"].tolist() == [2, 2]
    assert frame["tied_with"].tolist() == [("b",), ("a",)]
    assert p_values({"a": identical, "b": list(identical)}) == [1.0]


def test_many_items_have_the_paired_t_test() -> None:
    for means in ([0.0, 0.3], [0.0, 3.0], [0.3, 0.0]):
        scores = normal_scores(means, 60)
        expected = stats.ttest_rel(scores["m1"], scores["m0"]).pvalue
        assert p_values(scores) == pytest.approx([expected], rel=1e-9, abs=0)
    frame = significant_ranks(scores)
    assert tuple(frame.loc["m1", ["low", "high"]]) == mean_interval(scores["m1"], resamples=2000)


def test_few_items_have_the_sign_flip_test() -> None:
    scores = normal_scores([0.0, 0.3], 12)
    assert p_values(scores) == [paired_numeric(scores["m0"], scores["m1"]).p]


RELATIONS = [f"relation {item // 10}" for item in range(40)]


def test_questions_of_one_relation_are_one_cluster() -> None:
    # All ten changes are those of one relation, which may as well have gone the other way.
    scores = {"a": [0] * 10 + [1] * 30, "b": [1] * 40}
    assert p_values(scores) == [2 * 0.5**10]
    assert p_values(scores, clusters=RELATIONS) == [1.0]
    assert significant_ranks(scores)["rank"].to_dict() == {"b": 1, "a": 2}
    assert significant_ranks(scores, clusters=RELATIONS)["rank"].to_dict() == {"b": 1, "a": 1}
    one_relation = ["capital"] * 40  # tells nothing of others: the result is about this one
    assert p_values(scores, clusters=one_relation) == [2 * 0.5**10]


def test_clusters_of_equal_size_have_the_t_test_of_their_means() -> None:
    rng = np.random.default_rng(0)
    difference = np.repeat(rng.normal(1.0, 1.0, size=4), 10) + 0.1 * rng.normal(size=40)
    scores = {"a": np.zeros(40), "b": difference}
    expected = stats.ttest_1samp(difference.reshape(4, 10).mean(1), 0.0).pvalue
    assert p_values(scores, clusters=RELATIONS) == [pytest.approx(expected)]
    assert p_values(scores)[0] < expected / 100
    frame = significant_ranks(scores, clusters=RELATIONS)
    low, high = mean_interval(difference, clusters=RELATIONS)
    assert tuple(frame.loc["b", ["low", "high"]]) == (low, high)
    assert p_values({"a": [0.5] * 40, "b": [0.7] * 40}, clusters=RELATIONS)[0] == 2 * 0.5**4


def test_few_items_have_the_sign_flip_test_of_their_clusters() -> None:
    scores, clusters = normal_scores([0.0, 1.0], 12), [item // 3 for item in range(12)]
    (p,) = p_values(scores, clusters=clusters)
    assert p == paired_numeric(scores["m0"], scores["m1"], clusters=clusters).p
    assert p != paired_numeric(scores["m0"], scores["m1"]).p


def test_equal_changes_have_the_exact_p_and_rounding_is_no_change() -> None:
    scores = np.linspace(0.1, 0.9, 40)
    assert p_values({"a": scores, "b": scores + 0.1}) == [2 * 0.5**40]
    assert p_values({"a": scores + 0.1, "b": scores}) == [2 * 0.5**40]
    assert p_values({"a": scores, "b": scores * (1 + 1e-15)}) == [1.0]


def test_eleven_models_on_few_items_still_separate_after_the_correction() -> None:
    # 999 random sign flips of 14 items give no p below .002, and 55 times that is above .05.
    scores = normal_scores([3.0 * i for i in range(11)], 14)
    assert min(p_values(scores)) < 2 / 10_000 < 0.05 / 55 / 4  # the p of 9999 sign flips
    assert significant_ranks(scores)["rank"].tolist() == list(range(1, 12))


def test_thirteen_models_separate_in_little_time() -> None:
    scores = normal_scores([2.0 * i for i in range(13)], 1000)
    started = time.process_time()
    frame = significant_ranks(scores)
    assert time.process_time() - started < 3  # about 0.2 s; a bootstrap for every pair takes far longer
    assert frame["rank"].tolist() == list(range(1, 14))
    assert not frame["tied_with"].map(len).any()


def test_a_pair_is_significant_below_five_percent() -> None:
    scores = {up: {"a": [0] * up + [1] * (10 - up), "b": [1] * 10} for up in (5, 6)}
    assert [p_values(scores[up]) for up in scores] == [[2 * 0.5**5], [2 * 0.5**6]]
    assert [significant_ranks(scores[up]).loc["a", "rank"] for up in scores] == [1, 2]


def test_two_models_agree_with_the_verdict_of_a_comparison() -> None:
    rng = np.random.default_rng(0)
    found = set()
    for shift in (0.0, 0.2, 0.4):
        first, second = rng.random(40) < 0.4, rng.random(40) < 0.4 + shift
        rank = significant_ranks({"first": first, "second": second})["rank"]
        better = {"improved": (2, 1), "worse": (1, 2)}
        reading = verdict(paired_binary(first, second))
        found.add(reading)
        assert (rank["first"], rank["second"]) == better.get(reading, (1, 1))
    assert found == {"improved", "no_difference_shown"}


def test_holm_keeps_the_rate_of_false_orders() -> None:
    # Six equal models: without correction, 15 tests at 5 % each find a difference in a third of the tables.
    tables = [p_values(normal_scores([0.0] * 6, 40, seed=seed)) for seed in range(120)]
    assert np.mean([min(holm(table)) < 0.05 for table in tables]) < 0.08
    assert np.mean([min(table) < 0.05 for table in tables]) > 0.2


def test_the_p_values_of_all_pairs_are_corrected_together() -> None:
    scores = normal_scores([0.0, 0.3, 0.6, 0.9], 40)
    found = p_values(scores)
    apart = [set(labels) for labels in itertools.combinations(scores, 2)]
    ties = significant_ranks(scores)["tied_with"]
    shown = [other not in ties[label] for label, other in map(sorted, apart)]
    assert shown == [p < 0.05 for p in holm(found)]
    assert sum(shown) < sum(p < 0.05 for p in found) < 6


def test_the_range_of_ranks_covers_the_true_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    # All ranges hold at once in at least 95 % of the tables, and they are not merely "1 to 5".
    monkeypatch.setattr(ranking, "score_interval", lambda *_: (0.0, 0.0))  # slow, and no rank depends on it
    truth = {f"m{i}": 5 - i for i in range(5)}
    all_hold, widths = [], []
    for seed in range(60):
        frame = significant_ranks(normal_scores([0.0, 0.3, 0.6, 0.9, 1.2], 40, seed=seed))
        held = [
            frame.loc[label, "rank"] <= rank <= frame.loc[label, "worst_rank"]
            for label, rank in truth.items()
        ]
        all_hold.append(all(held))
        widths.append((frame["worst_rank"] - frame["rank"]).mean())
    assert np.mean(all_hold) >= 0.93
    assert np.mean(widths) < 2.5


def test_one_model_has_rank_one() -> None:
    frame = significant_ranks({"only": [1, 0, 1]})
    assert frame.loc["only", ["rank", "worst_rank"]].tolist() == [1, 1]
    assert frame.loc["only", "tied_with"] == ()
    assert p_values({"only": [1, 0, 1]}) == []
