"""Claims of the lessons: their scales, their pictures, and where they ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lesson_records import claim, write_lesson

from posttrain_helpers.report import fresh_seeds as seed_table_module
from posttrain_helpers.report.claims import (
    Axis,
    claim_groups,
    environments,
    fresh_seeds,
    headline_cards,
)
from posttrain_helpers.report.page import build_report
from posttrain_helpers.report.results import read_results

LESSON = "00_meet_the_base_model"


def seed_table(path: Path) -> None:
    """Write what ten seeds gave: a claim that held on nine of them."""
    runs = {str(seed): {"held": seed != 103, "value": seed / 1000} for seed in range(100, 110)}
    table = {LESSON: {"seeds": list(range(100, 110)), "claims": [{"name": claim()["name"], "runs": runs}]}}
    path.write_text(json.dumps(table), encoding="utf-8")


def test_claims_and_bounds_stand_beside_their_fresh_seeds(
    output_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed_table_module, "seeds_path", lambda: tmp_path / "seeds.json")
    bound = {"name": "a share", "value": 0.3, "at_least": 0.05, "at_most": 0.25}
    write_lesson(output_root, LESSON, [claim()], bounds=[bound])
    assert "fresh seeds:" not in build_report("tiny").read_text(encoding="utf-8")
    seed_table(tmp_path / "seeds.json")
    (result,) = read_results("tiny")
    assert fresh_seeds(LESSON, result.headline) == "held on 9 of 10 fresh seeds: 0.100 to 0.109"
    assert fresh_seeds(LESSON, result.bounds[0]) == ""
    page = build_report("tiny").read_text(encoding="utf-8")
    assert page.count("held on 9 of 10 fresh seeds: 0.100 to 0.109") == 2  # headline and list
    assert page.count("0.300, not at least 0.05 and at most 0.25") == 2  # beside the headline and in the list
    assert "The one claim is as expected, 1 of 1 promises about single numbers is not kept" in page


def test_seeds_of_the_tiny_model_are_not_shown_as_those_of_others(
    output_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed_table_module, "seeds_path", lambda: tmp_path / "seeds.json")
    seed_table(tmp_path / "seeds.json")
    bound = {"name": "a share", "value": 0.1, "at_least": 0.05}
    write_lesson(output_root, LESSON, [claim()], bounds=[bound])
    assert "resh seeds" in build_report("tiny").read_text(encoding="utf-8")
    write_lesson(output_root, LESSON, [claim()], bounds=[bound], profile="smollm2", split="dev")
    (output_root / "smollm2" / "dev").mkdir(parents=True)
    (output_root / "tiny" / "metrics").rename(output_root / "smollm2" / "dev" / "metrics")
    monkeypatch.setenv("POSTTRAIN_SPLIT", "dev")
    assert "resh seeds" not in build_report("smollm2").read_text(encoding="utf-8")


def test_a_claim_below_its_lowest_score_is_not_as_expected(output_root: Path) -> None:
    write_lesson(output_root, LESSON, [claim(at_least=0.95), claim(at_least=0.9)])
    (result,) = read_results("tiny")
    assert [row.held for row in result.claims] == [False, True]
    page = build_report("tiny").read_text(encoding="utf-8")
    assert "improved, expected: improved and at least 0.950" in page


def test_an_axis_holds_zero_and_every_interval(output_root: Path) -> None:
    write_lesson(
        output_root,
        "00_meet_the_base_model",
        [
            claim(),
            claim(low=-0.4, difference=-0.3, high=-0.2),
            claim(metric="none", low=0, difference=0, high=0),
            claim(metric="far", low=2.0, difference=3.0, high=9.0),
        ],
    )
    lessons = read_results("tiny")
    for axis, rows in claim_groups(lessons):
        places = [axis.place(value) for _, row in rows for value in (0, row.low, row.difference, row.high)]
        assert min(places) >= 0
        assert max(places) <= 100


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
