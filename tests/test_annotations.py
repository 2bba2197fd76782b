"""Whether a value fits an annotation, and the annotation in words."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest

from posttrain_helpers.annotations import described, enumerated, fits, is_number


class Pace(Enum):
    SLOW = "slow"
    FAST = "fast"


FITTING = [
    (1, int),
    (1, float),
    (1.5, float),
    (True, bool),
    ("a", str),
    (None, str | None),
    ([1, 2], list[int]),
    ([1.0, 2], tuple[float, float]),
    ([], list[int]),
    ({"a": 1}, dict[str, int]),
    ({}, dict),
    ("slow", Pace),
    ("slow", Pace | str),
    ("all", Literal["none", "all"]),
    ("niter_4", Literal["niter_[number]"]),
    (object(), Any),
]
NOT_FITTING = [
    (True, int),
    (1, bool),
    (1.0, int),
    (float("nan"), float),
    (float("inf"), float),
    (10**400, float),
    ("1", float),
    (1, str),
    (None, str),
    ([1, "2"], list[int]),
    ("ab", list[str]),
    ({"a": None}, dict[str, int]),
    ([], dict),
    ("medium", Pace),
    ("medium", Pace | str),
    ([], Pace | str),
    ("some", Literal["none", "all"]),
    (1, Literal[True]),
    ("niter_x", Literal["niter_[number]"]),
    ({}, Exception | None),
]


@pytest.mark.parametrize(("value", "kind"), FITTING)
def test_what_fits(value: object, kind: Any) -> None:
    assert fits(value, kind)


@pytest.mark.parametrize(("value", "kind"), NOT_FITTING)
def test_what_does_not_fit(value: object, kind: Any) -> None:
    assert not fits(value, kind)


def test_an_annotation_in_words() -> None:
    assert described(int | None) == "a whole number or null"
    assert described(Pace | str) == "one of slow, fast"
    assert described(list[str] | dict[str, int] | bool) == "a list or keys and values or true or false"
    assert described(Literal["none", "all"]) == "none or all"
    assert enumerated(Pace | str) == enumerated(Pace) == ["slow", "fast"]
    assert enumerated(str | None) == []


def test_a_number_is_finite_and_no_truth_value() -> None:
    assert all(map(is_number, (0, -1.5, 10**300)))
    assert not any(map(is_number, (True, float("nan"), float("-inf"), 10**400, "1", None)))
