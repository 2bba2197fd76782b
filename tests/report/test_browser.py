"""The report card in a real browser: phone and desk, light and dark. Skipped where there is none."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_records import MODELS, SUITES, write_records
from lesson_records import claim, write_lesson

BROWSER = next(
    filter(
        None,
        map(
            shutil.which,
            ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge"),
        ),
    ),
    None,
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path")

PHONE, DESK = WIDTHS = (390, 1280)
SECTIONS = [
    "headlines", "leaderboard", "frontier", "forgetting", "samples",
    "claims", "costs", "figures", "environment",
]  # fmt: skip
LESSON = "01_supervised_fine_tuning"
CONTRAST = 4.5  # WCAG 2.2, level AA, for text of any size
CATCH = (
    "<script>window.caught = [];"
    " addEventListener('error', (e) => caught.push(e.message || 'not loaded'), true);"
    " addEventListener('securitypolicyviolation', (e) => caught.push(e.blockedURI));</script>"
)


def chromium(directory: Path, *arguments: str) -> str:
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--allow-file-access-from-files", f"--user-data-dir={directory / 'profile'}", *arguments,
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    return found.stdout


def measured(directory: Path, page: str, *arguments: str) -> list[dict[str, Any]]:
    """Show a page in a frame of each width (a headless window cannot be as narrow) and measure it there."""
    directory.mkdir(exist_ok=True)
    (directory / "report.html").write_text(page.replace("<head>", f"<head>{CATCH}", 1), encoding="utf-8")
    frames = "".join(
        f'<iframe src="report.html" style="width: {width}px; height: 900px; border: 0"></iframe>'
        for width in WIDTHS
    )
    script = Path(__file__).with_name("measure.js").read_text(encoding="utf-8")
    wrapper = directory / "wrapper.html"
    wrapper.write_text(
        f"<!doctype html><meta charset=utf-8><body>{frames}<script>{script}</script>", encoding="utf-8"
    )
    shown = chromium(
        directory,
        "--window-size=1400,1000",
        "--virtual-time-budget=20000",
        "--dump-dom",
        *arguments,
        wrapper.as_uri(),
    )
    result = re.search(r'<pre id="result">(.*?)</pre>', shown, re.DOTALL)
    assert result, f"the page was not measured:\n{shown[-2000:]}"
    return json.loads(html.unescape(result[1]))


def problems(found: dict[str, Any]) -> list[str]:
    """Return what is wrong with a page that shows the lesson, the figure and the models of `report_page`."""
    wrong = [f"{name} leaves the window" for name in found["outside"]]
    if found["overflow"] > 0:
        wrong.append(f"the page is {found['overflow']} px wider than the window")
    wrong += [f"{name} hides its end" for name in found["cut"]]
    if found["width"] == DESK:
        wrong += [f"{name} scrolls by {pixels} px" for name, pixels in found["scrolled"]]
    wrong += [f"section {name} is missing" for name in SECTIONS if not found["sections"].get(name)]
    wrong += [f"nothing links to {name}" for name in SECTIONS if name not in found["linked"]]
    wrong += [f"the table {caption[:30]!r} is empty" for caption, *sizes in found["tables"] if not all(sizes)]
    wrong += [f"a table lacks its caption: {sizes}" for caption, *sizes in found["tables"] if not caption]
    if len(found["tables"]) != 6:  # two leaderboards, style, frontier, forgetting, costs
        wrong.append(f"{len(found['tables'])} tables instead of 6")
    wrong += [f"the drawing {name!r} is empty" for name, size in found["drawings"] if not size or not name]
    wrong += [f"{found['headings']} headings skip a level"] if found["headings"] else []
    wrong += [f"the picture {name!r} is not shown" for name, size in found["pictures"].items() if not size]
    if len(found["pictures"]) != 2:  # the frontier and the lesson's figure
        wrong.append(f"{len(found['pictures'])} pictures instead of 2")
    for look in (found["first"], found["second"]):
        wrong += [
            f"contrast {ratio:.1f} of {name} in the {look['theme']} theme"
            for name, ratio in look["contrast"].items()
            if ratio < CONTRAST
        ]
    return wrong + [f"script error: {message}" for message in found["errors"]]


@pytest.fixture(scope="module")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A report with lessons, a figure and evaluation records; one claim is not as expected."""
    from matplotlib.figure import Figure

    from posttrain_helpers.report.page import build_report
    from posttrain_helpers.report.results import show_figure

    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTTRAIN_OUTPUT", str(root))
        write_lesson(root, "00_meet_the_base_model", [claim(verdict="worse", low=-0.4, difference=-0.3)])
        write_lesson(root, LESSON, [claim(), claim(metric="gold_score", name="gold" * 30)], peak_gpu_mb=12.0)
        figure = Figure(figsize=(9, 3))
        figure.subplots().plot([1, 2, 3])
        show_figure(figure, LESSON, "loss_curve", "a picture", "tiny")
        write_records()
        yield build_report("tiny")


