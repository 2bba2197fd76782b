"""Where the marks and the labels of the reward-KL chart lie: the layout of a scatter plot as plain numbers.

The page draws the chart itself, as SVG in the colours of its theme; this module only computes. Labels stand
beside their points and cover neither each other nor a point, nor an error bar where that can be helped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.board_plots import square_root_ticks

_LETTER = 0.62  # widest mean width of a letter in units of the font size, over the usual system fonts
_RADIUS = 5.0
_DIRECTIONS = 16
_DISTANCES = (9, 14, 22, 32, 44, 60, 80, 104)
_ROUNDS = 6  # passes over all labels; they settle after two or three


class Mark(NamedTuple):
    """One model on the frontier, in units of the data.

    Args:
        label: the model's name.
        kl: its divergence from the reference in nats, zero or more, with its interval.
        gold: its mean score, with its interval.
    """

    label: str
    kl: float
    kl_low: float
    kl_high: float
    gold: float
    gold_low: float
    gold_high: float


class Box(NamedTuple):
    """A rectangle in the units of the drawing; `top` is the smaller ordinate, as in SVG."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Return the area that two rectangles share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


@dataclass(frozen=True)
class Point:
    """One model in the drawing: the point, the ends of its error bars, its label and the label's place."""

    mark: Mark
    text: str
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    box: Box

    @property
    def leader(self) -> tuple[float, float] | None:
        """Where a line from the point to its label ends; None where the label stands beside the mark."""
        ends = ((self.left, self.y), (self.right, self.y), (self.x, self.top), (self.x, self.bottom))
        far = min(math.dist(end, self._nearest(*end)) for end in ((self.x, self.y), *ends)) > 3 * _RADIUS
        return self._nearest(self.x, self.y) if far else None

    def _nearest(self, x: float, y: float) -> tuple[float, float]:
        """Return the place on the label that is nearest to (x, y)."""
        return min(max(x, self.box.left), self.box.right), min(max(y, self.box.top), self.box.bottom)


@dataclass(frozen=True)
class Chart:
    """A drawing of the frontier.

    Attributes:
        width, height: size in drawing units, which are CSS pixels at full size.
        font: size of the text.
        frame: the plotting area.
        x_ticks, y_ticks: (place, value) of the round values.
        points: one per model, in the order given.
        best: the corners of the line through the models that no other beats with less divergence.
    """

    width: float
    height: float
    font: float
    frame: Box
    x_ticks: tuple[tuple[float, float], ...]
    y_ticks: tuple[tuple[float, float], ...]
    points: tuple[Point, ...]
    best: tuple[tuple[float, float], ...]


def frontier_chart(marks: Sequence[Mark], width: float, height: float, font: float = 13) -> Chart:
    """Lay out the reward-KL chart: square root of the divergence across, score upwards.

    Args:
        marks: the models.
        width: width of the drawing.
        height: height of the drawing.
        font: size of the text in the same unit.

    Returns:
        The places of everything that is drawn.

    Raises:
        CourseError: when there is no model to draw.

    Source: the axis is that of Gao et al. (2023), arXiv:2210.10760, whose distance d is this square root.
    """
    from matplotlib.ticker import MaxNLocator

    if not marks:
        raise CourseError("a reward-KL chart needs at least one model; evaluate one with a reference first.")
    frame = Box(3.4 * font, 2.4 * font, width - 1.0 * font, height - 3.6 * font)
    furthest = max(0.0, *(max(mark.kl_high, mark.kl) for mark in marks)) or 1.0
    lowest, highest = min(mark.gold_low for mark in marks), max(mark.gold_high for mark in marks)
    if lowest == highest:
        lowest, highest = lowest - 0.5, highest + 0.5
    levels = [float(level) for level in MaxNLocator(nbins=6).tick_values(lowest, highest)]
    right_end = math.sqrt(furthest) * 1.06

    def across(kl: float) -> float:
        return frame.left + (frame.right - frame.left) * math.sqrt(max(0.0, kl)) / right_end

    def up(gold: float) -> float:
        return frame.bottom - (frame.bottom - frame.top) * (gold - levels[0]) / (levels[-1] - levels[0])

    places = [
        (across(m.kl), up(m.gold), across(m.kl_low), across(m.kl_high), up(m.gold_high), up(m.gold_low))
        for m in marks
    ]
    longest = int((frame.right - frame.left) / (2 * _LETTER * font))
    texts = [_shortened(mark.label, longest) for mark in marks]
    boxes = _label_boxes(texts, places, frame, font)
    points = tuple(
        Point(mark, text, *place, box)
        for mark, text, place, box in zip(marks, texts, places, boxes, strict=True)
    )
    room = 4 * font / (across(furthest) - frame.left)
    return Chart(
        width=width,
        height=height,
        font=font,
        frame=frame,
        x_ticks=tuple((across(value), value) for value in square_root_ticks(furthest, room)),
        y_ticks=tuple((up(level), level) for level in levels),
        points=points,
        best=_best_line(points, frame),
    )


