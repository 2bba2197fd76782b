"""The report card: one page with every claim, every model and what it cost, made of JSON files only.

    python -m posttrain_helpers report

The metrics files of the lessons give the claims; the evaluation records give the leaderboard, the reward-KL
chart, the table of what each model forgot and the samples. The page needs no other file: styles, script and
pictures are embedded, and it follows the reader's light or dark theme, a narrow screen, and the printer.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from posttrain_helpers.environment.paths import write_text_atomic
from posttrain_helpers.environment.rendering import html_environment
from posttrain_helpers.environment.splits import DEFAULT_SPLIT, reported_split, results_directory
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.records import read_records
from posttrain_helpers.report.claims import (
    claim_groups,
    environments,
    fresh_seeds,
    headline_cards,
)
from posttrain_helpers.report.formats import (
    interval,
    lesson_title,
    moment,
    number,
    signed,
    tick_label,
    words,
)
from posttrain_helpers.report.fresh_seeds import is_measured_world
from posttrain_helpers.report.leaderboards import board_view, draw_frontier
from posttrain_helpers.report.results import (
    LessonResults,
    figures_directory,
    lesson_figures,
    read_results,
    write_png,
)
from posttrain_helpers.statistics.paired_tests import format_p
from posttrain_helpers.wording import duration

_TEMPLATES = Path(__file__).with_name("templates")


def build_report(profile: str | None = None) -> Path:
    """Write the report card of a profile, and its chart of the frontier as a PNG file for slides.

    Args:
        profile: a profile's name; None is the default profile.

    Returns:
        The path of the page, `<output>/<profile>/report.html`; below `dev` for that split.

    Raises:
        CourseError: when neither a lesson of this profile has been run nor a model evaluated, or a file
            breaks its contract or is no picture.
    """
    from posttrain_helpers.environment.profiles import get_profile
    from posttrain_helpers.evaluation.board.board import Board

    name = get_profile(profile).name
    lessons, records = read_results(name), read_records(name)
    if not lessons and not records:
        raise CourseError(
            f"there is nothing to report: no lesson has been run with profile {name!r}; "
            f"run `python -m posttrain_helpers run{_options(name)}` first."
        )
    evaluation = chart = None
    if records:
        board = Board(records)
        evaluation = board_view(board)
        if evaluation["frontier"]:
            chart = _embedded(
                write_png(
                    draw_frontier(board),
                    figures_directory(name) / "report__frontier.png",
                    alt="Reward-KL frontier of the evaluated models.",
                )
            )

    templates = html_environment(_TEMPLATES)
    templates.filters.update(
        title=lesson_title,
        number=number,
        signed=signed,
        tick_label=tick_label,
        words=words,
        duration=duration,
    )
    # Nobody is to take the seeds of one model, or of its test items, for those of another.
    seen = fresh_seeds if is_measured_world(get_profile(name)) else None
    templates.globals.update(fresh_seeds=seen, interval=interval, format_p=format_p)
    page = templates.get_template("page.html").render(
        profile=name,
        split=reported_split(),
        options=_options(name),
        evaluation=evaluation,
        chart=chart,
        **_lessons_view(lessons, name),
        **_origin(lessons, evaluation),
    )
    return write_text_atomic(results_directory(name) / "report.html", page)


def _options(profile: str) -> str:
    """Return the options that name a profile and, where it is not the usual one, the reported split."""
    split = reported_split()
    return f" --profile {profile}" + (f" --split {split}" if split != DEFAULT_SPLIT else "")


def _lessons_view(lessons: list[LessonResults], profile: str) -> dict[str, Any]:
    """Return what the sections of the lessons show; without a lesson they are empty."""
    claims = [(result.lesson, claim) for result in lessons for claim in result.claims]
    bounds = [(result.lesson, bound) for result in lessons for bound in result.bounds]
    return {
        "lessons": lessons,
        "cards": headline_cards(lessons),
        "groups": claim_groups(lessons),
        "claims": claims,
        "bounds": bounds,
        "surprises": [(lesson, claim) for lesson, claim in claims if not claim.held],
        "broken": [(lesson, bound) for lesson, bound in bounds if not bound.held],
        "total_time": duration(sum(result.seconds for result in lessons)),
        "pictures": _pictures(lessons, profile),
    }


def _origin(lessons: list[LessonResults], evaluation: dict[str, Any] | None) -> dict[str, Any]:
    """Return where and when the numbers were made."""
    sources = [
        (f"lesson {result.lesson.partition('_')[0]}", {**result.environment, **result.versions})
        for result in lessons
    ]
    written = [result.written for result in lessons]
    if evaluation is not None:
        sources += evaluation["sources"]
        written.append(evaluation["written"])
    return {"environments": environments(sources), "newest": moment(max(written))}


def _pictures(lessons: list[LessonResults], profile: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (lesson, figures) for the lessons that have some; a figure is a caption and a picture."""
    return [
        (result.lesson, [{"caption": caption, **_embedded(path)} for caption, path in found])
        for result in lessons
        if (found := lesson_figures(result.lesson, profile))
    ]


def _embedded(path: Path) -> dict[str, Any]:
    """Return a PNG file as base64 with its size in pixels and its description.

    It becomes a palette of 256 colours where that is smaller.

    The charts of a lesson have few colours, so a palette shows them alike in half of the bytes. The files on
    disk stay as they are.
    """
    from PIL import Image

    data, buffer = path.read_bytes(), io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as image:
            (width, height), alt = image.size, image.info.get("Description", "")
            canvas = Image.new("RGBA", image.size, "white")
            canvas.alpha_composite(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises
        raise CourseError(
            f"{path} ({len(data)} bytes) is no picture that can be read; delete it and run its lesson again."
        ) from error
    canvas.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    smaller = min(data, buffer.getvalue(), key=len)
    return {
        "data": base64.b64encode(smaller).decode("ascii"),
        "width": width,
        "height": height,
        "alt": alt,
    }
