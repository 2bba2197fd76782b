"""What training gained and what it cost: every model against one of them, skill by skill."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from posttrain_helpers.statistics import paired_tests
from posttrain_helpers.statistics.claims import holm
from posttrain_helpers.statistics.intervals import cluster_codes
from posttrain_helpers.statistics.paired_tests import PairedResult, Verdict, paired_differences, paired_scores
from posttrain_helpers.statistics.ranking import ENOUGH_FOR_T, numeric_p

if TYPE_CHECKING:
    from pandas import DataFrame

# The column of the documents that are read, not answered; its numbers are losses, so lower is better.
DOCUMENTS = "base documents"
# Without a t-test the smallest p must be able to pass Holm's correction, so there are many resamples.
_RESAMPLES, _MANY_RESAMPLES = 2000, 50_000


@dataclass(frozen=True)
class Forgetting:
    """What every model gained and forgot: paired differences, a row per model, a column per skill.

    Attributes:
        against: the model that the others are compared with.
        columns: the suites, and `DOCUMENTS` where texts were read.
        results: for each model and column the paired result, None where the two were not measured alike.
    """

    against: str
    columns: tuple[str, ...]
    results: Mapping[str, Mapping[str, PairedResult | None]]

    @property
    def labels(self) -> tuple[str, ...]:
        """The rows: the models that are compared."""
        return tuple(self.results)

    @cached_property
    def adjusted(self) -> dict[tuple[str, str], float]:
        """The p-values after Holm's correction, so that a false mark anywhere is as rare as in one test."""
        p_values = {
            (label, name): result.p
            for label, row in self.results.items()
            for name, result in row.items()
            if result is not None
        }
        return dict(zip(p_values, holm(list(p_values.values())), strict=True))

    def verdict(self, label: str, column: str) -> Verdict | None:
        """Return "improved", "worse" or "no_difference_shown"; None where there is no result."""
        result = self.results[label][column]
        if result is None:
            return None
        # An adjusted p is never the smaller one, so the interval alone cannot make a verdict.
        return paired_tests.verdict(replace(result, p=self.adjusted[label, column]))

    def matrix(self) -> DataFrame:
        """Return the difference of every result; NaN where there is no result."""
        import pandas

        rows = {
            label: {name: getattr(row[name], "difference", None) for name in self.columns}
            for label, row in self.results.items()
        }
        frame = pandas.DataFrame.from_dict(rows, orient="index", columns=list(self.columns))
        return frame.astype(float)

    @cached_property
    def shares(self) -> set[str]:
        """The columns of yes/no scores, whose differences are shares of the items."""
        return {
            name
            for name in self.columns
            if name != DOCUMENTS
            and all(row[name] is None or row[name].kind == "binary" for row in self.results.values())
        }

    def shades(self) -> DataFrame:
        """Return how good or bad each difference is beside the others, from -1 (worse) to 1 (better).

        Yes/no suites share one scale, every other column has its own; NaN where there is no result.
        """
        differences = self.matrix()
        signs = {name: -1 if name == DOCUMENTS else 1 for name in self.columns}
        largest = differences.abs().max()
        largest[list(self.shares)] = largest[list(self.shares)].max()
        return differences * signs / largest.where(largest > 0, 1.0)


def compare(
    before: Sequence[float],
    after: Sequence[float],
    *,
    higher_is_better: bool = True,
    clusters: Sequence[Hashable] | None = None,
) -> PairedResult | None:
    """Compare two models item by item, with a p-value that a correction for many tests leaves some power.

    The result is that of `statistics.paired`, but from 30 items on its p is the t-test's, from
    `ranking.numeric_p`: the smallest p of R resamples is 2 / (R + 1), which Holm's correction over a hundred
    cells would never accept.

    Args:
        before: one score per item of the first model.
        after: one score per item of the second model.
        higher_is_better: False for losses.
        clusters: the cluster of every item, as in `statistics.paired`.

    Returns:
        The result; None for a single item that is not yes or no, which allows no comparison.
    """
    options = {"higher_is_better": higher_is_better, "clusters": clusters}
    if {*map(float, before), *map(float, after)} <= {0.0, 1.0}:
        return paired_tests.paired_binary(before, after, **options)
    if len(before) < 2:
        return None
    if len(before) < ENOUGH_FOR_T:
        return paired_tests.paired_numeric(before, after, resamples=_MANY_RESAMPLES, **options)
    result = paired_tests.paired_numeric(before, after, resamples=_RESAMPLES, **options)
    differences = paired_differences(*paired_scores(before, after))
    p = numeric_p(differences, cluster_codes(clusters, len(differences)))
    return replace(result, p=p, p_at_floor=False)
