"""95 % intervals of a rate, a paired difference and a mean, and what a number of prompts can show at all.

Prompts of one cluster, such as the questions about one relation, are answered alike, so they tell less about
other clusters than as many prompts of different ones: `cluster_effect` says how much less.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from posttrain_helpers.errors import CourseError

# The level of every interval; tests are read at 1 minus it.
CONFIDENCE = 0.95
# The share beyond each end of an interval.
TAIL = (1 - CONFIDENCE) / 2
# A p below this is significant. Not 1 - CONFIDENCE, which is a little more in binary.
ALPHA = 0.05
# Prompts that all change alike are significant from this many on: 2 * 0.5**6 < 0.05.
FEWEST_PROMPTS = 6
# The power for which `minimum_detectable_difference` asks.
POWER = 0.8
# A resampled mean never leaves the range of the data: with fewer values the bootstrap is too narrow.
_FEWEST_FOR_BOOTSTRAP = 8
# Bounds one batch of resamples to about 32 MB of float64.
VALUES_PER_BATCH = 4_000_000


def wilson_interval(
    successes: int, n: int, *, design_effect: float = 1.0, degrees: float = math.inf
) -> tuple[float, float]:
    """Return the lower and upper end of the Wilson score interval of one rate, as shares.

    Args:
        successes: number of prompts that succeed, 0 to `n`.
        n: number of prompts, at least 1.
        design_effect, degrees: for clustered prompts, from `cluster_effect`.

    Source: Wilson (1927), Journal of the American Statistical Association 22, 209-212; clusters divide the
    counts by the design effect, as in `tango_interval`.
    """
    from scipy.stats import t

    assert 0 <= successes <= n >= 1, f"{successes} of {n} prompts are no rate"
    rate, squared = successes / n, design_effect * float(t.isf(TAIL, degrees)) ** 2 / n
    centre = (rate + squared / 2) / (1 + squared)
    half = math.sqrt(squared * rate * (1 - rate) + squared**2 / 4) / (1 + squared)
    return max(0.0, centre - half), min(1.0, centre + half)


def tango_interval(
    up: int,
    down: int,
    n: int,
    *,
    design_effect: float = 1.0,
    degrees: float = math.inf,
) -> tuple[float, float]:
    """Return the ends of the score interval of `after - before`, two rates on the same prompts.

    Where no prompt changes, Wald's interval has width 0, as if a handful of prompts proved two models equal.
    This one is then +-z^2 / (n + z^2): +-0.16 for 20 prompts. Newcombe's method 10 narrows with the
    correlation of the unchanged prompts, to about half of that for large n, and covers too rarely there.

    Args:
        up: prompts that fail before and succeed after.
        down: prompts that succeed before and fail after.
        n: all prompts, changed or not.
        design_effect, degrees: for clustered prompts, from `cluster_effect`.

    Source: Tango (1998), Statistics in Medicine 17, 891-908: the differences that the score test does not
    reject, with the maximum-likelihood estimate of the rate of `down` under each difference. Clusters divide
    the counts by the design effect, as in Rao and Scott (1992), Biometrics 48, 577-585.
    """
    from scipy.optimize import brentq
    from scipy.stats import t

    assert min(up, down) >= 0, f"numbers of prompts: up={up}, down={down}"
    assert 1 <= n >= up + down, f"{up} + {down} changed prompts, but {n} in all"
    # Dividing every count by the design effect divides the statistic by it.
    critical = design_effect * t.isf(TAIL, degrees) ** 2

    def excess(difference: float) -> float:
        # Squared numerator of the score statistic minus its critical value: negative inside the interval.
        b = (2 * n - up + down) * difference - up - down
        c = -down * difference * (1 - difference)
        down_rate = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * max(2 * down_rate + difference * (1 - difference), 0.0)
        return (up - down - n * difference) ** 2 - critical * variance

    # When nothing changed, the observed difference is a root of its own: start just beside it.
    observed, step = (up - down) / n, 1e-9
    low = -1.0 if down == n else brentq(excess, -1.0, observed - step)
    high = 1.0 if up == n else brentq(excess, observed + step, 1.0)
    return float(low), float(high)


def mean_interval(
    values: Sequence[float],
    *,
    resamples: int = 9999,
    clusters: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Return the ends of the interval of a mean: expanded percentile bootstrap, Student's t below 8 values.

    The plain percentile and BCa intervals cover too rarely on few values; the expanded one takes wider
    quantiles of the same resamples. Equal values give an interval without width, which says nothing about
    other values. Clustered values have Student's t with the error and the degrees of freedom of
    `cluster_effect`: resampling a few dozen clusters covers less often.

    Args:
        values: one number per prompt, at least 2.
        resamples: number of bootstrap resamples; the seed is 0.
        clusters: the cluster of every prompt; None when the prompts are independent. See `cluster_codes`.

    Raises:
        CourseError: when there are fewer than two values, or not one cluster for each.

    Source: Hesterberg (2015), The American Statistician 69, 371-386 (arXiv:1411.5279).
    """
    from scipy.stats import bootstrap, norm, t, ttest_1samp

    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        raise CourseError(
            f"An interval of a mean needs at least 2 prompts; found {n}. Compare on more prompts."
        )
    codes = cluster_codes(clusters, n)
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    if codes is not None:
        effect, degrees = cluster_effect(values, codes)
        error = math.sqrt(effect * values.var(ddof=1) / n)
        half = float(t.isf(TAIL, degrees)) * error
        return float(values.mean()) - half, float(values.mean()) + half
    if n < _FEWEST_FOR_BOOTSTRAP:
        interval = ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    else:
        # Resampled means spread too little by sqrt((n - 1) / n), and normal quantiles are shorter than t.
        expanded = 1 - 2 * norm.sf(math.sqrt(n / (n - 1)) * t.isf(TAIL, n - 1))
        interval = bootstrap(
            (values,),
            np.mean,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, VALUES_PER_BATCH // n),
            confidence_level=expanded,
            method="percentile",
            rng=0,
        ).confidence_interval
    return float(interval.low), float(interval.high)


