"""The report card: one self-contained page from the metrics files."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.report import (
    _groups,
    build_report,
    duration,
    forest_plot,
    lesson_title,
    number,
    p_value,
    signed,
)
from posttrain_helpers.results import read_results, save_figure


def write_lesson(root: Path, lesson: str, claims: list[dict[str, object]], **changes: object) -> None:
    record = {
        "lesson": lesson,
        "profile": "tiny",
        "seed": 0,
        "seconds": 48.1,
        "peak_cpu_mb": 912.0,
        "peak_gpu_mb": None,
        "versions": {"torch": "2.13.0"},
        "claims": claims,
        "environment": {"device": "cpu"},
        "written": "2026-01-02T03:04:05+00:00",
        **changes,
    }
    path = root / "tiny" / "metrics" / f"{lesson}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def claim(**changes: object) -> dict[str, object]:
    values = {
        "name": "held-out entities answered",
        "metric": "exact_match",
        "n": 196,
        "before": 0.161,
        "after": 0.934,
        "difference": 0.773,
        "low": 0.701,
        "high": 0.832,
        "p": 1e-40,
        "expected": "improved",
        "verdict": "improved",
    }
    return {**values, **changes}


class Page(HTMLParser):
    """Collect what a page refers to and the text that it shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for key, value in attributes if key in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in ("line", "circle", "rect")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.shown = " ".join(f"{self.shown} {data}".split())


def test_without_results_the_sentence_says_what_to_run(output_root: Path) -> None:
    with pytest.raises(
        CourseError, match=r"no lesson has been run with profile 'tiny'.*posttrain_helpers run"
    ):
        build_report("tiny")
    assert not (output_root / "tiny" / "report.html").exists()


def test_the_page_shows_every_number_and_needs_no_other_file(output_root: Path) -> None:
    from matplotlib.figure import Figure

    write_lesson(output_root, "00_meet_the_base_model", [claim(name="few-shot <b>baseline</b>", after=0.42)])
    write_lesson(output_root, "01_supervised_fine_tuning", [claim(), claim(metric="gold_score", name="gold")])
    picture = save_figure(Figure(figsize=(1, 1)), "01_supervised_fine_tuning", "loss_curve", "tiny")

    path = build_report("tiny")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path == output_root / "tiny" / "report.html"
    assert not page.open
    for expected in (
        "All 3 claims are as expected",
        "2 lessons in 1 min 36 s",
        "0.161 → 0.934",
        "+0.773 (+0.701 to +0.832)",
        "p < 0.0001",
        "n = 196",
        "improved, as expected",
        "912 MB",
        "48 s",
        "torch 2.13.0",
        "2026-01-02 03:04 UTC",
        "few-shot <b>baseline</b>",  # as text: the tag must not reach the page as a tag
        "Gold score",
    ):
        assert expected.replace("\u00a0", " ") in page.shown.replace("\u00a0", " "), expected
    assert "<b>" not in text
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert base64.b64decode(page.references[0].split(",")[1]) == picture.read_bytes()
    assert not re.search(r"https?:|@import|url\(", text)
    for name in ("report__forest.png", "report__time_and_memory.png"):
        assert (output_root / "tiny" / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_follows_the_theme_the_phone_and_the_printer(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim()])
    text = build_report("tiny").read_text(encoding="utf-8")
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 46rem", 'name="viewport"'):
        assert rule in text


def test_an_unexpected_verdict_is_in_the_title(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim(verdict="no_difference_shown", p=0.4)])
    shown = Page(build_report("tiny").read_text(encoding="utf-8")).shown
    assert "1 of 1 claims is not as expected" in shown
    assert "no difference shown, expected: improved" in shown
    assert "p = 0.4" in shown


def test_memory_that_was_not_measured_is_said_and_gpu_memory_is_shown(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim()], peak_cpu_mb=None)
    write_lesson(output_root, "01_supervised_fine_tuning", [claim()], peak_gpu_mb=2345.0)
    shown = Page(build_report("tiny").read_text(encoding="utf-8")).shown
    assert "not measured" in shown
    assert "GPU 2,345 MB" in shown


def test_lessons_that_ran_on_two_machines_are_told_apart(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim()])
    write_lesson(output_root, "01_supervised_fine_tuning", [claim()], versions={"torch": "2.99"})
    shown = Page(build_report("tiny").read_text(encoding="utf-8")).shown
    assert "torch 2.13.0" in shown
    assert "torch 2.99" in shown


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
    for axis, rows in _groups(lessons):
        places = [axis.place(value) for _, row in rows for value in (0, row.low, row.difference, row.high)]
        assert min(places) >= 0
        assert max(places) <= 100
    assert len(forest_plot(lessons).axes) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.7, "0.700"),
        (-0.0243, "−0.024"),
        (12.34, "12.3"),
        (12345.6, "12,346"),
        (0.0, "0.000"),
        (1e-5, "1e−05"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_words_for_readers() -> None:
    assert lesson_title("01_supervised_fine_tuning") == "01 Supervised fine tuning"
    assert [signed(value) for value in (0.5, 0.0, -0.0, -0.5)] == ["+0.500", "0.000", "0.000", "−0.500"]
    assert [duration(value) for value in (4.21, 59.6, 200, 7500)] == [
        "4.2 s",
        "1 min 0 s",
        "3 min 20 s",
        "2 h 5 min",
    ]
    assert [p_value(value) for value in (1e-9, 0.031)] == ["p < 0.0001", "p = 0.031"]
