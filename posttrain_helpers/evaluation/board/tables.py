"""The tables of a board as plain values, which notebooks, terminals and the report card show alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain_helpers.evaluation.board.forgetting import DOCUMENTS, Forgetting
from posttrain_helpers.evaluation.board.scores import SuiteScores
from posttrain_helpers.statistics.ranking import score_interval

if TYPE_CHECKING:
    from pandas import DataFrame

BETTER, WORSE = "▲", "▼"
_MARKS = {"improved": BETTER, "worse": WORSE}


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        text: the number, "-" where there is none.
        mark: `BETTER` or `WORSE` than the reference, or nothing where no difference is shown.
        hint: what a pointer resting on the cell shows.
        interval: the mean with both ends of its 95 % interval, None where the table has no interval.
    """

    text: str = "-"
    mark: str = ""
    hint: str = ""
    interval: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Column:
    """The heading of a column, what it stands for, and the measure with the number of items."""

    heading: str
    hint: str = ""
    measure: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a row of cells for each model, the best model first where models are ranked."""

    title: str
    reference: str
    columns: tuple[Column, ...]
    rows: dict[str, tuple[Cell, ...]]


def leaderboard_table(
    title: str,
    labels: Sequence[str],
    suites: Sequence[SuiteScores],
    averages: DataFrame | None,
    forgetting: Forgetting,
) -> Table:
    """Return one column for each suite, after rank and average where models have one.

    Args:
        title: of the table.
        labels: all models; those without an average come last.
        suites: in the order of the columns.
        averages: what `Board.leaderboard` returns, None where no model has an average.
        forgetting: the comparison with the reference, which gives the marks.
    """
    columns = [
        Column(suite.name.replace("_", " "), suite.skill, f"{suite.measure}, n = {suite.n}")
        for suite in suites
    ]
    rows = {label: [_suite_cell(suite, label, forgetting) for suite in suites] for label in labels}
    if averages is not None:
        columns = [Column("rank"), Column("average", "every suite weighs the same"), *columns]
        order = [*averages.index, *(label for label in labels if label not in averages.index)]
        rows = {
            label: [*_average_cells(averages, label, forgetting.against), *rows[label]] for label in order
        }
    return Table(
        title, forgetting.against, tuple(columns), {label: tuple(cells) for label, cells in rows.items()}
    )


def style_table(style: DataFrame, forgetting: Forgetting) -> Table:
    """Return how models write, and how well they still predict the documents of their base.

    Args:
        style: what `Board.style` returns.
        forgetting: the comparison with the reference, which marks the perplexity.
    """
    rows = {
        label: (
            Cell(f"{row['distinct-2']:.2f}"),
            Cell(f"{row['repetition']:.3f}"),
            Cell(f"{row['mean tokens']:.1f}"),
            Cell(f"{100 * row['stop rate']:.0f} %"),
            Cell()
            if math.isnan(row["perplexity"])
            else Cell(f"{row['perplexity']:.2f}", *_comparison(forgetting, label, DOCUMENTS)),
        )
        for label, row in style.iterrows()
    }
    return Table("Style", forgetting.against, tuple(map(Column, style.columns)), rows)


def _suite_cell(suite: SuiteScores, label: str, forgetting: Forgetting) -> Cell:
    if label not in suite.scores:
        return Cell(hint="not measured on the same items")
    values = suite.scores[label]
    mean = float(values.mean())
    interval = _interval(mean, *score_interval(values, suite.yes_no, suite.clusters))
    return Cell(_number(mean, suite.yes_no), *_comparison(forgetting, label, suite.name), interval)


def _average_cells(averages: DataFrame, label: str, reference: str) -> list[Cell]:
    """Return rank and average, marked where the tests behind the ranks tell a model from the reference."""
    if label not in averages.index:
        return [Cell(), Cell()]
    row = averages.loc[label]
    tied = ", ".join(row["tied_with"])
    mark = ""
    if reference in averages.index and reference not in (label, *row["tied_with"]):
        mark = BETTER if row["score"] > averages.loc[reference, "score"] else WORSE
    mean, low, high = (_number(row[name], row["yes_no"]) for name in ("score", "low", "high"))
    return [
        Cell(row["ranks"], hint=f"not told apart from {tied}" if tied else "told apart from all others"),
        Cell(
            f"{mean} ({low} to {high})",
            mark,
            f"of {row['n']} items",
            _interval(row["score"], row["low"], row["high"]),
        ),
    ]


def _comparison(forgetting: Forgetting, label: str, column: str) -> tuple[str, str]:
    """Return mark and hint of one paired comparison with the reference."""
    result = None if label == forgetting.against else forgetting.results[label][column]
    if result is None:
        return "", ""
    scale, digits, unit = (100, ".1f", " points") if result.kind == "binary" else (1, ".3g", "")
    difference, low, high = (
        f"{scale * value:+{digits}}" for value in (result.difference, result.low, result.high)
    )
    return _MARKS.get(forgetting.verdict(label, column), ""), (
        f"{difference}{unit} against {forgetting.against} ({low} to {high}): {result.up} up, "
        f"{result.down} down, {result.same} same"
    )


def _interval(mean: float, low: float, high: float) -> tuple[float, float, float]:
    """Return a mean with its interval, the mean itself where a single item allows none."""
    return (mean, mean, mean) if math.isnan(low) or math.isnan(high) else (mean, low, high)


def _number(value: float, yes_no: bool) -> str:
    return f"{100 * value:.0f}" if yes_no else f"{value:.2f}"
