"""The report card: one self-contained page from the metrics files."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluation_records import MODELS, quick_record, write_records
from lesson_records import claim, write_lesson

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.records import read_records, write_record
from posttrain_helpers.report.formats import number
from posttrain_helpers.report.page import build_report
from posttrain_helpers.report.results import lesson_figures, show_figure


class Page(HTMLParser):
    """Collect what a page refers to and the text that it shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.descriptions: list[str] = []
        self.targets: list[str] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        links = [value or "" for key, value in attributes if key in ("src", "href", "srcset", "data")]
        self.references += [link for link in links if not link.startswith("#")]
        self.descriptions += [value or "" for key, value in attributes if key == "alt"]
        self.ids += [value or "" for key, value in attributes if key == "id"]
        self.targets += [link[1:] for link in links if link.startswith("#")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in ("line", "circle", "rect", "path", "polyline")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.shown = " ".join(f"{self.shown} {data}".split())


def shown_picture(source: str) -> tuple[int, int]:
    """Decode an embedded picture and return its size."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as image:
        image.load()
        return image.size


def test_without_results_the_sentence_says_what_to_run(output_root: Path) -> None:
    with pytest.raises(
        CourseError, match=r"no lesson has been run with profile 'tiny'.*posttrain_helpers run"
    ):
        build_report("tiny")
    assert not (output_root / "tiny" / "report.html").exists()


def test_the_page_shows_every_number_and_needs_no_other_file(output_root: Path) -> None:
    from matplotlib.figure import Figure
    from PIL import Image

    write_lesson(output_root, "00_meet_the_base_model", [claim(name="few-shot <b>baseline</b>", after=0.42)])
    write_lesson(output_root, "01_supervised_fine_tuning", [claim(), claim(metric="gold_score", name="gold")])
    show_figure(Figure(figsize=(1, 1)), "01_supervised_fine_tuning", "loss_curve", "it falls", "tiny")
    ((_, picture),) = lesson_figures("01_supervised_fine_tuning", "tiny")

    path = build_report("tiny")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path == output_root / "tiny" / "report.html"
    assert not page.open
    for expected in (
        "All 3 claims are as expected",
        "2 in 1 min 36 s",
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
    assert len(page.references) == 1
    assert 'alt="it falls"' in text
    assert shown_picture(page.references[0]) == Image.open(picture).size
    assert set(page.targets) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?:|@import|url\(", text)


def test_a_page_of_dev_lies_apart_and_says_so(output_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim(after=0.42)])
    of_test = build_report("tiny")
    before = of_test.read_bytes()
    assert "measured on test" in Page(before.decode()).shown
    monkeypatch.setenv("POSTTRAIN_SPLIT", "dev")
    with pytest.raises(
        CourseError, match=r"run `python -m posttrain_helpers run --profile tiny --split dev`"
    ):
        build_report("tiny")
    write_lesson(output_root, "00_meet_the_base_model", [claim(after=0.5)], split="dev")
    (output_root / "tiny" / "dev").mkdir()
    (output_root / "tiny" / "metrics").rename(output_root / "tiny" / "dev" / "metrics")
    of_dev = build_report("tiny")
    shown = Page(of_dev.read_text("utf-8")).shown
    assert of_dev == output_root / "tiny" / "dev" / "report.html"
    assert "measured on dev" in shown
    assert "report --profile tiny --split dev" in shown
    assert of_test.read_bytes() == before


def test_the_page_follows_the_theme_the_phone_and_the_printer(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim()])
    text = build_report("tiny").read_text(encoding="utf-8")
    for rule in (
        "prefers-color-scheme: dark",
        "@media print",
        "max-width: 46rem",
        "localStorage",
        'name="viewport"',
    ):
        assert rule in text


def test_an_unexpected_verdict_is_in_the_title(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim(verdict="no_difference_shown", p=0.4)])
    shown = Page(build_report("tiny").read_text(encoding="utf-8")).shown
    assert "1 of 1 claims is not as expected" in shown
    assert "no difference shown, expected: improved" in shown
    assert "p = 0.4" in shown


def test_the_only_lesson_may_have_no_memory_measured(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim()], peak_cpu_mb=None)
    assert "not measured" in Page(build_report("tiny").read_text(encoding="utf-8")).shown


def test_memory_that_was_not_measured_is_said_and_gpu_memory_is_shown(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim()], peak_cpu_mb=None)
    write_lesson(output_root, "01_supervised_fine_tuning", [claim()], peak_gpu_mb=2345.0)
    shown = Page(build_report("tiny").read_text(encoding="utf-8")).shown
    assert "not measured" in shown
    assert "GPU 2,345 MB" in shown


def test_bars_of_time_and_memory_are_shares_of_the_largest(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim()], seconds=30, peak_cpu_mb=456.0)
    write_lesson(output_root, "01_supervised_fine_tuning", [claim()], seconds=120, peak_cpu_mb=912.0)
    text = build_report("tiny").read_text(encoding="utf-8")
    assert re.findall(r'<rect width="([\d.]+)%"', text) == ["25.0", "50.0", "100.0", "100.0"]
    assert "30 s" in text
    assert "2 min 0 s" in text


def test_lessons_that_ran_on_two_machines_are_told_apart(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim()])
    write_lesson(output_root, "01_supervised_fine_tuning", [claim()], versions={"torch": "2.99"})
    shown = Page(build_report("tiny").read_text(encoding="utf-8")).shown
    assert "torch 2.13.0 (lesson 00) 2.99 (lesson 01)" in shown
    assert "device cpu" in shown


def test_a_picture_keeps_its_colours_and_loses_bytes(output_root: Path) -> None:
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(6, 4))
    figure.subplots().bar(["a", "b", "c"], [1, 2, 3], color=["#d1495b", "#00798c", "#edae49"])
    show_figure(figure, "01_supervised_fine_tuning", "bars", "a picture", "tiny")
    ((_, path),) = lesson_figures("01_supervised_fine_tuning", "tiny")
    write_lesson(output_root, "01_supervised_fine_tuning", [claim()])
    source = Page(build_report("tiny").read_text(encoding="utf-8")).references[0]
    data = base64.b64decode(source.split(",")[1])
    assert len(data) < 0.7 * path.stat().st_size
    with Image.open(io.BytesIO(data)) as small, Image.open(path) as large:
        shrunk, kept = small.convert("RGB"), large.convert("RGB")
    for share in (0.2, 0.5, 0.8):
        place = (int(share * kept.width), int(0.8 * kept.height))
        assert all(abs(a - b) <= 8 for a, b in zip(shrunk.getpixel(place), kept.getpixel(place), strict=True))


def test_without_an_evaluation_the_page_says_which_command_makes_one(output_root: Path) -> None:
    write_lesson(output_root, "00_meet_the_base_model", [claim()])
    page = Page(build_report("tiny").read_text(encoding="utf-8"))
    assert "No model has been evaluated yet: python -m posttrain_helpers evaluate" in page.shown
    assert "leaderboard" in page.ids
    assert not {"frontier", "forgetting", "samples"} & {*page.ids, *page.targets}


def test_the_evaluation_alone_makes_a_page(output_root: Path) -> None:
    models = MODELS[:4]
    write_records(models)
    page = Page(build_report("tiny").read_text(encoding="utf-8"))
    assert f"{len(models)} models evaluated" in page.shown
    assert "No lesson has been run with this profile" in page.shown
    assert {"leaderboard", "frontier", "forgetting", "samples"} <= set(page.ids)
    assert not {"claims", "costs", "figures"} & {*page.ids, *page.targets}
    assert "2026-01-03 04:05 UTC" in page.shown


def test_the_evaluation_sections_show_the_numbers_of_the_board(output_root: Path) -> None:
    from posttrain_helpers.evaluation.board.board import Board

    models = MODELS[:6]
    write_lesson(output_root, "00_meet_the_base_model", [claim()])
    write_records(models)
    page = Page(build_report("tiny").read_text(encoding="utf-8"))
    shown = page.shown
    board = Board(read_records("tiny"))
    for kind in ("correctness", "preference"):
        for label, row in board.leaderboard(kind).iterrows():
            name = f"{label} reference" if label == "sft" else label
            assert f"{name} {row['ranks'].replace('-', '–')} {number(row['score'])}" in shown
    for label, row in board.frontier().iterrows():
        assert f"{label} {row['kl']:.3f} {row['kl_low']:.3f} to {row['kl_high']:.3f}" in shown
    (chart,) = page.descriptions
    for label, row in board.frontier().iterrows():
        assert f"{label} scores {number(row['gold'])} at {number(row['kl'])} nats." in chart
    assert shown_picture(page.references[0])[0] > 1000
    assert (output_root / "tiny" / "figures" / "report__frontier.png").read_bytes().startswith(b"\x89PNG")
    for value in board.retention().matrix().to_numpy().ravel():
        assert f"{value:+.3f}".replace("-", "−").replace("+0.000", "0.000") in shown
    assert "Prompt 20 of entities: what is the capital of Land20?" in shown
    assert f"{len(models) - 4} more models" in shown


def test_a_single_model_needs_no_comparison(output_root: Path) -> None:
    write_record(replace(quick_record("base"), divergence=None))
    page = Page(build_report("tiny").read_text(encoding="utf-8"))
    assert "1 model evaluated" in page.shown
    assert {"leaderboard", "samples"} <= set(page.ids)
    assert not {"forgetting", "frontier"} & {*page.ids, *page.targets}


def test_replies_are_text_and_long_ones_are_cut(output_root: Path) -> None:
    record = quick_record("base")
    suite = record.suites["entities"]
    replies = ("<script>alert(1)</script>" + 2000 * "x", "", *suite.replies[2:])
    write_record(replace(record, suites={"entities": replace(suite, replies=replies)}))
    text = build_report("tiny").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert 801 * "x" not in text


def test_a_broken_record_is_named(output_root: Path) -> None:
    write_records(["base"])
    path = output_root / "tiny" / "evaluation" / "base.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CourseError, match=r"base\.json is damaged: it is not valid JSON"):
        build_report("tiny")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_picture_is_named(output_root: Path, share: float) -> None:
    from matplotlib.figure import Figure

    write_lesson(output_root, "01_supervised_fine_tuning", [claim()])
    show_figure(Figure(figsize=(2, 2)), "01_supervised_fine_tuning", "loss", "a picture", "tiny")
    ((_, path),) = lesson_figures("01_supervised_fine_tuning", "tiny")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CourseError, match=r"__loss\.png \(\d+ bytes\) is no picture .* run its lesson again"):
        build_report("tiny")
    assert not (output_root / "tiny" / "report.html").exists()
