"""The report card: one page with every claim, its interval and what it cost, made of the metrics files only.

    python -m posttrain_helpers report

The page needs no other file: pictures are embedded, and it follows the reader's light or dark theme.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.results import (
    LessonResults,
    figures_directory,
    lesson_figures,
    read_results,
    write_png,
)
from posttrain_helpers.storage import output_root, write_text_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from posttrain_helpers.statistics import Claim

_EXPECTED_COLOUR = "#2563b0"
_UNEXPECTED_COLOUR = "#b3261e"
_TEMPLATE = "report_template.html"


@dataclass(frozen=True)
class Axis:
    """The common scale of all differences of one metric.

    Args:
        metric: the metric's name.
        ticks: round values in ascending order; the first and the last are the ends of the axis.
    """

    metric: str
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Return where `value` lies on the axis, in percent of its length."""
        low, high = self.ticks[0], self.ticks[-1]
        return 100 * (value - low) / (high - low)


def build_report(profile: str | None = None) -> Path:
    """Write the report card of a profile, and its two charts as PNG files for slides.

    Args:
        profile: a profile's name; None is the default profile.

    Returns:
        The path of the page, `<output>/<profile>/report.html`.

    Raises:
        CourseError: when no lesson of this profile has been run, or a metrics file breaks the contract.
    """
    from jinja2 import Environment, StrictUndefined

    from posttrain_helpers.profiles import get_profile

    name = get_profile(profile).name
    lessons = read_results(name)
    if not lessons:
        raise CourseError(
            f"there is nothing to report: no lesson has been run with profile {name!r}; "
            f"run `python -m posttrain_helpers run --profile {name}` first."
        )
    directory = figures_directory(name)
    write_png(forest_plot(lessons), directory / "report__forest.png")
    write_png(cost_plot(lessons), directory / "report__time_and_memory.png")

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        title=lesson_title, number=number, signed=signed, tick_label=tick_label, words=_words
    )
    template = environment.from_string(Path(__file__).with_name(_TEMPLATE).read_text(encoding="utf-8"))
    page = template.render(
        profile=name,
        lessons=lessons,
        groups=_groups(lessons),
        surprises=[claim for result in lessons for claim in result.claims if claim.verdict != claim.expected],
        claim_count=sum(len(result.claims) for result in lessons),
        total_time=duration(sum(result.seconds for result in lessons)),
        costs=_costs(lessons),
        pictures=_pictures(lessons, name),
        places=_places(lessons),
        newest=_moment(max(result.written for result in lessons)),
        p_value=p_value,
    )
    return write_text_atomic(output_root() / name / "report.html", page)


