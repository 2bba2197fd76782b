"""How far two raters agree beyond chance: Cohen's kappa, for judges of replies.

Two judges that both say "first" nine times out of ten agree on most items without looking at them. Kappa
takes that agreement off.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.intervals import TAIL


@dataclass(frozen=True)
class Kappa:
    """The agreement of two raters on the same items.

    Attributes:
        kappa: 1 for perfect agreement, 0 for what chance gives, negative below that.
        low, high: ends of the 95 % interval of kappa.
        agreement: share of the items on which the raters agree.
    """

    kappa: float
    low: float
    high: float
    agreement: float


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable], *, resamples: int = 2000) -> Kappa:
    """Return (agreement - expected agreement) / (1 - expected agreement) of two raters, with its interval.

    A rater that always gives the same label agrees with another as often as chance has it: kappa is 0. When
    both always give the same one, chance agreement is perfect and kappa is undefined.

    The interval is a Bayesian bootstrap over items: a resample gives every item a random weight. One virtual
    item, spread evenly over all combinations of labels, is weighted along with them. Without it, raters that
    agree on all of ten items would have an interval without width, as if ten items proved it of all others.

    Args:
        first: the label of every item by one rater; any hashable values.
        second: those of the other rater, in the same order.
        resamples: number of resamples; the seed is 0.

    Raises:
        CourseError: when the lists are empty or differ in length, or all labels of both raters are the same.

    Source: Cohen (1960), Educational and Psychological Measurement 20, 37-46; Rubin (1981), Annals of
    Statistics 9, 130-134, for the bootstrap; Perks (1947) for the virtual item.
    """
    if len(first) != len(second) or not len(first):
        raise CourseError(
            "Kappa needs one label per item from each rater, in the same order; found "
            f"{len(first)} and {len(second)}. Let both rate the same items."
        )
    labels = {label: place for place, label in enumerate(dict.fromkeys([*first, *second]))}
    if len(labels) == 1:
        raise CourseError(
            "Kappa is undefined when both raters give one label to every item; found only "
            f"{first[0]!r} on {len(first)} items. Report the agreement, 100 %, or add items that differ."
        )
    counts = np.zeros((len(labels), len(labels)))
    np.add.at(counts, ([labels[label] for label in first], [labels[label] for label in second]), 1)
    kappa, agreement = (float(value) for value in _kappa(counts))
    # Exponential weights of the items of a cell add up to a gamma variable.
    weights = np.random.default_rng(0).standard_gamma(
        counts + 1 / counts.size, size=(resamples, *counts.shape)
    )
    low, high = np.quantile(_kappa(weights)[0], (TAIL, 1 - TAIL))
    # A perfect kappa is the end of its scale: no resample reaches it.
    return Kappa(kappa, min(float(low), kappa), max(float(high), kappa), agreement)


def _kappa(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return kappa and agreement of tables of shape [..., labels, labels]."""
    shares = tables / tables.sum((-2, -1), keepdims=True)
    agreement = np.trace(shares, axis1=-2, axis2=-1)
    expected = (shares.sum(-1) * shares.sum(-2)).sum(-1)
    return (agreement - expected) / (1 - expected), agreement
