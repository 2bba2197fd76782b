"""The layout of the reward-KL chart: true places, no label on another label or on a point."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.report.frontier import Box, Mark, frontier_chart


def mark(label: str, kl: float, gold: float, spread: float = 0.1) -> Mark:
    return Mark(label, kl, max(0.0, kl - spread), kl + spread, gold, gold - spread, gold + spread)


def test_places_follow_the_root_of_the_divergence_and_the_score() -> None:
    chart = frontier_chart([mark("sft", 0.0, 1.0), mark("near", 1.0, 2.0), mark("far", 4.0, 3.0)], 1000, 500)
    start, near, far = chart.points
    assert start.x == chart.frame.left
    assert far.x - start.x == pytest.approx(2 * (near.x - start.x))
    assert start.y - near.y == pytest.approx(near.y - far.y)
    assert far.y < near.y < start.y
    for point in chart.points:
        assert point.left <= point.x < point.right <= chart.frame.right
        assert chart.frame.top <= point.top < point.y < point.bottom <= chart.frame.bottom


def test_ticks_are_round_inside_and_apart() -> None:
    for furthest in (0.003, 0.7, 9.4, 250.0):
        chart = frontier_chart([mark("a", 0, 0, 0.001), mark("b", furthest, 5, 0.0)], 340, 440, 12)
        places = [place for place, _ in chart.x_ticks]
        assert len(places) >= 3
        assert chart.x_ticks[0] == (chart.frame.left, 0.0)
        assert max(value for _, value in chart.x_ticks) <= furthest
        assert all(b - a >= 48 - 1e-6 for a, b in pairwise(places))


@pytest.mark.parametrize("size", [(1040, 520, 13), (340, 440, 12)])
@pytest.mark.parametrize("seed", range(5))
def test_labels_keep_clear_of_each_other_and_of_the_points(size: tuple[int, int, int], seed: int) -> None:
    draw = random.Random(seed)
    marks = [mark("sft", 0.0, 1.0), mark("base", 7.0, 0.2)]
    marks += [mark(f"model_{i}", draw.uniform(0.5, 3), draw.uniform(1.5, 2.5), 0.3) for i in range(11)]
    chart = frontier_chart(marks, *size)
    for first, second in combinations(chart.points, 2):
        assert first.box.overlap(second.box) == 0, (first.mark.label, second.mark.label)
    for point in chart.points:
        assert point.box.overlap(chart.frame) == pytest.approx(
            (point.box.right - point.box.left) * (point.box.bottom - point.box.top)
        )
        for other in chart.points:
            dot = Box(other.x - 2, other.y - 2, other.x + 2, other.y + 2)
            assert point.box.overlap(dot) == 0, (point.mark.label, other.mark.label)


def test_a_label_that_stands_away_has_a_leader() -> None:
    marks = [mark(f"m{i}", 1 + 0.001 * i, 1 + 0.001 * i, 0.0) for i in range(12)]
    chart = frontier_chart([*marks, mark("alone", 4.0, 2.0)], 1040, 520)
    assert chart.points[-1].leader is None
    assert any(point.leader for point in chart.points[:-1])


def test_the_dotted_line_joins_the_models_that_nobody_beats_with_less() -> None:
    chart = frontier_chart(
        [mark("sft", 0.0, 1.0), mark("worse", 1.0, 0.5), mark("best", 2.0, 3.0), mark("late", 3.0, 2.0)],
        1000,
        500,
    )
    sft, _, best, _ = chart.points
    assert chart.best == (
        (sft.x, sft.y), (best.x, sft.y), (best.x, best.y), (chart.frame.right, best.y)
    )  # fmt: skip


def test_a_reference_alone_is_drawn() -> None:
    chart = frontier_chart([mark("sft", 0.0, 1.0, 0.0)], 340, 440, 12)
    assert chart.points[0].x == chart.frame.left
    assert chart.frame.top < chart.points[0].y < chart.frame.bottom


def test_without_models_there_is_no_chart() -> None:
    with pytest.raises(CourseError, match="needs at least one model"):
        frontier_chart([], 340, 440)


def test_a_long_name_is_shortened_in_its_middle_so_that_it_fits() -> None:
    name = "Qwen--Qwen3-0.6B-Base-tuned-on-everything"
    narrow, wide = (
        frontier_chart([mark("sft", 0.0, 1.0), mark(name, 1.0, 2.0)], *size).points[1]
        for size in ((340, 440, 12), (1040, 520, 13))
    )
    assert wide.text == name
    assert len(narrow.text) < 21
    start, end = narrow.text.split("…")
    assert name.startswith(start)
    assert name.endswith(end)
