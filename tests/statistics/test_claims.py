"""Claims and bounds: what holds, what is stored, and how a lesson's claims are corrected together."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from paired_results import binary

from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.claims import Bound, Claim, adjusted_claims, holm
from posttrain_helpers.statistics.paired_tests import (
    paired_numeric,
)


def test_claim_has_the_fields_of_the_results_file() -> None:
    claim = Claim.from_result("held-out entities answered", "exact_match", binary(20, 0, 30), "improved")
    assert list(asdict(claim)) == [
        *("name", "metric", "n", "before", "after", "difference", "low", "high", "p", "expected", "verdict"),
        *("at_least", "confidence", "p_at_floor", "adjusted_p"),
    ]
    assert claim.verdict == "improved"
    assert claim.check() is claim


def test_claim_check_fails_with_the_numbers() -> None:
    claim = Claim.from_result("answers more", "exact_match", binary(3, 2, 95), "improved")
    with pytest.raises(
        AssertionError, match=r"'answers more' expects 'improved', .* 'no_difference_shown'.*100"
    ):
        claim.check()


def test_claim_of_non_inferiority() -> None:
    assert Claim.from_result("keeps", "exact_match", binary(30, 0, 170), "non_inferior", margin=0.03).check()
    lost = binary(up=4, down=5, same=191)
    assert -0.05 < lost.low < -0.03
    assert [
        Claim.from_result("keeps", "exact_match", lost, "non_inferior", margin=margin).held
        for margin in (0.03, 0.05)
    ] == [False, True]
    with pytest.raises(CourseError, match="A margin belongs"):
        Claim.from_result("keeps", "exact_match", binary(0, 0, 200), "non_inferior")
    with pytest.raises(CourseError, match="A margin belongs"):
        Claim.from_result("keeps", "exact_match", binary(0, 0, 200), "improved", margin=0.03)


@pytest.mark.parametrize(
    ("expected", "at_least", "held", "words"),
    [
        ("improved", 0.9, True, ""),
        ("improved", None, True, ""),
        ("improved", 0.91, False, "^The claim 'answers' needs at least 0.91, but found 0.9:"),
        ("worse", 0.9, False, "^The claim 'answers' expects 'worse', but the verdict is 'improved':"),
        ("worse", 0.91, False, "expects 'worse', .* 'improved' and needs at least 0.91, but found 0.9:"),
    ],
)
def test_a_claim_holds_by_its_verdict_and_its_lowest_score(
    expected: str, at_least: float | None, held: bool, words: str
) -> None:
    result = binary(up=30, down=5, same=0)
    result = dataclasses.replace(result, before=0.2, after=0.9)
    claim = Claim.from_result("answers", "exact_match", result, expected, at_least=at_least)
    assert claim.at_least == asdict(claim)["at_least"] == at_least
    assert claim.held is held
    if held:
        assert claim.check() is claim
    else:
        with pytest.raises(AssertionError, match=words):
            claim.check()


@pytest.mark.parametrize("at_least", [math.nan, math.inf, "0.9", True])
def test_a_claim_needs_a_finite_lowest_score(at_least: object) -> None:
    with pytest.raises(CourseError, match=r"at_least of the claim 'answers' is .* finite number"):
        Claim.from_result("answers", "exact_match", binary(9, 0, 1), "improved", at_least=at_least)


@pytest.mark.parametrize(
    ("value", "limits", "held", "words"),
    [
        (0.05, {"at_most": 0.05}, True, ""),
        (0.051, {"at_most": 0.05}, False, "'error' must be at most 0.05, but is 0.051"),
        (0.95, {"at_least": 0.95}, True, ""),
        (0.94, {"at_least": 0.95}, False, "'error' must be at least 0.95, but is 0.94"),
        (0.05, {"at_least": 0.05, "at_most": 0.25}, True, ""),
        (0.25, {"at_least": 0.05, "at_most": 0.25}, True, ""),
        (0.04, {"at_least": 0.05, "at_most": 0.25}, False, "at least 0.05 and at most 0.25, but is 0.04"),
        (0.26, {"at_least": 0.05, "at_most": 0.25}, False, "at least 0.05 and at most 0.25, but is 0.26"),
        (-1, {"at_most": 0}, True, ""),
        (1, {"at_most": 0}, False, "at most 0, but is 1"),
    ],
)
def test_a_bound_holds_within_its_limits(value: float, limits: dict, held: bool, words: str) -> None:
    bound = Bound("error", value, **limits)
    assert bound.held is held
    if held:
        assert bound.check() is bound
    else:
        with pytest.raises(AssertionError, match=words):
            bound.check()


@pytest.mark.parametrize(
    ("value", "limits", "words"),
    [
        (0.1, {}, "'error' has no limit; give at_least"),
        (math.nan, {"at_most": 1}, "value of the bound 'error' is nan"),
        (None, {"at_most": 1}, "value of the bound 'error' is None"),
        ("0.1", {"at_most": 1}, "value of the bound 'error' is '0.1'"),
        (0.1, {"at_most": math.inf}, "at_most of the bound 'error' is inf"),
        (0.1, {"at_least": -math.inf, "at_most": 1}, "at_least of the bound 'error' is -inf"),
    ],
)
def test_a_bound_without_sense_is_refused(value: object, limits: dict, words: str) -> None:
    with pytest.raises(CourseError, match=words):
        Bound("error", value, **limits)


def test_a_bound_may_name_one_number() -> None:
    assert Bound("error", 0.5, at_least=0.5, at_most=0.5).held
    assert not Bound("error", 0.51, at_least=0.5, at_most=0.5).held


def test_a_bound_of_another_library_s_number_is_json() -> None:
    bound = Bound("error", np.float32(0.5), at_least=np.int64(0))
    expected = {"name": "error", "value": 0.5, "at_least": 0.0, "at_most": None}
    assert json.loads(json.dumps(asdict(bound))) == expected


def test_claim_refuses_an_unknown_verdict() -> None:
    with pytest.raises(CourseError, match="'improve' is no verdict; use one of improved, worse"):
        Claim.from_result("a", "exact_match", binary(1, 0, 0), "improve")


def test_holm_by_hand() -> None:
    # Sorted: .005 * 4 = .02, .01 * 3 = .03, .03 * 2 = .06, .04 * 1 = .04 -> .06, never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_what_a_published_table_rejects() -> None:
    # SISA (quantitativeskills.com), help page on Bonferroni: of these seven, Holm rejects the first three.
    adjusted = holm([0.00001, 0.00099, 0.003, 0.0145, 0.016, 0.06, 0.13])
    assert [p < 0.05 for p in adjusted] == [True] * 3 + [False] * 4


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_probability(bad: float) -> None:
    with pytest.raises(AssertionError, match="between 0 and 1"):
        holm([0.5, bad])


def claim_of(up: int, down: int, expected: str, **options: object) -> Claim:
    return Claim.from_result(
        f"{up} up", "exact_match", binary(up, down, 80), expected, options.pop("margin", None), **options
    )


def test_claims_of_a_lesson_are_corrected_together() -> None:
    claims = [
        claim_of(7, 0, "improved"),  # p = 2/2^7 = .0156, times 2, but not below the one before
        claim_of(20, 0, "improved"),  # tiny, times 4
        claim_of(10, 1, "improved"),  # p = 24/2^11 = .0117, times 3
        claim_of(0, 6, "worse"),  # p = 2/2^6 = .0313, times 1, likewise
    ]
    raw = [claim.p for claim in claims]
    assert [claim.held for claim in claims] == [True] * 4
    adjusted = adjusted_claims(claims)
    assert [claim.p for claim in adjusted] == raw
    assert [claim.adjusted_p for claim in adjusted] == holm(raw)
    assert adjusted[1].adjusted_p == 4 * raw[1]
    assert [claim.adjusted_p for claim in adjusted if claim.name != "20 up"] == [3 * raw[2]] * 3
    assert [claim.held for claim in adjusted] == [True] * 4
    seven = adjusted_claims(
        [*claims, claim_of(6, 0, "improved"), claim_of(0, 7, "worse"), claim_of(3, 2, "worse")]
    )
    assert [claim.verdict for claim in seven] == [
        *("no_difference_shown", "improved", "no_difference_shown"),
        *["no_difference_shown"] * 4,
    ]
    assert [claim.name for claim in seven[:4]] == [claim.name for claim in claims]
    with pytest.raises(AssertionError, match=r"'7 up' expects 'improved', .* p = 0\.016, corrected p = 0\.0"):
        seven[0].check()
    # The p of the test stays, so that correcting once more corrects nothing twice.
    assert adjusted_claims(adjusted) == adjusted
    assert adjusted_claims([]) == []


def test_claims_that_expect_no_difference_are_not_corrected() -> None:
    kept = claim_of(1, 0, "non_inferior", margin=0.1)
    # A difference that nobody expected is not hidden by the number of the other claims.
    surprise = claim_of(6, 0, "no_difference_shown")
    assert surprise.verdict == "improved"
    adjusted = adjusted_claims([kept, surprise, claim_of(7, 0, "improved"), claim_of(0, 7, "worse")])
    assert adjusted[:2] == [kept, surprise]
    assert [claim.adjusted_p for claim in adjusted[2:]] == [0.03125] * 2
    assert all(claim.held for claim in adjusted[2:])


def test_the_corrected_verdict_keeps_floor_and_equal_weights() -> None:
    before = np.random.default_rng(0).normal(size=30)
    result = paired_numeric(before, before + np.linspace(0.5, 1, 30), resamples=199)
    claims = [Claim.from_result(name, "reward", result, "improved", at_least=99.0) for name in "abcdef"]
    first = adjusted_claims(claims)[0]
    assert (first.adjusted_p, first.verdict) == (pytest.approx(0.06), "no_difference_shown")
    with pytest.raises(AssertionError, match=r"needs at least 99, .*p <= 0\.01, corrected p <= 0\.06"):
        first.check()
    equal = dataclasses.replace(claims[0], verdict="no_difference_shown")
    assert adjusted_claims([equal])[0].verdict == "no_difference_shown"
    at_the_level = dataclasses.replace(claims[0], p=0.05)
    assert adjusted_claims([at_the_level])[0].verdict == "no_difference_shown"