def clusters_of(relations: Iterable[object | None], source: str = "") -> list[tuple[str, ...]]:
    """Return the cluster of every prompt: those of one relation together, any other prompt on its own.

    A model tends to know a relation or not.

    Args:
        relations: of each prompt, None where it is about none.
        source: where the prompts come from, to tell those without a relation from those of another source.
    """
    return [
        ("item", source, str(index)) if relation is None else ("relation", str(relation))
        for index, relation in enumerate(relations)
    ]


def cluster_codes(clusters: Sequence[Hashable] | None, n: int) -> np.ndarray | None:
    """Return the number of each prompt's cluster, 0, 1, ...; None where there is nothing to correct.

    That is so when each prompt is its own cluster, and when all prompts share one: then nothing is known of
    others, and the result is about this cluster.

    Args:
        clusters: the label of every prompt's cluster; None for independent prompts.
        n: number of prompts.

    Raises:
        CourseError: when there is not one label for each prompt.
    """
    if clusters is None:
        return None
    if len(clusters) != n:
        raise CourseError(
            f"Every prompt belongs to one cluster; found {n} prompts and {len(clusters)} clusters. Pass one "
            "label for each prompt, in the same order."
        )
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(label, len(numbers)) for label in clusters])
    return codes if 1 < len(numbers) < n else None


def cluster_effect(values: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Return by how much clusters raise the variance of a mean, and the degrees of freedom that are left.

    The variance is estimated between clusters, with the correction that makes it unbiased for independent
    values (CR2). The degrees of freedom depend on the sizes: 28 clusters of very unequal size leave about 19.

    Args:
        values: one number per prompt, shape [N].
        codes: the cluster of each, from `cluster_codes`, shape [N].

    Returns:
        The design effect, at least 1 (clusters that differ less than independent values would do so by
        chance), and the degrees of freedom of Student's t.

    Source: Bell and McCaffrey (2002), Survey Methodology 28, 169-181, for a mean with independent values as
    working model; Kish (1965), Survey Sampling, for the design effect.
    """
    share = np.bincount(codes) / len(values)
    kept = 1 - share
    # Of the clusters' adjusted sums of residuals when the values are independent, scaled to a trace of 1.
    covariance = (np.diag(share) - np.outer(share, share)) / np.sqrt(np.outer(kept, kept))
    degrees = 1 / (covariance**2).sum()
    between = (np.bincount(codes, values - values.mean()) ** 2 / kept).sum() / len(values)
    variance = values.var(ddof=1)
    return max(1.0, float(between / variance)) if variance else 1.0, float(degrees)


def minimum_detectable_difference(n: int, *, discordant: float = 0.0, sd: float | None = None) -> float:
    """Return the smallest true difference that `n` prompts show with a probability of 80 %.

    Args:
        n: number of prompts, at least `FEWEST_PROMPTS`.
        discordant: for rates: share of the prompts whose success changes at all, in either direction. The
            larger it is, the harder a difference is to see; at 0, the best case, all changes point one way.
        sd: for numeric scores: standard deviation of the differences per prompt; None means rates.

    Returns:
        A share, or a number in the unit of `sd`.

    Source: for rates the power of the exact McNemar test averaged over the number of changed prompts, as in
    Schork and Williams (1980); for scores (t[1 - alpha/2, n-1] + t[power, n-1]) * sd / sqrt(n).
    """
    from scipy.optimize import brentq
    from scipy.stats import binom, t

    assert n >= FEWEST_PROMPTS, f"{n} prompts can show no difference"
    if sd is not None:
        return float((t.isf(TAIL, n - 1) + t.ppf(POWER, n - 1)) * sd / math.sqrt(n))
    changed = np.arange(n + 1)
    critical = binom.isf(TAIL, changed, 0.5)

    def surplus(difference: float) -> float:
        share = max(discordant, difference)
        upward = (share + difference) / (2 * share)
        return float((binom.pmf(changed, n, share) * binom.sf(critical, changed, upward)).sum()) - POWER

    return float(brentq(surplus, 1e-9, 1.0, xtol=1e-6))