def _shortened(label: str, longest: int) -> str:
    """Return a label of at most `longest` letters; what is left out is its middle."""
    if len(label) <= longest:
        return label
    kept = longest - 1
    return f"{label[: kept - kept // 2]}…{label[len(label) - kept // 2 :]}"


def _best_line(points: tuple[Point, ...], frame: Box) -> tuple[tuple[float, float], ...]:
    """Return the corners of the staircase through the models with the most score for their divergence."""
    corners: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point.x, point.y)):
        if not corners or point.y < corners[-1][1]:
            if corners:
                corners.append((point.x, corners[-1][1]))
            corners.append((point.x, point.y))
    return (*corners, (frame.right, corners[-1][1]))


def _label_boxes(labels: list[str], places: list[tuple[float, ...]], frame: Box, font: float) -> list[Box]:
    """Return a place for each label: the cheapest of many around its point, improved in a few rounds."""
    dots = [Box(x - 7, y - 7, x + 7, y + 7) for x, y, *_ in places]
    bars = [
        bar
        for x, y, left, right, top, bottom in places
        for bar in (Box(left, y - 1, right, y + 1), Box(x - 1, top, x + 1, bottom))
    ]
    candidates = [
        [
            _beside(x, y, len(label) * _LETTER * font, 1.15 * font, step, distance)
            for distance in _DISTANCES
            for step in range(_DIRECTIONS)
        ]
        for label, (x, y, *_) in zip(labels, places, strict=True)
    ]
    chosen = [options[0] for options in candidates]
    for _ in range(_ROUNDS):
        for index, options in enumerate(candidates):
            others = chosen[:index] + chosen[index + 1 :]
            x, y = places[index][:2]
            costs = [_cost(box, x, y, others, dots, bars, frame) for box in options]
            chosen[index] = options[costs.index(min(costs))]
    return chosen


def _beside(x: float, y: float, width: float, height: float, step: int, distance: float) -> Box:
    """Return a box whose nearest edge lies `distance` from a point, in one of `_DIRECTIONS` directions."""
    angle = math.tau * step / _DIRECTIONS
    across, down = math.cos(angle), -math.sin(angle)
    left = x + across * distance - width * _share_before(across)
    top = y + down * distance - height * _share_before(down)
    return Box(left, top, left + width, top + height)


def _share_before(direction: float) -> float:
    """Return which share of a label lies before its end of the line: none, half, or all of it."""
    return 0.5 if abs(direction) < 0.3 else float(direction < 0)


def _cost(
    box: Box, x: float, y: float, others: list[Box], dots: list[Box], bars: list[Box], frame: Box
) -> float:
    """Return how bad a place for a label is: overlaps first, then the distance from its point."""
    area = (box.right - box.left) * (box.bottom - box.top)
    outside = area - box.overlap(frame)
    cost = 60 * outside + 40 * sum(box.overlap(other) for other in others)
    cost += 40 * sum(box.overlap(dot) for dot in dots) + 6 * sum(box.overlap(bar) for bar in bars)
    return cost + math.hypot((box.left + box.right) / 2 - x, (box.top + box.bottom) / 2 - y)