@pytest.fixture(scope="module")
def light(report_page: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return measured(tmp_path_factory.mktemp("light"), report_page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("index", range(len(WIDTHS)), ids=map(str, WIDTHS))
def test_the_page_is_whole_and_readable(light: list[dict[str, Any]], index: int) -> None:
    found = light[index]
    assert found["width"] == WIDTHS[index]
    assert problems(found) == []
    assert set(found["sections"]) == set(SECTIONS) == set(found["linked"])
    assert [rows for _, _, heads, rows in found["tables"] if heads != rows] == []
    assert sorted(rows for *_, rows in found["tables"])[-3:] == [len(MODELS)] * 3


def test_the_button_turns_the_theme_and_turns_it_back(light: list[dict[str, Any]]) -> None:
    for found in light:
        assert (found["first"]["theme"], found["second"]["theme"], found["third"]) == (
            "light",
            "dark",
            "light",
        )
        assert found["first"]["page"] != found["second"]["page"]
        assert found["stored"] == "dark"


def test_the_choice_is_kept(report_page: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    choose = "<head><script>localStorage.setItem('report-theme', 'dark')</script>"
    page.write_text(report_page.read_text(encoding="utf-8").replace("<head>", choose, 1), encoding="utf-8")
    shown = chromium(tmp_path, "--dump-dom", page.as_uri())
    assert '<html lang="en" class="scripted" data-theme="dark">' in shown


def test_the_page_follows_a_dark_system_and_needs_no_storage(
    report_page: Path, light: list[dict[str, Any]], tmp_path: Path
) -> None:
    refuse = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } });"
    page = report_page.read_text(encoding="utf-8").replace("<head>", f"<head><script>{refuse}</script>", 1)
    for found, usual in zip(
        measured(tmp_path, page, "--blink-settings=preferredColorScheme=0"), light, strict=True
    ):
        assert (found["first"]["theme"], found["second"]["theme"]) == ("dark", "light")
        assert found["stored"] == "refused"
        assert found["first"]["page"] == usual["second"]["page"]
        assert problems(found) == []


def test_printing_unfolds_everything_and_folds_it_again(light: list[dict[str, Any]]) -> None:
    for found in light:
        before, opened, after = found["folded"]
        assert opened == 0
        assert before == after > len(SUITES)


def test_the_checks_can_fail(report_page: Path, tmp_path: Path) -> None:
    page = report_page.read_text(encoding="utf-8")
    page = re.sub(r'<section id="costs">.*?</section>', "", page, count=1, flags=re.DOTALL)
    page = re.sub(r"base64,[^\"]+", "base64,AAAA", page)
    broken = (
        '<p class="long" style="width: 3000px">too wide</p>'
        '<p class="clipped" style="width: 2rem; overflow: hidden; white-space: nowrap">a line that is cut</p>'
        '<p class="pale" style="color: #999; background: #aaa">hardly to be read</p>'
        "<h5>too deep</h5><table><tr></tr></table><table><tr></tr></table>"
        '<svg role="img" aria-label="flat" style="height: 0"></svg>'
        "<script>throw new Error('on purpose');</script>"
    )
    page = page.replace("</main>", f"{broken}</main>")
    for found in measured(tmp_path, page):
        wrong = "\n".join(problems(found))
        for expected in (
            "p.long leaves the window",
            "px wider than the window",
            "p.clipped hides its end",
            "section costs is missing",
            "a table lacks its caption",
            "7 tables instead of 6",
            "the drawing 'flat' is empty",
            "1 headings skip a level",
            "the picture 'a picture' is not shown",
            "of p.pale in the light theme",
            "of p.pale in the dark theme",
            "script error: Uncaught Error: on purpose",
        ):
            assert expected in wrong
