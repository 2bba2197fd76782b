"""Claims: what a lesson stores of a comparison, and what it promises of a single number.

A `Claim` names the verdict that is expected of a paired result, a `Bound` the range of a number; `check` says
whether they hold. `adjusted_claims` corrects a lesson's claims for their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.intervals import ALPHA, CONFIDENCE
from posttrain_helpers.statistics.paired_tests import VERDICTS, PairedResult, Verdict, format_p, verdict


@dataclass(frozen=True)
class Claim:
    """One line of a lesson's results: what is expected, what was measured, and the computed verdict.

    Attributes:
        name: what the lesson claims, for readers.
        metric: the score, e.g. "exact_match".
        n, before, after, difference, low, high, p, p_at_floor: as in `PairedResult`.
        expected: the verdict that the lesson promises.
        verdict: the verdict that the result has.
        at_least: the lowest `after` that the lesson accepts; None when the verdict is all that it promises.
        confidence: level of the interval, for readers of the results file.
        adjusted_p: p corrected for the number of claims, when `adjusted_claims` has; the verdict follows it.
    """

    name: str
    metric: str
    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    p: float
    expected: Verdict
    verdict: Verdict
    at_least: float | None = None
    confidence: float = CONFIDENCE
    p_at_floor: bool = False
    adjusted_p: float | None = None

    @classmethod
    def from_result(
        cls,
        name: str,
        metric: str,
        result: PairedResult,
        expected: str,
        margin: float | None = None,
        at_least: float | None = None,
    ) -> Claim:
        """Make a claim of a result and compute its verdict.

        Args:
            name: what the lesson claims, for readers.
            metric: the score, e.g. "exact_match".
            result: the comparison.
            expected: one of `VERDICTS`.
            margin: non-inferiority margin; given exactly when `expected` is "non_inferior".
            at_least: the lowest acceptable `after`, in the unit of the scores.

        Raises:
            CourseError: when `expected` is no verdict, the margin is missing or superfluous, or `at_least` is
                no finite number.
        """
        if expected not in VERDICTS:
            raise CourseError(f"{expected!r} is no verdict; use one of {', '.join(VERDICTS)}.")
        if (expected == "non_inferior") != (margin is not None):
            raise CourseError(
                "A margin belongs to a claim that expects 'non_inferior' and to no other; found "
                f"expected={expected!r} with margin={margin}. Change one of the two."
            )
        shared = ("n", "before", "after", "difference", "low", "high", "p", "p_at_floor")
        fields = {key: getattr(result, key) for key in shared}
        return cls(
            name,
            metric,
            **fields,
            expected=expected,
            verdict=verdict(result, margin),
            at_least=None if at_least is None else _finite(at_least, f"at_least of the claim {name!r}"),
        )

    @property
    def held(self) -> bool:
        """Whether the verdict is the expected one and `after` reaches `at_least`."""
        return not self._failures()

    def _failures(self) -> list[str]:
        failures = []
        if self.verdict != self.expected:
            failures.append(f"expects {self.expected!r}, but the verdict is {self.verdict!r}")
        if self.at_least is not None and self.after < self.at_least:
            failures.append(f"needs at least {self.at_least:g}, but found {self.after:.4g}")
        return failures

    def check(self) -> Claim:
        """Return the claim when it held, else raise an AssertionError saying what did not."""
        if failures := self._failures():
            p = format_p(self.p, self.p_at_floor)
            if self.adjusted_p is not None:
                p += f", corrected {format_p(self.adjusted_p, self.p_at_floor)}"
            raise AssertionError(
                f"The claim {self.name!r} {' and '.join(failures)}: "
                f"{self.metric} {self.before:.3g} -> {self.after:.3g} on {self.n} held-out prompts, "
                f"difference {self.difference:+.3g} ({100 * self.confidence:g} % interval {self.low:+.3g} to "
                f"{self.high:+.3g}, {p})."
            )
        return self


@dataclass(frozen=True)
class Bound:
    """A promise about one number that is no paired comparison, such as a calibration error of at most 0.05.

    Attributes:
        name: what the lesson promises, for readers.
        value: what was measured.
        at_least, at_most: the limits, both included; at least one of them.

    Raises:
        CourseError: when no limit is given, or a number is not finite.
    """

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise CourseError(f"The bound {self.name!r} has no limit; give at_least, at_most or both.")
        for key in ("value", "at_least", "at_most"):
            number = getattr(self, key)
            if number is not None or key == "value":
                # A plain float, whatever library it came from, so that JSON can hold it.
                object.__setattr__(self, key, _finite(number, f"{key} of the bound {self.name!r}"))

    @property
    def held(self) -> bool:
        """Whether the value lies within the limits."""
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def limits(self) -> str:
        """The limits for readers, such as "at least 0.05 and at most 0.25"."""
        limits = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{words} {limit:g}" for words, limit in limits if limit is not None)

    def check(self) -> Bound:
        """Return the bound when it held, else raise an AssertionError with the value and the limits."""
        if not self.held:
            raise AssertionError(f"The bound {self.name!r} must be {self.limits}, but is {self.value:.4g}.")
        return self


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number: below alpha, all of them are right with 1 - alpha.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes smaller than one before
    it, or larger than 1.

    Args:
        p_values: p-values of m tests, in any order.

    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    values = np.asarray(p_values, dtype=float)
    assert ((values >= 0) & (values <= 1)).all(), f"a p-value lies between 0 and 1: {values}"
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1.0)
    return adjusted.tolist()


def adjusted_claims(claims: Sequence[Claim]) -> list[Claim]:
    """Return the claims of one lesson with their p corrected for their number, and verdicts that follow it.

    Of ten tests at 5 % each, one is easily significant by chance. Claims that expect a difference are
    corrected together by `holm`; where the corrected p is not below 0.05, no difference is shown.
    Claims that expect none ("no_difference_shown", "non_inferior") need no correction and stay as they are.
    Intervals keep their level, each for itself.

    Args:
        claims: all claims of the lesson, each with the p of its own test.

    Returns:
        The claims in the same order, with `adjusted_p` and `verdict` anew.
    """
    tested = [place for place, claim in enumerate(claims) if claim.expected in ("improved", "worse")]
    adjusted = list(claims)
    for place, p in zip(tested, holm([claims[place].p for place in tested]), strict=True):
        claim = claims[place]
        shown = claim.verdict if p < ALPHA else "no_difference_shown"
        adjusted[place] = replace(claim, adjusted_p=p, verdict=shown)
    return adjusted


def _finite(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise CourseError(f"{what} is {value!r}; it must be a finite number.")
    return float(value)