def forest_plot(lessons: list[LessonResults]) -> Figure:
    """Draw the difference of every claim with its interval, one panel for each metric."""
    from matplotlib.figure import Figure

    groups = _groups(lessons)
    heights = [len(rows) for _, rows in groups]
    fig = Figure(figsize=(9, 0.9 * len(groups) + 0.5 * sum(heights)), layout="constrained")
    panels = fig.subplots(len(groups), 1, squeeze=False, height_ratios=[height + 0.6 for height in heights])[
        :, 0
    ]
    for panel, (axis, rows) in zip(panels, groups, strict=True):
        for place, (_, claim) in enumerate(rows):
            colour = _EXPECTED_COLOUR if claim.verdict == claim.expected else _UNEXPECTED_COLOUR
            panel.plot(
                [claim.low, claim.high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt"
            )
            panel.plot(claim.difference, place, "o", color=colour, markersize=7)
            panel.annotate(
                f"{signed(claim.difference)} ({signed(claim.low)} to {signed(claim.high)})\n"
                f"{_words(claim.verdict)}{_surprise(claim)}, n = {claim.n}",
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
            )
        panel.axvline(0, color="#888888", linewidth=1, zorder=0)
        panel.set_yticks(
            range(len(rows)), [f"{lesson[:2]}  {claim.name}" for lesson, claim in rows], fontsize=9
        )
        panel.set_ylim(len(rows) - 0.4, -0.6)
        panel.set_xlim(axis.ticks[0], axis.ticks[-1])
        panel.set_title(f"{_words(axis.metric)}: difference, with its interval", fontsize=9, loc="left")
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    return fig


def cost_plot(lessons: list[LessonResults]) -> Figure:
    """Draw the time and the peak memory of every lesson."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9, 1.2 + 0.4 * len(lessons)), layout="constrained")
    time_panel, memory_panel = fig.subplots(1, 2, sharey=True)
    places = list(range(len(lessons)))
    time_panel.barh(places, [result.seconds for result in lessons], color=_EXPECTED_COLOUR)
    time_panel.set_xlabel("seconds")
    kinds = [("CPU", [result.peak_cpu_mb for result in lessons], _EXPECTED_COLOUR)]
    if any(result.peak_gpu_mb is not None for result in lessons):
        kinds.append(("GPU", [result.peak_gpu_mb for result in lessons], "#d98324"))
    height = 0.8 / len(kinds)
    for index, (kind, peaks, colour) in enumerate(kinds):
        centres = [place + (index - (len(kinds) - 1) / 2) * height for place in places]
        memory_panel.barh(centres, [peak or 0 for peak in peaks], height=height, color=colour, label=kind)
    if len(kinds) > 1:
        memory_panel.legend(frameon=False)
    memory_panel.set_xlabel("peak memory in MB")
    time_panel.set_yticks(places, [lesson_title(result.lesson) for result in lessons], fontsize=9)
    time_panel.invert_yaxis()
    for panel in (time_panel, memory_panel):
        panel.spines[["top", "right"]].set_visible(False)
    return fig


def lesson_title(lesson: str) -> str:
    """Return a lesson's name for readers: `01_supervised_fine_tuning` becomes `01 Supervised fine tuning`."""
    order, _, words = lesson.partition("_")
    return f"{order} {words.replace('_', ' ').capitalize()}"


def number(value: float) -> str:
    """Return a number with as many digits as readers compare, and a true minus sign."""
    size = abs(value)
    if size >= 1000:
        text = f"{value:,.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    else:
        text = f"{value:.3f}" if size >= 0.0005 or size == 0 else f"{value:.1g}"
    return text.replace("-", "−")


def tick_label(value: float) -> str:
    """Return the label of a round value on an axis."""
    return f"{value:g}".replace("-", "−")


def signed(value: float) -> str:
    """Return a number as `number` does, with its sign; zero has none."""
    return f"+{number(value)}" if value > 0 else number(value + 0.0)


def duration(seconds: float) -> str:
    """Return a time for readers, such as `48 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _words(name: str) -> str:
    return {"non_inferior": "non-inferior"}.get(name, name.replace("_", " "))


def _surprise(claim: Claim) -> str:
    return "" if claim.verdict == claim.expected else f" (expected: {_words(claim.expected)})"


def _moment(written: str) -> str:
    return f"{written[:16].replace('T', ' ')} UTC" if written else "an unknown time"


def p_value(p: float) -> str:
    """Return a p-value for readers, such as `p = 0.031`, or `p < 0.0001`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def _groups(lessons: list[LessonResults]) -> list[tuple[Axis, list[tuple[str, Claim]]]]:
    """Return all claims by metric, each metric with an axis that holds its intervals and zero."""
    from matplotlib.ticker import MaxNLocator

    rows: dict[str, list[tuple[str, Claim]]] = {}
    for result in lessons:
        for claim in result.claims:
            rows.setdefault(claim.metric, []).append((result.lesson, claim))
    groups = []
    for metric, claims in rows.items():
        low = min(0.0, *(min(claim.low, claim.difference) for _, claim in claims))
        high = max(0.0, *(max(claim.high, claim.difference) for _, claim in claims))
        if low == high:  # nothing changed anywhere: any axis around zero will do
            low, high = -1.0, 1.0
        ticks = MaxNLocator(nbins=4).tick_values(low, high)
        groups.append((Axis(metric, tuple(float(tick) for tick in ticks)), claims))
    return groups


def _costs(lessons: list[LessonResults]) -> list[dict[str, Any]]:
    """Return time and memory per lesson, with the share of the largest in percent for the bars."""
    longest = max(result.seconds for result in lessons) or 1.0
    largest = max((result.peak_cpu_mb or 0.0 for result in lessons), default=0.0) or 1.0
    return [
        {
            "result": result,
            "time": duration(result.seconds),
            "time_share": 100 * result.seconds / longest,
            "memory_share": 100 * (result.peak_cpu_mb or 0.0) / largest,
        }
        for result in lessons
    ]


def _pictures(lessons: list[LessonResults], profile: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return (lesson, [(caption, PNG as base64)]) for the lessons that registered figures."""
    return [
        (
            result.lesson,
            [(caption, base64.b64encode(path.read_bytes()).decode("ascii")) for caption, path in found],
        )
        for result in lessons
        if (found := lesson_figures(result.lesson, profile))
    ]


def _places(lessons: list[LessonResults]) -> list[tuple[list[str], dict[str, Any]]]:
    """Return the distinct environments, each with the lessons that ran there."""
    places: list[tuple[list[str], dict[str, Any]]] = []
    for result in lessons:
        values = {**result.environment, **result.versions}
        for names, known in places:
            if known == values:
                names.append(lesson_title(result.lesson))
                break
        else:
            places.append(([lesson_title(result.lesson)], values))
    return places
