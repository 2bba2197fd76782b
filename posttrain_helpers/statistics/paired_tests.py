"""Paired comparisons and verdicts: what a before/after number is worth.

Two models answer the same held-out prompts, so every comparison is paired per prompt: `paired_binary` for
yes/no scores, `paired_numeric` for others, `paired` to choose between them. Prompts that are answered alike,
such as the questions about one relation, form clusters, and then whole clusters are compared. `verdict` reads
a result, and `describe` puts it into words.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.intervals import (
    ALPHA,
    CONFIDENCE,
    FEWEST_PROMPTS,
    VALUES_PER_BATCH,
    cluster_codes,
    cluster_effect,
    mean_interval,
    minimum_detectable_difference,
    tango_interval,
)

Verdict = Literal["improved", "worse", "no_difference_shown", "non_inferior"]
VERDICTS: tuple[Verdict, ...] = ("improved", "worse", "no_difference_shown", "non_inferior")

# Differences below this share of the largest score are rounding, not a change of the model.
_ROUNDING = 1e-12
# Scores that differ by no more than this are a tie.
TIE = 1e-9


@dataclass(frozen=True)
class PairedResult:
    """The comparison of two models on the same prompts.

    Attributes:
        n: number of prompts.
        before, after: mean score of the first and of the second model (rates when `kind` is "binary").
        difference: `after - before`.
        low, high: ends of the 95 % interval of the difference.
        p: two-sided p-value of "no difference"; an underflow is raised to the smallest positive float.
        up, down, same: number of prompts whose score rose, fell, stayed.
        kind: "binary" or "numeric".
        sd: standard deviation of the differences per prompt.
        higher_is_better: whether a rise is an improvement.
        clusters: number of clusters; None when every prompt counts on its own.
        design_effect: by how much the clusters raise the variance of the difference, 1 without them.
        p_at_floor: whether `p` is the smallest that the drawn sign flips can give: p is at most that.
    """

    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    p: float
    up: int
    down: int
    same: int
    kind: Literal["binary", "numeric"]
    sd: float
    higher_is_better: bool = True
    clusters: int | None = None
    design_effect: float = 1.0
    p_at_floor: bool = False


def paired_binary(
    before: Sequence[bool],
    after: Sequence[bool],
    *,
    higher_is_better: bool = True,
    clusters: Sequence[Hashable] | None = None,
) -> PairedResult:
    """Compare two success rates on the same prompts: exact McNemar test and `tango_interval`.

    With clusters the test flips the signs of whole clusters, all combinations of them; when every prompt is a
    cluster of its own, that is McNemar's.

    Args:
        before: success per prompt of the first model, True/False or 1/0.
        after: success per prompt of the second model, in the same order.
        higher_is_better: whether more successes are an improvement.
        clusters: the cluster of every prompt; None when the prompts are independent. See `cluster_codes`.

    Returns:
        The result; `before`, `after`, `difference` and the interval are shares.

    Raises:
        CourseError: when the lists are empty, differ in length, or hold anything but yes and no.

    Source: McNemar (1947), Psychometrika 12, 153-157, with the exact binomial distribution.
    """
    from scipy.stats import binomtest

    first, second = paired_scores(before, after)
    if not _yes_no(first, second):
        raise CourseError(
            "Yes/no scores must be True/False or 1/0; found other numbers. Use paired_numeric for those."
        )
    up, down = int((second > first).sum()), int((second < first).sum())
    codes = cluster_codes(clusters, len(first))
    if codes is None:
        interval = tango_interval(up, down, len(first))
        p = binomtest(up, up + down, 0.5).pvalue if up + down else 1.0
    else:
        effect, degrees = cluster_effect(second - first, codes)
        interval = tango_interval(up, down, len(first), design_effect=effect, degrees=degrees)
        p = _exact_sign_flip_p(np.bincount(codes, second - first).astype(int))
    return _result(first, second, interval, p, "binary", higher_is_better, codes)


def paired_numeric(
    before: Sequence[float],
    after: Sequence[float],
    *,
    higher_is_better: bool = True,
    resamples: int = 9999,
    clusters: Sequence[Hashable] | None = None,
) -> PairedResult:
    """Compare two mean scores on the same prompts: sign-flip permutation test and a bootstrap interval.

    The prompt is the unit: where it has several samples, pass their mean. Below 8 prompts the interval is
    Student's, and it has no width when every prompt changes by the same amount (see `mean_interval`). With
    clusters the test flips the signs of whole clusters.

    Args:
        before: score per prompt of the first model.
        after: score per prompt of the second model, in the same order.
        higher_is_better: whether a higher score is an improvement (False for a loss).
        resamples: bootstrap resamples, and sign flips where not all of them can be enumerated; the seed is 0.
        clusters: the cluster of every prompt; None when the prompts are independent. See `cluster_codes`.

    Returns:
        The result, in the unit of the scores.

    Raises:
        CourseError: when there are fewer than two prompts, the lists differ in length or a score is missing.

    Source: Fisher (1935), The Design of Experiments, section 21, for the test; Hesterberg (2015) for the
    interval.
    """
    first, second = paired_scores(before, after)
    difference = paired_differences(first, second)
    interval = mean_interval(difference, resamples=resamples, clusters=clusters)
    codes = cluster_codes(clusters, len(difference))
    flipped = difference if codes is None else np.bincount(codes, difference)
    p = sign_flip_p(flipped, resamples=resamples)
    result = _result(first, second, interval, p, "numeric", higher_is_better, codes)
    # Of few enough prompts all sign flips are enumerated, and every p is larger than this.
    return replace(result, p_at_floor=result.p <= 2 / (resamples + 1))


def paired(before: Sequence[float], after: Sequence[float], **options: Any) -> PairedResult:
    """Compare by `paired_binary` when every score is 0 or 1, else by `paired_numeric`.

    Args:
        before, after: as for both.
        options: `higher_is_better` and `clusters`.
    """
    compare = paired_binary if _yes_no(*paired_scores(before, after)) else paired_numeric
    return compare(before, after, **options)


def win_rate(
    before: Sequence[float], after: Sequence[float], *, clusters: Sequence[Hashable] | None = None
) -> PairedResult:
    """Compare two models by who scores higher on each prompt; a tie counts half for both.

    Args:
        before: score per prompt of the first model, length N.
        after: score per prompt of the second model on the same prompts.
        clusters: the cluster of every prompt, as in `paired_numeric`.

    Returns:
        A paired result whose `after` is the win rate of the second model and whose `before` is 0.5, the win
        rate of a model against its equal. `up`, `down` and `same` count wins, losses and ties.

    Raises:
        CourseError: fewer than two prompts, lists of different length, or a missing score.
    """
    first, second = paired_scores(before, after)
    outcomes = np.where(np.abs(second - first) <= TIE, 0.5, second > first)
    return paired_numeric(np.full(len(outcomes), 0.5), outcomes, clusters=clusters)


def verdict(result: PairedResult, expected_margin: float | None = None) -> Verdict:
    """Read a result: improved, worse, no difference shown, or non-inferior.

    "improved" and "worse" need an interval without 0 and also p < 0.05: the score interval of five
    prompts up and none down lies above 0, but its p is 0.0625.

    Args:
        result: the comparison.
        expected_margin: with a margin, the question is whether the second model is *not worse by that
            much*: the answer is "non_inferior" when the whole interval is better than -margin, an improvement
            included. In the unit of the scores, greater than 0, chosen before the result is seen.

    Returns:
        One of `VERDICTS`.

    Raises:
        CourseError: when the margin is not positive.
    """
    significant = result.p < ALPHA
    low, high = (result.low, result.high) if result.higher_is_better else (-result.high, -result.low)
    if expected_margin is not None:
        if not expected_margin > 0:
            raise CourseError(
                f"A non-inferiority margin must be greater than 0; found {expected_margin}. Pass the largest "
                "loss that is still acceptable, in the unit of the scores."
            )
        # An interval without width comes from identical changes; without significance it bounds nothing.
        if low > -expected_margin and (low < high or significant):
            return "non_inferior"
    elif significant and low > 0:
        return "improved"
    return "worse" if significant and high < 0 else "no_difference_shown"


def describe(result: PairedResult, label: str, expected_margin: float | None = None) -> str:
    """Return the sentences that stand under a table: facts, then the verdict or what could have been shown.

    Args:
        result: the comparison.
        label: what is compared, e.g. "exact match".
        expected_margin: as in `verdict`.
    """
    digits = ".3f" if result.kind == "binary" else ".3g"
    clusters = "" if result.clusters is None else f" in {result.clusters} clusters"
    facts = (
        f"{label}: on these {result.n} held-out prompts{clusters} {result.up} up, {result.down} down, "
        f"{result.same} same; difference {result.difference:+{digits}} "
        f"({100 * CONFIDENCE:g} % interval {result.low:+{digits}} to {result.high:+{digits}}, "
        f"{format_p(result.p, result.p_at_floor)})."
    )
    reading = verdict(result, expected_margin)
    if reading in ("improved", "worse"):
        return f"{facts} {reading.capitalize()}{'' if result.higher_is_better else ' (lower is better)'}."
    if expected_margin is not None:
        not_worse = reading == "non_inferior"
        conclusion = "Not worse by" if not_worse else "This does not rule out that it is worse by"
        return f"{facts} {conclusion} {expected_margin:{digits}} or more."
    if result.low == result.high:
        return f"{facts} No difference shown: every prompt changed alike, so the interval has no width."
    if (result.low > 0 or result.high < 0) != (result.p < ALPHA):
        return f"{facts} No difference shown: interval and test disagree, so more prompts are needed."
    if (result.clusters or result.n) < FEWEST_PROMPTS:
        few = f"{result.n} prompts" if result.clusters is None else f"{result.clusters} clusters"
        return f"{facts} No difference shown; {few} are too few to show any."
    churn = (
        {"discordant": (result.up + result.down) / result.n} if result.kind == "binary" else {"sd": result.sd}
    )
    # Clustered prompts are worth fewer independent ones, but never less than one for each cluster.
    worth = max(result.clusters or 0, int(result.n / result.design_effect))
    visible = minimum_detectable_difference(worth, **churn)
    return (
        f"{facts} No difference shown; this many prompts could have shown >= {visible:{digits}} (80 % power)."
    )


def paired_differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return second - first per prompt, without the rounding that makes equal scores or changes look unequal.

    Args:
        first, second: finite scores of shape [N], N >= 1.
    """
    difference = second - first
    scale = _ROUNDING * max(np.abs(first).max(), np.abs(second).max())
    difference[np.abs(difference) <= scale] = 0.0
    return np.full_like(difference, difference[0]) if np.ptp(difference) <= scale else difference


