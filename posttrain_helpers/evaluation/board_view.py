"""How a board looks: two tables as HTML for notebooks, and as plain text for terminals.

The first table ranks the models by correctness; the second has what is no question of right or wrong: gold
scores, style, the loss on base documents. As in `comparison_view`, styles are inline and colours are
transparent tints of the page's own, so that the HTML reads well in light and dark themes; all text of models
and data is escaped.
"""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from posttrain_helpers.comparison_view import visible
from posttrain_helpers.evaluation.records import KINDS
from posttrain_helpers.evaluation.retention import DOCUMENTS, Retention
from posttrain_helpers.statistics import PairedResult
from posttrain_helpers.wording import counted

if TYPE_CHECKING:
    from pandas import DataFrame

    from posttrain_helpers.evaluation.board import Board

BETTER, WORSE = "▲", "▼"
_ASCII = {BETTER: "+", WORSE: "!"}
_ABSENT = "-"
_TINTS = {BETTER: "rgba(46,160,67,.22)", WORSE: "rgba(248,81,73,.22)"}
_LINE = "1px solid rgba(128,128,128,.4)"
_FAINT = "opacity:.75;font-size:.85em"
_CELL = (
    "text-align:right;vertical-align:baseline;white-space:nowrap;max-width:none;border:0;"
    f"border-bottom:{_LINE};padding:.25em .7em;font-variant-numeric:tabular-nums;"
)
_TITLES = {
    "correctness": "Correctness",
    "preference": "Preference and style",
}


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a mark (`BETTER`, `WORSE` or nothing) and what a pointer resting on it shows."""

    text: str
    mark: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """A table of cells; the first column names the model, and `hints` tell what a heading stands for."""

    title: str
    headings: tuple[str, ...]
    hints: Mapping[str, str]
    rows: tuple[tuple[Cell, ...], ...]


def tables(board: Board) -> list[Table]:
    """Return the tables of a board: correctness, then preference and style.

    Args:
        board: what to show.
    """
    retention = board.retention()
    found = []
    for kind in KINDS:
        suites = [suite.name for suite in board.suites.values() if suite.kind == kind]
        suites.sort(key=lambda name: name in board.leave_out)
        ranks = board.leaderboard(kind) if board.ranked(kind) else None
        if kind == "correctness" and not suites:
            continue
        headings = ["model", *(["rank", "average"] if ranks is not None else []), *map(_heading, suites)]
        labels = board.labels if ranks is None else [*ranks.index]
        labels += [label for label in board.labels if label not in labels]
        style = board.style() if kind == "preference" and _has_style(board) else None
        if style is not None:
            headings += ["distinct-2", "repetition", "mean tokens", "stop rate", "perplexity"]
        if kind == "preference" and len(headings) == 1:
            continue
        rows = [
            (
                Cell(label + (" (reference)" if label == board.reference else "")),
                *(_rank_cells(board, kind, ranks, label) if ranks is not None else []),
                *(_suite_cell(board, retention, name, label) for name in suites),
                *(_style_cells(board, retention, style, label) if style is not None else []),
            )
            for label in labels
        ]
        hints = {_heading(name): board.suites[name].skill for name in suites}
        found.append(Table(_TITLES[kind], tuple(headings), hints, tuple(rows)))
    return found


def explanation(board: Board) -> str:
    """Return how to read the numbers and the marks."""
    tests = board.retention().adjusted
    return (
        "Suites with yes/no scores are in %, others are mean scores; an average is the mean of its suites, "
        "with its 95 % interval. Rank: a range such as 2-4 holds the places that no test excludes. "
        f"{BETTER} better, {WORSE} worse than {board.reference} on the same items, at the 5 % level after "
        f"Holm's correction for {counted(len(tests), 'comparison')}; without a mark no difference is shown. "
        "Perplexity: on base documents; lower is better."
    )


def to_text(board: Board, width: int | None = None, ascii_only: bool | None = None) -> str:
    """Return the board as plain text; a table that is too wide goes on below itself.

    Args:
        board: what to show.
        width: columns of the text; None is the width of the terminal.
        ascii_only: marks "+" and "!" instead of triangles; None asks whether the output can show triangles.
    """
    width = max(40, width or shutil.get_terminal_size((100, 24)).columns)
    ascii_only = not _can_print(BETTER + WORSE) if ascii_only is None else ascii_only
    parts = [textwrap.fill(_title(board), width)]
    for table in tables(board):
        parts += ["", textwrap.fill(table.title, width), *_blocks(table, width)]
    notes = [explanation(board), *board.notes]
    parts += ["", *(textwrap.fill(_visible(note), width) for note in notes)]
    text = "\n".join(parts)
    for mark, plain in _ASCII.items() if ascii_only else ():
        text = text.replace(mark, plain)
    return text


def to_html(board: Board) -> str:
    """Return the board as one self-contained HTML fragment."""
    notes = "".join(f"<div>{_text(note)}</div>" for note in [explanation(board), *board.notes])
    return (
        '<div style="max-width:90em;line-height:1.45">'
        f'<div style="font-size:1.15em;font-weight:600">{_text(_title(board))}</div>'
        + "".join(map(_table_html, tables(board)))
        + f'<div style="{_FAINT};max-width:60em">{notes}</div></div>'
    )


def _title(board: Board) -> str:
    return (
        f"{counted(len(board.labels), 'model')} on {counted(len(board.suites), 'suite')} of the profile "
        f"{board.profile}, split {board.split}, compared with {board.reference}"
    )


def _has_style(board: Board) -> bool:
    return any(2 * len(suite.scores) > len(board.records) for suite in board.suites.values())


def _rank_cells(board: Board, kind: str, ranks: DataFrame, label: str) -> list[Cell]:
    if label not in ranks.index:
        return [Cell(_ABSENT), Cell(_ABSENT)]
    row = ranks.loc[label]
    yes_no = all(board.suites[name].yes_no for name in board.averaged(kind))
    mean, low, high = (_number(row[key], yes_no) for key in ("score", "low", "high"))
    tied = ", ".join(row["tied_with"])
    return [
        Cell(row["ranks"], hint=f"not told apart from {tied}" if tied else "told apart from all others"),
        Cell(f"{mean} ({low} to {high})", hint=f"mean of {', '.join(board.averaged(kind))}"),
    ]


def _suite_cell(board: Board, retention: Retention, name: str, label: str) -> Cell:
    suite = board.suites[name]
    if label not in suite.scores:
        return Cell(_ABSENT, hint="not measured on the same items")
    text = _number(float(suite.scores[label].mean()), suite.yes_no)
    return Cell(text, *_mark(retention, label, name))


def _style_cells(board: Board, retention: Retention, style: DataFrame, label: str) -> list[Cell]:
    if label not in style.index:
        return [Cell(_ABSENT)] * 5
    row = style.loc[label]
    perplexity = row["perplexity"]
    measured = not math.isnan(perplexity)
    return [
        Cell(f"{row['distinct-2']:.2f}"),
        Cell(f"{row['repetition']:.3f}"),
        Cell(f"{row['mean tokens']:.1f}"),
        Cell(f"{100 * row['stop rate']:.0f} %"),
        Cell(f"{perplexity:.2f}", *_mark(retention, label, DOCUMENTS)) if measured else Cell(_ABSENT),
    ]


def _mark(retention: Retention, label: str, column: str) -> tuple[str, str]:
    if label == retention.against or retention.results[label].get(column) is None:
        return "", ""
    result = retention.results[label][column]
    mark = {"improved": BETTER, "worse": WORSE}.get(retention.verdict(label, column), "")
    return mark, _hint(result, retention.against)


def _hint(result: PairedResult, against: str) -> str:
    yes_no = result.kind == "binary"
    scale, digits, unit = (100, ".1f", " points") if yes_no else (1, ".3g", "")
    difference, low, high = (
        f"{scale * value:+{digits}}" for value in (result.difference, result.low, result.high)
    )
    return (
        f"{difference}{unit} against {against} ({low} to {high}): {result.up} up, {result.down} down, "
        f"{result.same} same"
    )


def _number(value: float, yes_no: bool) -> str:
    return f"{100 * value:.0f}" if yes_no else f"{value:.2f}"


def _heading(name: str) -> str:
    return name.replace("_", " ")


def _visible(text: str) -> str:
    return visible(text, keep="")


def _text(text: str) -> str:
    return escape(_visible(text))


def _can_print(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _blocks(table: Table, width: int) -> list[str]:
    """Lay out a table in as many blocks as its width needs; the model's name leads each of them."""
    texts = [[_visible(cell.text) + (cell.mark or " ") for cell in row] for row in table.rows]
    headings = [[f"{part} " for part in _two_lines(_visible(heading))] for heading in table.headings]
    widths = [max(map(len, (*headings[i], *(row[i] for row in texts)))) for i in range(len(table.headings))]
    blocks: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        taken = widths[0] + sum(widths[i] + 1 for i in blocks[-1])
        if blocks[-1] and taken + widths[column] + 1 > width:
            blocks.append([])
        blocks[-1].append(column)

    def line(cells: Sequence[str], columns: Sequence[int]) -> str:
        return " ".join([cells[0].ljust(widths[0]), *(cells[i].rjust(widths[i]) for i in columns)]).rstrip()

    lines = []
    for number, columns in enumerate(blocks):
        head = [line([heading[part] for heading in headings], columns) for part in (0, 1)]
        lines += [""] * (number > 0) + [text for text in head if text.strip()]
        lines += ["-" * max(map(len, head)), *(line(row, columns) for row in texts)]
    return lines


