"""The evaluation sections of the report card: what a board shows, as plain values for the template.

Everything comes from a `Board`, hence from the evaluation records on disk; nothing here loads a model.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from posttrain_helpers.models.manifest import BASE
from posttrain_helpers.report.claims import Axis
from posttrain_helpers.report.formats import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from posttrain_helpers.evaluation.board.board import Board
    from posttrain_helpers.evaluation.board.forgetting import Forgetting
    from posttrain_helpers.evaluation.board.tables import Table

_PROMPTS_PER_SUITE = 3
_SHOWN_FIRST = 4
_LONGEST_REPLY = 800  # characters
_DEEPEST_TINT = 62  # percent; text on it keeps a contrast of 4.5 in both themes


def board_view(board: Board) -> dict[str, Any]:
    """Return everything that the evaluation sections of the page show, but the chart of the frontier.

    Args:
        board: the evaluated models.

    Returns:
        `models` (their number), `notes`, `suites`, `tables` with the scales of their columns, `frontier` (a
        row for each model, the least divergence first, None where no record holds one), `forgetting` with
        the `tints` of its cells (None for a single model), and `samples`.
    """
    tables = board.tables()
    measured = any(record.divergence for record in board.records.values())
    forgetting = board.retention()
    return {
        "models": len(board.records),
        "reference": board.reference,
        "notes": board.notes,
        "suites": list(board.suites.values()),
        "tables": [(table, column_axes(table)) for table in tables],
        "frontier": board.frontier().sort_values("kl").to_dict("index") if measured else None,
        "forgetting": forgetting if forgetting.labels else None,
        "tints": tints(forgetting),
        "samples": samples_view(board, first_shown(board, tables)),
        "sources": _sources(board),
        "written": max(record.written for record in board.records.values()),
    }


def column_axes(table: Table) -> list[Axis | None]:
    """Return the scale of each column: 0 to 1 for shares, else a round one around all intervals."""
    axes = []
    for column, cells in zip(table.columns, zip(*table.rows.values(), strict=True), strict=True):
        ends = [end for cell in cells if cell.interval for end in cell.interval]
        shares = all(0 <= end <= 1 for end in ends)
        scale = Axis(column.heading, (0.0, 1.0)) if shares else Axis.around(column.heading, ends)
        axes.append(scale if ends else None)
    return axes


def tints(forgetting: Forgetting) -> dict[str, dict[str, float]]:
    """Return for each model and column how deep its colour is, in percent; below 0 where it is worse."""
    shades = forgetting.shades()
    deep = _DEEPEST_TINT * shades.abs() ** 0.5
    return deep.round().where(shades >= 0, -deep.round()).to_dict("index")


def draw_frontier(board: Board) -> Figure:
    """Draw the reward-KL chart without the base model, which would squeeze the others together.

    Args:
        board: models with a divergence. The base stays where it is the reference, or alone.
    """
    from posttrain_helpers.evaluation.board.board import Board
    from posttrain_helpers.evaluation.board.plots import plot_frontier

    others = [record for label, record in board.records.items() if label != BASE]
    apart = any(record.divergence and record.divergence["reference"] != BASE for record in others)
    return plot_frontier(Board(others, board.reference) if apart else board)


def first_shown(board: Board, tables: list[Table]) -> list[str]:
    """Return all models, those first whose replies a reader wants to see: base, reference, and the winners.

    Args:
        board: the evaluated models.
        tables: the leaderboards; their best models take turns.
    """
    leaders = [label for place in zip_longest(*(table.rows for table in tables)) for label in place if label]
    return list(dict.fromkeys([*board.labels[:1], board.reference, *leaders, *board.labels]))


def samples_view(board: Board, order: list[str]) -> list[dict[str, Any]]:
    """Return the replies to a few prompts of every suite.

    Args:
        board: the evaluated models.
        order: the models, those whose replies are shown first at the beginning.

    Returns:
        For each suite the `suite` and its `prompts`, each of these with the `prompt`, the `opening` of a
        conversation of several turns, and the replies in two lists, `first` and `more`.
    """
    view = []
    for suite in board.suites.values():
        frame = board.samples(suite.name, _PROMPTS_PER_SUITE)
        prompts = []
        for prompt, texts in frame.iterrows():
            replies = [
                _reply(board, suite.name, label, str(prompt), texts[label])
                for label in order
                if label in frame.columns
            ]
            opening = next((reply["opening"] for reply in replies if reply["opening"]), "")
            first, more = replies[:_SHOWN_FIRST], replies[_SHOWN_FIRST:]
            prompts.append({"prompt": prompt, "opening": opening, "first": first, "more": more})
        view.append({"suite": suite, "prompts": prompts})
    return view


def _reply(board: Board, suite: str, label: str, prompt: str, text: str) -> dict[str, Any]:
    """Return one reply with its score: "yes", "no", a number as text, or "" without one."""
    record = board.records[label].suites[suite]
    # Items with the same prompt and the same reply have the same score, so any of them will do.
    item = list(zip(record.prompts, record.replies, strict=True)).index((prompt, text))
    value = record.headline[item]
    score = "" if value is None else number(float(value))
    if value is not None and board.suites[suite].yes_no:
        score = "yes" if value else "no"
    turns = record.transcripts[item] if record.transcripts else ()
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