def format_p(p: float, at_floor: bool = False) -> str:
    """Return a p-value for readers: `p = 0.031`, `p < 0.0001`, or `p <= 0.0002` at a test's floor."""
    return "p < 0.0001" if p < 1e-4 else f"p {'<=' if at_floor else '='} {p:.2g}"


def paired_scores(before: Sequence[float], after: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of two models on the same prompts as arrays.

    Raises:
        CourseError: when the lists are empty, differ in length, or a score is missing or infinite.
    """
    first, second = (
        np.array([math.nan if score is None else score for score in scores], dtype=float)
        for scores in (before, after)
    )
    if len(first) != len(second) or not len(first):
        raise CourseError(
            "A paired comparison needs one score per prompt from each model, in the same order; found "
            f"{len(first)} before and {len(second)} after. Score both models on the same prompts."
        )
    missing = int((~np.isfinite(first + second)).sum())
    if missing:
        raise CourseError(
            f"Every prompt needs a finite score from both models; {missing} of {len(first)} prompts have "
            "None, NaN or an infinite one. Leave those prompts out of both lists."
        )
    return first, second


def _yes_no(first: np.ndarray, second: np.ndarray) -> bool:
    return bool(np.isin(np.concatenate([first, second]), (0.0, 1.0)).all())


def _result(
    first: np.ndarray,
    second: np.ndarray,
    interval: tuple[float, float],
    p: float,
    kind: Literal["binary", "numeric"],
    higher_is_better: bool,
    codes: np.ndarray | None,
) -> PairedResult:
    n, difference = len(first), paired_differences(first, second)
    up, down = int((difference > 0).sum()), int((difference < 0).sum())
    return PairedResult(
        n=n,
        before=float(first.mean()),
        after=float(second.mean()),
        difference=float(difference.mean()),
        low=float(interval[0]),
        high=float(interval[1]),
        p=max(float(p), sys.float_info.min),
        up=up,
        down=down,
        same=n - up - down,
        kind=kind,
        sd=float(difference.std(ddof=1)) if n > 1 else 0.0,
        higher_is_better=higher_is_better,
        clusters=None if codes is None else int(codes.max()) + 1,
        design_effect=1.0 if codes is None else cluster_effect(difference, codes)[0],
    )


def sign_flip_p(differences: np.ndarray, *, resamples: int = 9999) -> float:
    """Return the two-sided p of the sign-flip test that the mean of the differences is 0.

    Args:
        differences: one number per prompt (or cluster), from `paired_differences`.
        resamples: sign flips that are drawn where not all of them can be enumerated; the seed is 0.
    """
    from scipy.stats import permutation_test

    p = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, VALUES_PER_BATCH // len(differences)),
        rng=0,
    ).pvalue
    return float(p)


def _exact_sign_flip_p(sums: np.ndarray) -> float:
    """Return the share of all sign combinations of whole numbers whose total is as far from 0 as theirs."""
    sizes = np.abs(sums[sums != 0])
    # The chance of every possible total, one cluster after the other: half of it moves up, half down.
    chances = np.ones(1)
    for size in sizes:
        chances = (np.pad(chances, (2 * size, 0)) + np.pad(chances, (0, 2 * size))) / 2
    totals = np.arange(len(chances)) - sizes.sum()
    return float(chances[np.abs(totals) >= abs(sums.sum())].sum())
