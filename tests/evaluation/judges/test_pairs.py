"""Pairs in a recorded order: win rates, the judge's lean and its consistency, with judges of known faults."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import binomtest, kstest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges.by_score import Choice, ScoreJudge
from posttrain_helpers.evaluation.judges.judgements import COLUMNS, Judgement, Judgements
from posttrain_helpers.evaluation.judges.pairs import judge_pairs, kappa
from posttrain_helpers.statistics.intervals import tango_interval, wilson_interval
from posttrain_helpers.statistics.wins import win_rate

N = 200
ITEMS = [{"id": f"item-{i}", "prompt": [{"role": "user", "content": f"question {i}"}]} for i in range(N)]
# The left model's reply is the longer one on three quarters of the items.
LEFT = ["ab" if i % 4 else "a" for i in range(N)]
RIGHT = ["a" if i % 4 else "ab" for i in range(N)]


class Always:
    """Prefers the reply shown first with one and the same share."""

    def __init__(self, first_share: float) -> None:
        self.name, self.first_share = "always", first_share

    def compare(self, items, first_replies, second_replies) -> list[Choice]:
        return [Choice(self.first_share) for _ in items]


class Leaning:
    """Prefers the longer reply, but on a share of the items the one shown first, and notes what it saw."""

    def __init__(self, lean: float, seed: int = 0) -> None:
        self.name, self.lean, self.seed = "leaning", lean, seed
        self.seen: list[tuple[str, str, str]] = []

    def compare(self, items, first_replies, second_replies) -> list[Choice]:
        choices = []
        for item, first, second in zip(items, first_replies, second_replies, strict=True):
            self.seen.append((item["id"], first, second))
            leans = random.Random(f"{self.seed}{item['id']}").random() < self.lean
            choices.append(Choice(1.0 if leans else float(len(first) > len(second))))
        return choices


REPLIES = {"short": ["a"] * N, "long": ["aaa"] * N, "mixed": ["aa" if i % 3 else "aaaa" for i in range(N)]}
LONGER = ScoreJudge("longer", lambda reply, item: len(reply))


def judgements(order: str, *rows: tuple[str, bool, float]) -> Judgements:
    return Judgements("stub", "left", "right", order, tuple(Judgement(*row) for row in rows))


class TestJudgePairs:
    def test_each_item_is_asked_once_and_the_order_is_recorded(self) -> None:
        judge = Leaning(0.0)
        result = judge_pairs(judge, ITEMS, LEFT, RIGHT)
        assert [row.id for row in result.rows] == [item["id"] for item in ITEMS]
        for i, (row, (identifier, first, second)) in enumerate(zip(result.rows, judge.seen, strict=True)):
            assert identifier == ITEMS[i]["id"]
            assert (first, second) == ((RIGHT[i], LEFT[i]) if row.flipped else (LEFT[i], RIGHT[i]))
        assert 0.4 < sum(row.flipped for row in result.rows) / N < 0.6

    @pytest.mark.parametrize("order", ["random", "as given", "both"])
    def test_the_outcome_is_the_left_models_whatever_the_order(self, order: str) -> None:
        result = judge_pairs(LONGER, ITEMS, LEFT, RIGHT, order=order)
        assert list(result.outcomes().values()) == [float(bool(i % 4)) for i in range(N)]
        assert Counter(result.verdicts().values()) == {"left": 150, "right": 50}
        assert len(result.rows) == (2 * N if order == "both" else N)

    def test_as_given_shows_the_left_reply_first(self) -> None:
        result = judge_pairs(Always(1.0), ITEMS, LEFT, RIGHT, order="as given")
        assert not any(row.flipped for row in result.rows)
        assert set(result.outcomes().values()) == {1.0}

    def test_a_coin_depends_on_seed_labels_and_id_only(self) -> None:
        def flips(items, **options) -> dict[str, bool]:
            replies = ["x"] * len(items)
            rows = judge_pairs(Always(1.0), items, replies, replies, **options).rows
            return {row.id: row.flipped for row in rows}

        whole = flips(ITEMS)
        assert flips(ITEMS) == whole
        assert flips(ITEMS[50:60]) == {item["id"]: whole[item["id"]] for item in ITEMS[50:60]}
        assert flips(ITEMS, seed=1) != whole
        assert flips(ITEMS, labels=("a", "b")) != whole

    def test_labels_are_kept(self) -> None:
        result = judge_pairs(LONGER, ITEMS, LEFT, RIGHT, labels=("dpo", "sft"))
        assert (result.judge, result.left, result.right) == ("longer", "dpo", "sft")

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"order": "radom"}, "did you mean 'random'"),
            ({"labels": ("a", "a")}, "both sides are called 'a'"),
            ({"labels": "ab"}, "labels must be two texts"),
            ({"labels": ("a", "b", "c")}, "labels must be two texts"),
            ({"items": [], "left": [], "right": []}, "at least one item"),
            ({"left": LEFT[1:]}, f"{N} items, {N - 1} first replies"),
            ({"items": [{**ITEMS[0]}] * N}, "item 'item-0' has 200 rows"),
            ({"items": [{"prompt": "x"}] * N}, "item 0 has the id None"),
        ],
    )
    def test_bad_input_is_refused(self, changes: dict, sentence: str) -> None:
        arguments = {"items": ITEMS, "left": LEFT, "right": RIGHT, "order": "random", **changes}
        with pytest.raises(CourseError, match=sentence):
            judge_pairs(LONGER, **arguments)

    def test_items_of_one_id_are_refused_with_both_orders_too(self) -> None:
        with pytest.raises(CourseError, match="once in each order, but item 'item-0' has 4 rows"):
            judge_pairs(LONGER, [ITEMS[0]] * 2, ["a"] * 2, ["b"] * 2, order="both")

    def test_a_judge_that_returns_too_little_is_refused(self) -> None:
        judge = Always(1.0)
        judge.compare = lambda items, first, second: [Choice(1.0)]
        with pytest.raises(CourseError, match="'always' returned 1 choices for 200 questions"):
            judge_pairs(judge, ITEMS, LEFT, RIGHT)


class TestWinRate:
    def test_equals_the_win_rate_of_scores(self) -> None:
        ours = judge_pairs(LONGER, ITEMS, LEFT, RIGHT).win_rate()
        assert ours == win_rate([len(reply) for reply in RIGHT], [len(reply) for reply in LEFT])
        assert (ours.after, ours.up, ours.down, ours.same) == (0.75, 150, 50, 0)

    def test_a_judge_that_only_sees_positions_favours_nobody(self) -> None:
        result = judge_pairs(Always(0.9), ITEMS, LEFT, RIGHT).win_rate()
        assert result.low < 0 < result.high
        result = judge_pairs(Always(0.9), ITEMS, LEFT, RIGHT, order="both").win_rate()
        assert (result.after, result.same) == (0.5, N)

    def test_without_a_coin_the_lean_passes_for_quality(self) -> None:
        assert judge_pairs(Always(0.9), ITEMS, LEFT, RIGHT, order="as given").win_rate().after == 1.0

    def test_an_answer_and_a_tie_make_three_quarters(self) -> None:
        result = judgements("both", ("x", False, 0.9), ("x", True, 0.5), ("y", False, 0.5), ("y", True, 0.5))
        assert result.outcomes() == {"x": 0.75, "y": 0.5}
        assert result.verdicts() == {"x": "left", "y": "tie"}


class TestPositionBias:
    def test_a_judge_that_always_says_first(self) -> None:
        bias = judge_pairs(Always(0.6), ITEMS, LEFT, RIGHT).position_bias()
        assert (bias.n, bias.share) == (N, 1.0)
        assert (bias.low, bias.high) == pytest.approx(wilson_interval(N, N))
        assert bias.p == pytest.approx(2 * 0.5**N)
        assert judge_pairs(Always(0.4), ITEMS, LEFT, RIGHT, order="both").position_bias().share == 0.0

    def test_a_perfect_judge_has_none_though_one_model_is_better(self) -> None:
        bias = judge_pairs(LONGER, ITEMS, LEFT, RIGHT).position_bias()
        won = sum(row.first_won for row in judge_pairs(LONGER, ITEMS, LEFT, RIGHT).rows)
        assert (bias.share, bias.p) == (won / N, pytest.approx(binomtest(int(won), N).pvalue))
        assert bias.low < 0.5 < bias.high
        both = judge_pairs(LONGER, ITEMS, LEFT, RIGHT, order="both").position_bias()
        assert (both.share, both.p) == (0.5, 1.0)
        # No item speaks of a lean, which does not prove that there is none.
        low, high = tango_interval(0, 0, N)
        assert (both.low, both.high) == pytest.approx(((1 + low) / 2, (1 + high) / 2))
        assert both.low < 0.5 < both.high

    @pytest.mark.parametrize("lean", [0.5, 0.8])
    def test_a_lean_is_found_in_either_way(self, lean: float) -> None:
        expected = lean + (1 - lean) / 2
        for order in ("random", "both"):
            results = [
                judge_pairs(Leaning(lean, seed), ITEMS, LEFT, RIGHT, order=order, seed=seed).position_bias()
                for seed in range(10)
            ]
            assert sum(bias.share for bias in results) / 10 == pytest.approx(expected, abs=0.03)
            for bias in results:
                assert bias.p < 0.001
                assert 0.5 < bias.low < bias.share < bias.high < 1

    def test_the_p_value_is_calibrated_for_a_judge_without_a_lean(self) -> None:
        # One model always better: only the coin keeps position and quality apart.
        left, right = ["aa"] * N, ["a"] * N
        p_values = [
            judge_pairs(LONGER, ITEMS, left, right, seed=seed).position_bias().p for seed in range(300)
        ]
        assert sum(p < 0.05 for p in p_values) / 300 < 0.08
        assert kstest(p_values, "uniform", alternative="greater").statistic < 0.12

    def test_ties_count_half(self) -> None:
        rows = [("a", False, 1.0), ("b", True, 0.5), ("c", True, 0.8), ("d", False, 0.5)]
        bias = judgements("random", *rows).position_bias()
        assert (bias.n, bias.share, bias.p) == (4, 0.75, pytest.approx(0.5))
        low, high = tango_interval(2, 0, 4)
        assert (bias.low, bias.high) == pytest.approx(((1 + low) / 2, (1 + high) / 2))

    def test_quarters_stay_within_0_and_1(self) -> None:
        pairs = [(1.0, 0.5), (1.0, 1.0), (1.0, 1.0)]
        rows = [(str(i), flip, pair[flip]) for i, pair in enumerate(pairs) for flip in (False, True)]
        bias = judgements("both", *rows).position_bias()
        assert (bias.share, bias.high) == (pytest.approx(2.75 / 3), 1.0)
        assert 0 <= bias.low < bias.share
        alone = judgements("both", *rows[:2]).position_bias()
        assert (alone.share, alone.low, alone.high) == (0.75, 0.0, 1.0)

    def test_a_fixed_order_is_refused(self) -> None:
        with pytest.raises(CourseError, match="every reply of 'left' was shown first"):
            judge_pairs(LONGER, ITEMS, LEFT, RIGHT, order="as given").position_bias()


class TestConsistency:
    @pytest.mark.parametrize(("judge", "stable"), [(LONGER, N), (Always(0.7), 0), (Always(0.5), N)])
    def test_judges_of_known_faults(self, judge, stable: int) -> None:
        result = judge_pairs(judge, ITEMS, LEFT, RIGHT, order="both").consistency()
        assert (result.n, result.share, result.p) == (N, stable / N, None)
        assert (result.low, result.high) == pytest.approx(wilson_interval(stable, N))

    def test_a_lean_makes_that_share_of_the_verdicts_turn(self) -> None:
        result = judge_pairs(Leaning(0.3), ITEMS, LEFT, RIGHT, order="both").consistency()
        assert result.share == pytest.approx(0.7, abs=0.1)

    def test_a_win_and_a_tie_are_not_the_same_verdict(self) -> None:
        result = judgements("both", ("x", False, 0.9), ("x", True, 0.5))
        assert result.consistency().share == 0.0

    @pytest.mark.parametrize("order", ["random", "as given"])
    def test_one_order_is_not_enough(self, order: str) -> None:
        with pytest.raises(CourseError, match=f"the order was '{order}'"):
            judge_pairs(LONGER, ITEMS, LEFT, RIGHT, order=order).consistency()


class TestRows:
    def test_a_frame_has_a_line_per_question(self) -> None:
        result = judge_pairs(Always(0.9), ITEMS[:3], ["a"] * 3, ["b"] * 3, order="both")
        frame = result.frame()
        assert tuple(frame.columns) == COLUMNS
        assert frame["flipped"].tolist() == [False, True] * 3
        assert frame["outcome"].tolist() == [1.0, 0.0] * 3

    def test_no_rows_are_refused(self) -> None:
        with pytest.raises(CourseError, match="there is no judgement"):
            judgements("random")

    def test_an_order_that_the_rows_contradict_is_refused(self) -> None:
        with pytest.raises(CourseError, match="once, not flipped, but item 'x' has 1 rows, 1 of them"):
            judgements("as given", ("x", True, 1.0))
        with pytest.raises(CourseError, match="once in each order, but item 'x' has 1 rows"):
            judgements("both", ("x", True, 1.0))
        with pytest.raises(CourseError, match="once in each order, but item 'x' has 2 rows, 0 of them"):
            judgements("both", ("x", False, 1.0), ("x", False, 1.0))
        with pytest.raises(CourseError, match="asked once, but item 'x' has 2 rows"):
            judgements("random", ("x", False, 1.0), ("x", True, 1.0))


class TestKappa:
    def test_equal_verdicts_agree_fully_in_any_order_of_the_items(self) -> None:
        one = judge_pairs(LONGER, ITEMS, LEFT, RIGHT)
        other = judge_pairs(LONGER, ITEMS[::-1], LEFT[::-1], RIGHT[::-1], seed=3, order="both")
        result = kappa(one, other)
        assert (result.n, result.kappa, result.agreement) == (N, 1.0, 1.0)

    def test_it_equals_the_formula_on_verdicts(self) -> None:
        one = judge_pairs(LONGER, ITEMS, LEFT, RIGHT)
        other = judge_pairs(Leaning(0.5), ITEMS, LEFT, RIGHT)
        pairs = [(one.verdicts()[item["id"]], other.verdicts()[item["id"]]) for item in ITEMS]
        agreement = sum(a == b for a, b in pairs) / N
        chance = sum(
            sum(a == side for a, _ in pairs) * sum(b == side for _, b in pairs) / N**2
            for side in ("left", "right", "tie")
        )
        result = kappa(one, other)
        assert result.kappa == pytest.approx((agreement - chance) / (1 - chance))
        assert 0 < result.kappa < 1

    def test_a_judge_with_one_answer_agrees_by_chance(self) -> None:
        one = judge_pairs(LONGER, ITEMS, LEFT, RIGHT)
        other = judge_pairs(Always(1.0), ITEMS, LEFT, RIGHT, order="as given")
        assert kappa(one, other).kappa == pytest.approx(0)

    def test_other_models_or_items_are_refused(self) -> None:
        one = judge_pairs(LONGER, ITEMS, LEFT, RIGHT)
        with pytest.raises(CourseError, match="'left' with 'right' and the other 'right' with 'left'"):
            kappa(one, replace(one, left="right", right="left"))
        with pytest.raises(CourseError, match="1 items were judged by one of the two judges only"):
            kappa(one, replace(one, rows=one.rows[1:]))
