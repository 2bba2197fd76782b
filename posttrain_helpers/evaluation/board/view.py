"""How a board looks: its tables as HTML for notebooks, and as plain text for terminals.

The HTML carries its styles inline and takes its colours from the page (transparent tints, no fixed text or
background colour), so that it reads well in light and dark themes; all text of models and data is escaped.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain_helpers.environment.rendering import html_environment, visible
from posttrain_helpers.evaluation.board.tables import BETTER, WORSE, Table

if TYPE_CHECKING:
    from posttrain_helpers.evaluation.board.board import Board


def to_html(board: Board) -> str:
    """Return the tables of a board as one self-contained HTML fragment."""
    template = html_environment(Path(__file__).parent).get_template("board.html")
    return template.render(title=board.title(), tables=board.tables(), notes=board.explanations())


def to_text(board: Board, width: int | None = None) -> str:
    """Return the tables of a board as plain text; a table that is too wide goes on below itself.

    Args:
        board: what to show.
        width: columns of the text; None is the width of the terminal.
    """
    width = max(40, width or shutil.get_terminal_size((100, 24)).columns)
    parts = [textwrap.fill(visible(board.title(), keep=""), width)]
    for table in board.tables():
        parts += ["", table.title, _table_text(table, width)]
    parts += ["", *(textwrap.fill(visible(note, keep=""), width) for note in board.explanations())]
    text = "\n".join(parts)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # a console without triangles
        return text.replace(BETTER, "+").replace(WORSE, "!")
    return text


def _table_text(table: Table, width: int) -> str:
    import pandas

    frame = pandas.DataFrame(
        [[cell.text + (cell.mark or " ") for cell in cells] for cells in table.rows.values()],
        index=[
            visible(label, keep="") + (" (reference)" if label == table.reference else "")
            for label in table.rows
        ],
        columns=[visible(column.heading, keep="") + " " for column in table.columns],
    )
    return frame.to_string(line_width=width)
