"""Figures of a board: averages with intervals, gains and losses by skill, and reward against divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.board.forgetting import DOCUMENTS, Forgetting
from posttrain_helpers.plots import BLUE, GREY, ORANGE, new_figure
from posttrain_helpers.wording import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

    from posttrain_helpers.evaluation.board.board import Board

# A cell darker than this has white numbers.
_DARK = 0.45
# Where a label may stand, as (horizontal, vertical) direction; the first that is free wins.
_DIRECTIONS = ((1, 0), (1, 1), (-1, 0), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))
_DISTANCES = (6, 18, 30, 44, 60)


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
    axes.set(
        xlabel=f"mean of {_several(names)}, {unit} (95 % interval)",
        title=title or f"{kind.capitalize()}, by model",
        ylim=(len(ranks) - 0.4, -0.6),
    )
    return figure


def plot_retention(board: Board, against: str | None = None, title: str = "") -> Figure:
    """Draw what each model gained and lost against one of them, skill by skill, as a heat map.

    Blue is better and orange worse, whichever way the numbers point. Yes/no suites share one scale of colours
    and are in percentage points; every other column has its own. Bold numbers are significant after Holm's
    correction over all cells.

    Args:
        board: the models.
        against: the label to compare with; None is the board's reference.
        title: of the figure.

    Raises:
        CourseError: an unknown label, or no other model to compare with.
    """
    from matplotlib.colors import LinearSegmentedColormap

    forgetting = board.retention(against)
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
    changed = [name.replace("_", " ") for name in board.leave_out if name in forgetting.columns]
    if changed:
        note += f" A stage may change {listed(changed)} on purpose."
    axes.set_xlabel(note, color="0.25", fontsize=9, labelpad=8)
    return figure


def plot_frontier(board: Board, title: str = "") -> Figure:
    """Draw the gold score of every model over its divergence from the reference, with both intervals.

    The axis of the divergence is spaced by its square root: while it lasts, the gain of a policy grows about
    linearly on it.

    Args:
        board: the models.
        title: of the figure.

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
    for label, row in points.iterrows():
        axes.errorbar(
            row["kl"],
            row["gold"],
            xerr=_error(row, "kl"),
            yerr=_error(row, "gold"),
            fmt="D" if label == board.reference else "o",
            color=ORANGE if label == board.reference else BLUE,
            ecolor=GREY,
            elinewidth=1,
            zorder=3,
        )
    largest = max(1e-3, points[["kl", "kl_high"]].max().max())
    axes.set_xlim(-0.001 * largest, 1.15 * largest)
    ticks = square_root_ticks(largest, room=0.1)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.margins(y=0.12)
    reference = board.records[points.index[0]].divergence["reference"]
    axes.set(
        xlabel=f"KL from {reference}, nats per prompt (square-root axis)",
        ylabel="mean gold score of sampled replies",
        title=title or "Gold score and the divergence that it cost (95 % intervals)",
    )
    labels = [(str(label), (row["kl"], row["gold"])) for label, row in points.iterrows()]
    bars = []
    for row in points.dropna().itertuples():
        bars += [
            ((row.kl_low, row.gold), (row.kl_high, row.gold)),
            ((row.kl, row.gold_low), (row.kl, row.gold_high)),
        ]
    place_labels(axes, labels, bars)
    return figure


def square_root_ticks(largest: float, room: float) -> list[float]:
    """Return zero and round values up to the largest one that stand apart on a square-root axis.

    Args:
        largest: the value at the end of the axis, above 0.
        room: the least distance between two ticks, as a share of the axis.
    """
    last = math.floor(math.log10(largest))
    values = sorted(lead * 10.0**power for power in range(last - 2, last + 1) for lead in (1, 2, 5))
    ticks: list[float] = []
    for value in reversed(values):  # from the end, where values are far apart
        place = math.sqrt(value / largest)
        clear = not ticks or math.sqrt(ticks[-1] / largest) - place >= room
        if value <= largest and clear and place >= room:
            ticks.append(value)
    return [0.0, *reversed(ticks)]


def place_labels(
    axes: Axes,
    labels: Sequence[tuple[str, tuple[float, float]]],
    segments: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
) -> list[Annotation]:
    """Write labels beside points so that they cover neither each other nor a point, as far as there is room.

    Args:
        axes: where; its limits stay as they are.
        labels: pairs of a text and its point, in data coordinates.
        segments: straight lines to keep clear of where possible, such as error bars, in data coordinates.

    Returns:
        The annotations, in the order given. One that had to move away has a thin line to its point.
    """
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # lines to labels must not rescale the axes
    axes.figure.canvas.draw()
    pixels = axes.figure.dpi / 72
    window = axes.get_window_extent()
    points = axes.transData.transform([point for _, point in labels])
    lines = [_along(*axes.transData.transform(segment)) for segment in segments]
    covered = np.concatenate([points, *lines])
    placed, taken = [], []
    for (text, point), centre in zip(labels, points, strict=True):
        annotation = axes.annotate(text, point, (0, 0), textcoords="offset points", fontsize=9.5, zorder=4)
        size = annotation.get_window_extent().size

        def cost(place: tuple[int, Bbox], taken: Sequence[Bbox] = tuple(taken)) -> float:
            distance, box = place
            return (
                1000 * sum(_shared(box, other) for other in taken)
                + 100 * box.padded(4 * pixels).count_contains(points)
                + 3 * box.padded(1).count_contains(covered)
                + 500 * (4 - window.count_contains(box.corners()))
                + 0.4 * distance
            )

        places = [
            (distance, _beside(centre, size, np.array(direction), distance * pixels))
            for distance in _DISTANCES
            for direction in _DIRECTIONS
        ]
        distance, box = min(places, key=cost)
        taken.append(box)
        annotation.set_position((box.min - centre) / pixels)
        if distance > _DISTANCES[0]:
            ends = axes.transData.inverted().transform([centre, (box.min + box.max) / 2])
            axes.plot(*ends.T, color="0.6", linewidth=0.7, zorder=2)
            annotation.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85})
        placed.append(annotation)
    return placed


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


def _several(names: Sequence[str]) -> str:
    return names[0].replace("_", " ") if len(names) == 1 else f"{len(names)} suites"


def _error(row: Mapping[str, float], name: str) -> list[list[float]] | None:
    low, high = row[name] - row[f"{name}_low"], row[f"{name}_high"] - row[name]
    return [[max(low, 0.0)], [max(high, 0.0)]] if math.isfinite(low + high) else None


def _along(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return points on a line, one every few pixels."""
    count = max(2, int(np.hypot(*(end - start)) / 4))
    return start + np.linspace(0, 1, count)[:, None] * (end - start)


def _beside(centre: np.ndarray, size: np.ndarray, direction: np.ndarray, distance: float) -> Bbox:
    """Return a box of a size whose nearest side or corner lies in a direction from a point."""
    from matplotlib.transforms import Bbox

    corner = centre + direction * distance - size * (1 - direction) / 2
    return Bbox([corner, corner + size])


def _shared(box: Bbox, other: Bbox) -> float:
    """Return the share of a box that another one covers."""
    both = box.intersection(box, other)
    return 0.0 if both is None else both.width * both.height / (box.width * box.height)