def _two_lines(heading: str) -> tuple[str, str]:
    """Split a heading of several words, the shorter part last; one word stands on the second line."""
    words = heading.split()
    return (" ".join(words[:-1]), words[-1]) if len(words) > 1 else ("", heading)


def _table_html(table: Table) -> str:
    marked = [any(row[column].mark for row in table.rows) for column in range(len(table.headings))]
    header = ""
    for column, heading in enumerate(table.headings):
        hint = f' title="{_text(table.hints[heading])}"' if heading in table.hints else ""
        style = f"{_CELL}vertical-align:bottom;font-weight:600"
        style += ";white-space:normal" if " " in heading else ""  # else "distinct-2" may break, too
        style += "" if column else ";text-align:left"
        header += f'<th{hint} style="{style}">{_text(heading)}</th>'
    rows = "".join(
        '<tr style="background:transparent">'
        + "".join(_cell_html(cell, not column, marked[column]) for column, cell in enumerate(row))
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div style="margin-top:.8em;font-weight:600">{_text(table.title)}</div>'
        '<div style="overflow-x:auto"><table style="margin:.3em 0 .8em;border:0;border-collapse:collapse">'
        f'<thead><tr style="background:transparent">{header}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _cell_html(cell: Cell, first: bool, marked: bool) -> str:
    hint = f' title="{_text(cell.hint)}"' if cell.hint else ""
    if first:
        return f'<th scope="row" style="{_CELL}text-align:left;font-weight:600">{_text(cell.text)}</th>'
    tint = _TINTS.get(cell.mark, "transparent")
    # In a column with marks their place is kept everywhere, so that the numbers stand below each other.
    mark = f'<span style="display:inline-block;width:1em;text-align:right">{cell.mark}</span>' * marked
    return f'<td{hint} style="{_CELL}background:{tint}">{_text(cell.text)}{mark}</td>'
