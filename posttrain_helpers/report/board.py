"""The evaluation sections of the report card: the board's tables as plain values that a template can show.

Everything comes from a `Board`, hence from the evaluation records on disk; nothing here loads a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain_helpers.evaluation.records import KINDS, evaluation_directory
from posttrain_helpers.manifest import BASE
from posttrain_helpers.report.claims import Axis
from posttrain_helpers.report.formats import number
from posttrain_helpers.report.frontier import Mark, frontier_chart

if TYPE_CHECKING:
    from pandas import DataFrame

    from posttrain_helpers.evaluation.board import Board
    from posttrain_helpers.evaluation.records import SuiteRecord
    from posttrain_helpers.evaluation.retention import Retention
    from posttrain_helpers.statistics import PairedResult

_PROMPTS_PER_SUITE = 3
_SHOWN_FIRST = 4
_LONGEST_REPLY = 800  # characters
_CHARTS = {"wide": (1040, 520, 13), "narrow": (340, 440, 12)}  # width, height and font size in CSS pixels
_DEEPEST_TINT = 62  # percent; text on it keeps a contrast of 4.5 in both themes


@dataclass(frozen=True)
class Cell:
    """One model's mean with its interval, and how it compares with the reference.

    Attributes:
        mean, low, high: the mean and its 95 % interval.
        standing: "better", "worse", or "" where no difference from the reference is shown.
    """

    mean: float
    low: float
    high: float
    standing: str = ""


@dataclass(frozen=True)
class Column:
    """One suite of a leaderboard, with the scale of its column."""

    name: str
    skill: str
    measure: str
    items: int
    averaged: bool
    axis: Axis


@dataclass(frozen=True)
class Row:
    """One model of a leaderboard; the cells follow the columns, None where it was not measured alike."""

    label: str
    ranks: str
    average: Cell | None
    tied_with: tuple[str, ...]
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Leaderboard:
    """The models of one kind of suite, the best first; models without a rank come last."""

    kind: str
    columns: tuple[Column, ...]
    axis: Axis
    rows: tuple[Row, ...]

    @property
    def average(self) -> bool:
        """Whether the average is worth a column of its own: it is not where it repeats a single suite."""
        return sum(column.averaged for column in self.columns) > 1


def read_board(profile: str) -> Board | None:
    """Return the board of a profile, or None when no model has been evaluated.

    Args:
        profile: a profile's name.

    Raises:
        CourseError: when an evaluation record breaks its contract; the sentence names the file.
    """
    if not any(evaluation_directory(profile).glob("*.json")):
        return None
    from posttrain_helpers.evaluation.board import Board

    return Board.read(profile)


def board_view(board: Board) -> dict[str, Any]:
    """Return everything that the evaluation sections of the page show.

    Args:
        board: the evaluated models.

    Returns:
        `models` (their number), `reference`, `notes`, `leaderboards`, `style`, `frontier`, `retention` and
        `samples`; a section that the records do not hold is None or empty.
    """
    tables = [table for kind in KINDS if (table := leaderboard(board, kind)) is not None]
    return {
        "models": len(board.records),
        "reference": board.reference,
        "notes": list(board.notes),
        "leaderboards": tables,
        "style": _style_rows(board),
        "frontier": frontier_view(board),
        "retention": retention_view(board),
        "samples": samples_view(board, first_shown(board, tables)),
        "sources": _sources(board),
        "written": max(record.written for record in board.records.values()),
    }


def leaderboard(board: Board, kind: str) -> Leaderboard | None:
    """Return the models by rank with one column for each suite, None where there is no suite of that kind.

    Args:
        board: the evaluated models.
        kind: "correctness" or "preference".
    """
    suites = [suite for suite in board.suites.values() if suite.kind == kind]
    if not suites:
        return None
    averaged = board.averaged(kind)
    ranked = board.leaderboard(kind) if board.ranked(kind) else None
    order = [] if ranked is None else list(ranked.index)
    order += [label for label in board.labels if label not in order]
    against_reference = board.retention()
    columns, by_suite = [], []
    for suite in sorted(suites, key=lambda suite: suite.name not in averaged):
        cells = _suite_cells(board, suite.name, against_reference)
        axis = _scale(suite.measure, list(cells.values()), suite.yes_no)
        columns.append(Column(suite.name, suite.skill, suite.measure, suite.n, suite.name in averaged, axis))
        by_suite.append(cells)
    averages = {} if ranked is None else _averages(ranked, board.reference)
    return Leaderboard(
        kind=kind,
        columns=tuple(columns),
        axis=_scale(kind, list(averages.values()), all(board.suites[name].yes_no for name in averaged)),
        rows=tuple(
            Row(
                label=label,
                ranks=str(ranked.loc[label, "ranks"]).replace("-", "–") if label in averages else "",
                average=averages.get(label),
                tied_with=tuple(ranked.loc[label, "tied_with"]) if label in averages else (),
                cells=tuple(cells.get(label) for cells in by_suite),
            )
            for label in order
        ),
    )


def frontier_view(board: Board) -> dict[str, Any] | None:
    """Return the reward-KL chart for wide and for narrow screens and the same numbers as rows.

    The base model is not drawn beside others: it lies far away and would squeeze them together.

    Args:
        board: the evaluated models.

    Returns:
        `charts` by size, `drawn` (the marks in them) and `rows` (all marks), least divergence first, `apart`
        (the mark of the base where it is not drawn, else None), `suite`, `measure` and `reference`; None
        where no record holds a divergence.
    """
    found = [record.divergence for record in board.records.values() if record.divergence]
    if not found:
        return None
    marks = []
    for label, row in board.frontier().iterrows():
        kl_low, kl_high = _interval(row["kl"], row["kl_low"], row["kl_high"])
        gold_low, gold_high = _interval(row["gold"], row["gold_low"], row["gold_high"])
        marks.append(Mark(str(label), row["kl"], max(0.0, kl_low), kl_high, row["gold"], gold_low, gold_high))
    marks.sort(key=lambda mark: mark.kl)
    reference = found[0]["reference"]
    drawn = [mark for mark in marks if mark.label != BASE or reference == BASE] or marks
    return {
        "charts": {name: frontier_chart(drawn, *size) for name, size in _CHARTS.items()},
        "drawn": drawn,
        "rows": marks,
        "apart": next((mark for mark in marks if mark not in drawn), None),
        "suite": found[0]["suite"],
        "measure": found[0]["measure"],
        "reference": reference,
    }


def retention_view(board: Board) -> dict[str, Any] | None:
    """Return the matrix of differences from the reference, each with the strength of its colour.

    Args:
        board: the evaluated models.

    Returns:
        `against`, `columns` and `rows` of (label, cells), None where there is nothing to compare. A cell has
        the paired `result`, its `verdict`, `good` (whether the model moved to the better side) and `tint` in
        percent: the root of the difference as a share of the largest one. Yes/no suites share one scale,
        others have their own.
    """
    from posttrain_helpers.evaluation.retention import DOCUMENTS

    if len(board.records) < 2:
        return None
    found = board.retention()
    shares = {name for name in found.columns if name in board.suites and board.suites[name].yes_no}
    largest: dict[str, float] = {}
    for row in found.results.values():
        for name, result in row.items():
            if result is not None:
                scale = "shares" if name in shares else name
                largest[scale] = max(largest.get(scale, 0.0), abs(result.difference))

    def cell(label: str, name: str) -> dict[str, Any] | None:
        result: PairedResult | None = found.results[label][name]
        if result is None:
            return None
        share = abs(result.difference) / (largest["shares" if name in shares else name] or 1.0)
        return {
            "result": result,
            "verdict": found.verdict(label, name),
            "good": (result.difference > 0) == result.higher_is_better,
            "tint": round(_DEEPEST_TINT * math.sqrt(share)) if result.difference else 0,
        }

    return {
        "against": found.against,
        "columns": [{"name": name, "documents": name == DOCUMENTS} for name in found.columns],
        "rows": [(label, [cell(label, name) for name in found.columns]) for label in found.labels],
    }


def first_shown(board: Board, tables: Sequence[Leaderboard]) -> list[str]:
    """Return all models, those first whose replies a reader wants to see: base, reference, and the winners.

    Args:
        board: the evaluated models.
        tables: the leaderboards; their best models take turns.
    """
    leaders = [row.label for place in range(len(board.records)) for table in tables
               for row in table.rows[place : place + 1]]  # fmt: skip
    return list(dict.fromkeys([*board.labels[:1], board.reference, *leaders, *board.labels]))


def samples_view(board: Board, order: Sequence[str]) -> list[dict[str, Any]]:
    """Return the replies to a few prompts of every suite.

    Args:
        board: the evaluated models.
        order: the models, those whose replies are shown first at the beginning.

    Returns:
        For each suite its `name`, `skill`, `measure` and `prompts`, each of these with the `prompt`, the
        `opening` of a conversation of several turns, and the replies in two lists, `first` and `more`.
    """
    view = []
    for suite in board.suites.values():
        frame = board.samples(suite.name, _PROMPTS_PER_SUITE)
        prompts = []
        for row, prompt in enumerate(frame.index):
            replies = [_reply(board, suite.name, label, str(prompt), str(frame[label].iloc[row]))
                       for label in order if label in frame.columns]  # fmt: skip
            prompts.append(
                {
                    "prompt": prompt,
                    "opening": next((reply["opening"] for reply in replies if reply["opening"]), ""),
                    "first": replies[:_SHOWN_FIRST],
                    "more": replies[_SHOWN_FIRST:],
                }
            )
        view.append({"name": suite.name, "skill": suite.skill, "measure": suite.measure, "prompts": prompts})
    return view


def _reply(board: Board, suite: str, label: str, prompt: str, text: str) -> dict[str, Any]:
    """Return one reply with its score: "yes", "no", a number as text, or "" without one."""
    record: SuiteRecord = board.records[label].suites[suite]
    # Items with the same prompt and the same reply have the same score, so any of them will do.
    item = next(i for i, pair in enumerate(zip(record.prompts, record.replies, strict=True))
                if pair == (prompt, text))  # fmt: skip
    value = record.headline[item]
    score = "" if value is None else number(float(value))
    if value is not None and board.suites[suite].yes_no:
        score = "yes" if value else "no"
    turns = [] if record.transcripts is None else record.transcripts[item]
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    return {
        "label": label,
        "text": text if len(text) <= _LONGEST_REPLY else text[:_LONGEST_REPLY] + " …",
        "score": score,
        "opening": asked[0] if len(asked) > 1 else "",
    }


def _sources(board: Board) -> list[tuple[str, dict[str, Any]]]:
    """Return who was evaluated with which device and versions, as one where all are alike."""
    found = [(label, {"device": r.device, **r.versions}) for label, r in board.records.items()]
    if all(settings == found[0][1] for _, settings in found):
        return [("evaluation", found[0][1])]
    return [(f"evaluation of {label}", settings) for label, settings in found]


def _style_rows(board: Board) -> list[tuple[str, dict[str, str]]]:
    """Return how each model writes, as text by measure; a measure that nobody has is left out."""
    frame = board.style().dropna(axis="columns", how="all")
    return [
        (str(label), {name: "" if math.isnan(value) else number(value) for name, value in row.items()})
        for label, row in frame.iterrows()
    ]


def _suite_cells(board: Board, name: str, against_reference: Retention) -> dict[str, Cell]:
    """Return each model's cell in a suite's column, with the verdict that the retention matrix has, too."""
    cells = {}
    for label, row in board.rates(name).iterrows():
        verdict = None if label == board.reference else against_reference.verdict(label, name)
        standing = {"improved": "better", "worse": "worse"}.get(verdict, "")
        cells[str(label)] = Cell(row["mean"], *_interval(row["mean"], row["low"], row["high"]), standing)
    return cells


def _averages(ranked: DataFrame, reference: str) -> dict[str, Cell]:
    """Return the averages of a leaderboard; what is not tied with the reference is better or worse."""
    cells = {}
    for label, row in ranked.iterrows():
        standing = ""
        if reference in ranked.index and label != reference and reference not in row["tied_with"]:
            standing = "better" if row["score"] > ranked.loc[reference, "score"] else "worse"
        cells[str(label)] = Cell(row["score"], *_interval(row["score"], row["low"], row["high"]), standing)
    return cells


def _interval(mean: float, low: float, high: float) -> tuple[float, float]:
    """Return an interval, the mean itself where a single item allows none."""
    return (float(mean), float(mean)) if math.isnan(low) or math.isnan(high) else (float(low), float(high))


def _scale(measure: str, cells: list[Cell], yes_no: bool) -> Axis:
    """Return the scale of a column: 0 to 1 for shares, else a round one around all intervals."""
    if yes_no or not cells:
        return Axis(measure, (0.0, 1.0))
    return Axis.around(measure, [end for cell in cells for end in (cell.low, cell.high)])
