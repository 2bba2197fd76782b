"""Ranks of several models on the same items: which differences of means a test shows, and which are ties.

`significant_ranks` tests every pair of models on their paired scores and corrects for the number of tests.
Ratings from judged pairs of replies, Bradley-Terry's, are in `ratings`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from posttrain_helpers.statistics.claims import holm
from posttrain_helpers.statistics.intervals import (
    ALPHA,
    cluster_codes,
    cluster_effect,
    mean_interval,
    wilson_interval,
)
from posttrain_helpers.statistics.paired_tests import paired_binary, paired_differences, sign_flip_p

if TYPE_CHECKING:
    import pandas as pd

# From this many items on, the t-test of the differences replaces the sign-flip test.
ENOUGH_FOR_T = 30
# Resamples of an interval, and the fewest sign flips of a test: all that there are for up to 13 items.
_RESAMPLES = 2000
_SIGN_FLIPS = 9999


def significant_ranks(
    scores: Mapping[str, Sequence[float]], clusters: Sequence[Hashable] | None = None
) -> pd.DataFrame:
    """Rank models by their mean score, and count as better only what a paired test shows to be better.

    Two models whose intervals overlap may still differ: the tests compare them item by item, the intervals
    of the means do not. With Holm's correction all the ranges from `rank` to `worst_rank` hold at once with a
    probability of 95 %.

    Args:
        scores: for every model the score per item, in the same order of items for all models, none missing;
            higher is better.
        clusters: the cluster of every item; None when items are independent. See `cluster_codes`.

    Returns:
        One row per model, best mean first, with the label as index and the columns `n`, `mean`, `low` and
        `high` (Wilson where all scores are yes/no, `mean_interval` otherwise), `rank` (1 + the number of
        models that are significantly better, so that ties share it), `worst_rank` (the number of models less
        the significantly worse ones), `tied_with` (a tuple of the labels that no test separates from this
        one, best first).

    Source: the rank is that of Chiang et al. (2024), arXiv:2403.04132, by paired tests instead of intervals;
    the range is that of Mogstad et al. (2024), Review of Economic Studies 91, 476-518.
    """
    import pandas as pd

    table = {label: np.asarray(values, dtype=float) for label, values in scores.items()}
    p_values = pair_p_values(table, clusters)
    means = {label: float(values.mean()) for label, values in table.items()}
    order = sorted(table, key=means.__getitem__, reverse=True)
    better: dict[str, set[str]] = {label: set() for label in order}
    worse: dict[str, set[str]] = {label: set() for label in order}
    for pair, p in zip(p_values, holm(list(p_values.values())), strict=True):
        if p < ALPHA:
            loser, winner = sorted(pair, key=means.__getitem__)
            better[loser].add(winner)
            worse[winner].add(loser)
    yes_no = all_yes_no(table)
    rows = {}
    for label in order:
        low, high = score_interval(table[label], yes_no, clusters)
        rows[label] = {
            "n": len(table[label]),
            "mean": means[label],
            "low": low,
            "high": high,
            "rank": 1 + len(better[label]),
            "worst_rank": len(order) - len(worse[label]),
            "tied_with": tuple(
                other for other in order if other not in {label, *better[label], *worse[label]}
            ),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("label")


def pair_p_values(
    scores: Mapping[str, np.ndarray], clusters: Sequence[Hashable] | None = None
) -> dict[tuple[str, str], float]:
    """Return the p of every pair of models, uncorrected: McNemar's for yes/no scores, else `numeric_p`."""
    pairs = list(itertools.combinations(scores, 2))
    yes_no, codes = all_yes_no(scores), cluster_codes(clusters, len(next(iter(scores.values()))))
    # The smallest possible p is 2 / resamples: a fifth of what Holm asks of the first pair.
    resamples = max(_SIGN_FLIPS, math.ceil(10 * len(pairs) / ALPHA))
    return {
        (first, second): paired_binary(scores[first], scores[second], clusters=clusters).p
        if yes_no
        else numeric_p(paired_differences(scores[first], scores[second]), codes, resamples)
        for first, second in pairs
    }


def numeric_p(difference: np.ndarray, codes: np.ndarray | None, resamples: int = _SIGN_FLIPS) -> float:
    """Return the two-sided p of a mean difference: by sign flips below 30 items, by the t-test from there on.

    The smallest p of a resampled test is about 2 / resamples, which a correction for many tests never finds
    significant, while the t-test has no such floor and takes no time. With clusters the signs are flipped
    together, and the t-test has the error and the degrees of freedom of `cluster_effect`.

    Args:
        difference: one number per item, from `paired_differences`.
        codes: the cluster of each, from `cluster_codes`.
        resamples: sign flips where not all of them can be enumerated.
    """
    # scipy.stats.ttest_1samp has the same p, but takes a hundred times as long to check its arguments.
    from scipy.special import stdtr

    n = len(difference)
    if n < ENOUGH_FOR_T:
        flipped = difference if codes is None else np.bincount(codes, difference)
        return sign_flip_p(flipped, resamples=resamples)
    if np.ptp(difference) == 0:
        # Without spread there is no t: equal scores tie, and equal changes have the p of the sign-flip test.
        independent = n if codes is None else int(codes.max()) + 1
        return 1.0 if difference[0] == 0 else 2 * 0.5**independent
    effect, degrees = (1.0, n - 1) if codes is None else cluster_effect(difference, codes)
    t = difference.mean() / (difference.std(ddof=1) * math.sqrt(effect / n))
    return float(2 * stdtr(degrees, -abs(t)))


def all_yes_no(scores: Mapping[str, np.ndarray]) -> bool:
    """Return whether every score of every model is 0 or 1."""
    return all(np.isin(values, (0.0, 1.0)).all() for values in scores.values())


def score_interval(
    values: np.ndarray, yes_no: bool, clusters: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a mean score.

    Args:
        values: one score per item.
        yes_no: whether the scores are 0 or 1; then the interval is Wilson's, else `mean_interval`.
        clusters: the cluster of every item; None when items are independent. See `cluster_codes`.

    Returns:
        The low and the high end; NaN for a single score that is not yes or no.
    """
    if yes_no:
        codes = cluster_codes(clusters, len(values))
        effect, degrees = (1.0, math.inf) if codes is None else cluster_effect(values, codes)
        return wilson_interval(int(values.sum()), len(values), design_effect=effect, degrees=degrees)
    if len(values) < 2:
        return math.nan, math.nan
    return mean_interval(values, resamples=_RESAMPLES, clusters=clusters)
