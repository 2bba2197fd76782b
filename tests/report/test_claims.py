"""Claims and costs of the lessons: their scales, their pictures, and where they ran."""

from __future__ import annotations

from pathlib import Path

from lesson_records import claim, write_lesson

from posttrain_helpers.report.claims import (
    Axis,
    claim_groups,
    environments,
    forest_plot,
    headline_cards,
    lesson_costs,
)
from posttrain_helpers.results import read_results


def test_an_axis_holds_zero_and_every_interval(output_root: Path) -> None:
    write_lesson(
        output_root,
        "00_meet_the_base_model",
        [
            claim(),
            claim(low=-0.4, difference=-0.3, high=-0.2),
            claim(metric="none", low=0, difference=0, high=0),
        ],
    )
    lessons = read_results("tiny")
    for axis, rows in claim_groups(lessons):
        places = [axis.place(value) for _, row in rows for value in (0, row.low, row.difference, row.high)]
        assert min(places) >= 0
        assert max(places) <= 100
    assert len(forest_plot(lessons).axes) == 2


def test_a_headline_of_shares_is_drawn_from_0_to_1_and_others_around_zero(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim(), claim()])
    write_lesson(output_root, "05_reward_modelling", [claim(before=-2.5, after=3.1)])
    shares, scores = headline_cards(read_results("tiny"))
    assert shares["axis"].ticks == (0.0, 1.0)
    assert (shares["others"], scores["others"]) == (1, 0)
    assert scores["axis"].ticks[0] <= -2.5 < 0 < 3.1 <= scores["axis"].ticks[-1]


def test_an_axis_around_nothing_still_has_a_length() -> None:
    axis = Axis.around("none", [0.0])
    assert axis.place(0.0) == 50


def test_costs_are_shares_of_the_largest(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim()], seconds=30, peak_cpu_mb=None)
    write_lesson(output_root, "01_supervised_fine_tuning", [claim()], seconds=120)
    short, long = lesson_costs(read_results("tiny"))
    assert (short["time_share"], short["memory_share"]) == (25, 0)
    assert (long["time_share"], long["memory_share"]) == (100, 100)
    assert (short["time"], long["time"]) == ("30 s", "2 min 0 s")


def test_environments_name_who_differs_and_no_one_else() -> None:
    table = environments(
        [
            ("lesson 00", {"torch": "2.1", "threads": 1}),
            ("lesson 01", {"torch": "2.1", "threads": 2}),
            ("evaluation", {"torch": "2.1", "threads": 1, "gpu": "none"}),
        ]
    )
    assert table == [
        ("torch", [("2.1", [])]),
        ("threads", [("1", ["lesson 00", "evaluation"]), ("2", ["lesson 01"])]),
        ("gpu", [("none", [])]),
    ]
