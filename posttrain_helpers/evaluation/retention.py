"""What training gained and what it cost: every model against one of them, skill by skill."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from posttrain_helpers import statistics
from posttrain_helpers.evaluation.ranking import ENOUGH_FOR_T, adjust_p_values, pairwise_tests
from posttrain_helpers.statistics import PairedResult, Verdict

if TYPE_CHECKING:
    from pandas import DataFrame

# The column of the documents that are read, not answered; its numbers are losses, so lower is better.
DOCUMENTS = "base documents"
# Without a t-test the smallest p must be able to pass Holm's correction, so there are many resamples.
_RESAMPLES, _MANY_RESAMPLES = 2000, 50_000


@dataclass(frozen=True)
class Retention:
    """A matrix of paired differences: a row per model, a column per skill.

    Attributes:
        against: the model that the others are compared with.
        labels: the rows.
        columns: the suites, and `DOCUMENTS` where texts were read.
        results: for each model and column the paired result, None where the two were not measured alike.
        adjusted: the p-values after Holm's correction over the whole matrix; without one they are raw.
    """

    against: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    results: Mapping[str, Mapping[str, PairedResult | None]]
    adjusted: Mapping[tuple[str, str], float]

    @classmethod
    def of(
        cls,
        against: str,
        labels: Sequence[str],
        columns: Sequence[str],
        results: Mapping[str, Mapping[str, PairedResult | None]],
        adjust: str | None = "holm",
    ) -> Retention:
        """Return the matrix of the results.

        Args:
            against: the model that the others are compared with.
            labels: the rows.
            columns: the columns.
            results: for each of them the result or None.
            adjust: "holm" keeps the chance of one false mark anywhere in the matrix below the level of the
                results; None tests every cell on its own, so that about one in twenty is marked by chance.

        Raises:
            CourseError: another correction.
        """
        cells = [(row, name) for row in labels for name in columns if results[row][name] is not None]
        adjusted = adjust_p_values([results[row][name].p for row, name in cells], adjust)
        return cls(
            against,
            tuple(labels),
            tuple(columns),
            results,
            dict(zip(cells, map(float, adjusted), strict=True)),
        )

    def verdict(self, label: str, column: str) -> Verdict | None:
        """Return "improved", "worse" or "no_difference_shown"; None where there is no result."""
        result = self.results[label][column]
        if result is None:
            return None
        # An adjusted p is never the smaller one, so the interval alone cannot make a verdict.
        return statistics.verdict(replace(result, p=self.adjusted[label, column]))

    def matrix(self, field: str = "difference") -> DataFrame:
        """Return one field of every result, such as "difference", "low" or "p"; "verdict" works as well.

        Args:
            field: an attribute of `PairedResult`, or "verdict".
        """
        import pandas

        def cell(label: str, column: str) -> object:
            if field == "verdict":
                return self.verdict(label, column)
            result = self.results[label][column]
            return None if result is None else getattr(result, field)

        rows = [[cell(label, column) for column in self.columns] for label in self.labels]
        frame = pandas.DataFrame(rows, index=list(self.labels), columns=list(self.columns))
        return frame if field in ("verdict", "kind") else frame.astype(float)

    def frame(self) -> DataFrame:
        """Return one row per model and column, with the numbers of both, the adjusted p and the verdict."""
        import pandas

        fields = ("n", "before", "after", "difference", "low", "high", "p")
        rows = [
            {
                "label": label,
                "suite": column,
                **{name: getattr(self.results[label][column], name) for name in fields},
                "p_adjusted": p,
                "verdict": self.verdict(label, column),
            }
            for (label, column), p in self.adjusted.items()
        ]
        return pandas.DataFrame(rows, columns=["label", "suite", *fields, "p_adjusted", "verdict"])


def compare(
    before: Sequence[float],
    after: Sequence[float],
    *,
    higher_is_better: bool = True,
    clusters: Sequence[Hashable] | None = None,
) -> PairedResult | None:
    """Compare two models item by item, with a p-value that a correction for many tests leaves some power.

    The result is that of `statistics.paired`, but its p is that of `ranking.pairwise_tests`: the t-test's
    from 30 items on: the smallest p of R resamples is 2 / (R + 1), which Holm's correction over a hundred
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
        return statistics.paired_binary(before, after, **options)
    if len(before) < 2:
        return None
    if len(before) < ENOUGH_FOR_T:
        return statistics.paired_numeric(before, after, resamples=_MANY_RESAMPLES, **options)
    result = statistics.paired_numeric(before, after, resamples=_RESAMPLES, **options)
    scores = {"before": before, "after": after}
    p = float(pairwise_tests(scores, adjust=None, clusters=clusters)["p"].iloc[0])
    return replace(result, p=p, p_at_floor=False)
