"""Figures of a board: averages with intervals, gains and losses by skill, and reward against divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.board.board import LEFT_OUT, Board
from posttrain_helpers.evaluation.board.forgetting import DOCUMENTS, Forgetting
from posttrain_helpers.plots import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A cell darker than this has white numbers.
_DARK = 0.45


def plot_leaderboard(
    board: Board, kind: str = "correctness", labels: Sequence[str] | None = None, title: str = ""
) -> Figure:
    """Draw the average of every model with its interval, the best on top, and the places that it may have.

    Args:
        board: the models.
        kind: "correctness" or "preference".
        labels: models to draw, None for all; the ranks are those among all.
        title: of the figure.

    Raises:
        CourseError: as `Board.leaderboard`, or a label without an average.
    """
    ranks, names = board.leaderboard(kind), board.averaged(kind)
    if labels is not None:
        unknown = [label for label in labels if label not in ranks.index]
        if unknown or not labels:
            wrong = f"{unknown[0]!r} has no average" if unknown else "No model was chosen"
            raise CourseError(f"{wrong}; choose among {', '.join(ranks.index)}.")
        ranks = ranks[ranks.index.isin(labels)]
    scale = 100 if all(board.suites[name].yes_no for name in names) else 1
    figure, axes = new_figure(height=1.4 + 0.36 * len(ranks))
    for position, (label, row) in enumerate(ranks.iterrows()):
        value, low, high = (scale * row[key] for key in ("score", "low", "high"))
        colour = ORANGE if label == board.reference else BLUE
        axes.plot([low, high], [position, position], color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot(value, position, "D" if label == board.reference else "o", color=colour, markersize=7)
        # Beside the axes, so that the ranges stand below each other.
        axes.annotate(
            row["ranks"], (1.0, position), (8, 0), ("axes fraction", "data"), "offset points", va="center"
        )
    axes.annotate("rank", (1.0, 1.0), (8, 2), "axes fraction", "offset points", va="bottom", color="0.35")
    if board.reference in ranks.index:
        axes.axvline(scale * ranks.loc[board.reference, "score"], color=ORANGE, linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(ranks)), list(ranks.index))
    unit = "%" if scale == 100 else "score"
    averaged = names[0].replace("_", " ") if len(names) == 1 else f"{len(names)} suites"
    axes.set(
        xlabel=f"mean of {averaged}, {unit} (95 % interval)",
        title=title or f"{kind.capitalize()}, by model",
        ylim=(len(ranks) - 0.4, -0.6),
    )
    return figure


def plot_retention(board: Board, title: str = "") -> Figure:
    """Draw what each model gained and lost against the reference, skill by skill, as a heat map.

    Blue is better and orange worse, whichever way the numbers point. Yes/no suites share one scale of colours
    and are in percentage points; every other column has its own. Bold numbers are significant after Holm's
    correction over all cells.

    Args:
        board: the models.
        title: of the figure.

    Raises:
        CourseError: no other model to compare with.
    """
    from matplotlib.colors import LinearSegmentedColormap

    forgetting = board.retention()
    if not forgetting.labels:
        raise CourseError(
            f"{forgetting.against} is the only model on the board; evaluate another one to compare with it."
        )
    shades = forgetting.shades()
    rows, columns = shades.shape
    figure, axes = new_figure(width=2.4 + 0.95 * columns, height=1.9 + 0.42 * rows)
    colours = LinearSegmentedColormap.from_list("worse to better", [ORANGE, "#f7f7f7", BLUE])
    axes.imshow(shades, cmap=colours, vmin=-1, vmax=1, aspect="auto")
    for row, label in enumerate(forgetting.labels):
        for column, name in enumerate(forgetting.columns):
            result = forgetting.results[label][name]
            if result is None:
                axes.text(column, row, "-", ha="center", va="center", color="0.4")
                continue
            red, green, blue, _ = colours((shades.loc[label, name] + 1) / 2)
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < _DARK
            shown = forgetting.verdict(label, name) != "no_difference_shown"
            axes.text(
                column,
                row,
                _cell_text(result.difference, name, name in forgetting.shares),
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontweight="bold" if shown else "normal",
                alpha=1.0 if shown else 0.7,
            )
    axes.set_yticks(range(rows), forgetting.labels)
    axes.set_xticks(range(columns), [_column_heading(board, forgetting, name) for name in forgetting.columns])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    # White lines between the cells.
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2, alpha=1.0)
    axes.tick_params(which="minor", length=0)
    axes.set_title(title or f"Change against {forgetting.against}", pad=12)
    note = (
        f"Blue: better, orange: worse. Bold: significant after Holm's correction for "
        f"{len(forgetting.adjusted)} cells.\nBelow each heading: {forgetting.against} itself."
    )
    if changed := LEFT_OUT & set(forgetting.columns):
        note += f" A stage may change {', '.join(changed)} on purpose."
    axes.set_xlabel(note, color="0.25", fontsize=9, labelpad=8)
    return figure


def plot_frontier(board: Board) -> Figure:
    """Draw the gold score of every model over its divergence from the reference, with both intervals.

    The axis of the divergence is spaced by its square root: while it lasts, the gain of a policy grows about
    linearly on it.

    Args:
        board: the models.

    Raises:
        CourseError: no record holds a divergence.

    Source: the square root is that of Gao et al. (2023), arXiv:2210.10760, section 3.
    """
    points = board.frontier()
    figure, axes = new_figure(width=8.5, height=5.4)
    # Signed, so that there is some room on the left of 0.
    axes.set_xscale(
        "function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: x * np.abs(x))
    )
    for place, (label, row) in enumerate(points.iterrows(), start=1):
        axes.errorbar(
            row["kl"],
            row["gold"],
            xerr=_error(row, "kl"),
            yerr=_error(row, "gold"),
            fmt="D" if label == board.reference else "o",
            markersize=13,
            color=ORANGE if label == board.reference else BLUE,
            ecolor=GREY,
            elinewidth=1,
            label=f"{place}  {label}",
            zorder=3,
        )
        centre = {"color": "white", "ha": "center", "va": "center", "zorder": 4}
        axes.text(row["kl"], row["gold"], place, fontsize=9, weight="bold", **centre)
    largest = max(1e-3, points[["kl", "kl_high"]].max().max())
    axes.set_xlim(-0.001 * largest, 1.15 * largest)
    axes.margins(y=0.12)
    reference = board.records[points.index[0]].divergence["reference"]
    axes.set(
        xlabel=f"KL from {reference}, nats per prompt (square-root axis)",
        ylabel="mean gold score of sampled replies",
        title="Gold score and the divergence that it cost (95 % intervals)",
    )
    markers = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    axes.legend(markers.values(), markers, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=0.7)
    return figure


def _column_heading(board: Board, forgetting: Forgetting, name: str) -> str:
    """Return the name of a column, with the mean of the model that the others are compared with below it."""
    words = name.replace("_", "\n").replace(" ", "\n")
    if name == DOCUMENTS:
        loss = next(
            (row[name].before for row in forgetting.results.values() if row[name] is not None), math.nan
        )
        return f"{words}\n-" if math.isnan(loss) else f"{words}\n{loss:.2f} nats"
    suite = board.suites[name]
    if forgetting.against not in suite.scores:
        return f"{words}\n-"
    mean = float(suite.scores[forgetting.against].mean())
    return f"{words}\n{100 * mean:.0f} %" if suite.yes_no else f"{words}\n{mean:.2f}"


def _cell_text(value: float, column: str, percent: bool) -> str:
    # A loss per token changes in the third decimal.
    digits = 0 if percent else 3 if column == DOCUMENTS else 2
    text = f"{100 * value if percent else value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def _error(row: Mapping[str, float], name: str) -> list[list[float]] | None:
    low, high = row[name] - row[f"{name}_low"], row[f"{name}_high"] - row[name]
    return [[max(low, 0.0)], [max(high, 0.0)]] if math.isfinite(low + high) else None
