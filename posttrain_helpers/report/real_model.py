"""The course with a real model beside the tiny one: `docs/real_model.md`.

    python -m posttrain_helpers real-model

takes up the results of past runs (see `real_model_results`) and writes the page: tables of both models, and
between them what people say about the numbers in `docs/real_model_notes.yaml`, which is only read. Without
new results the page comes out the same, on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain_helpers.environment.paths import repository_root, write_json_atomic, write_text_atomic
from posttrain_helpers.environment.schemas import checked
from posttrain_helpers.errors import CourseError
from posttrain_helpers.report.formats import interval, lesson_title, number, signed, words
from posttrain_helpers.report.fresh_seeds import (
    ESTABLISHED_SHARE,
    FEWEST_SEEDS,
    check_unchanged,
    held_often,
    spread,
    value_of,
)
from posttrain_helpers.report.real_model_results import (
    PROFILES,
    REAL,
    TINY,
    LessonRuns,
    Measured,
    StageCounts,
    data_path,
    found_records,
    found_runs,
    read_measured,
    with_new,
)
from posttrain_helpers.statistics.claims import Bound, Claim
from posttrain_helpers.statistics.paired_tests import format_p
from posttrain_helpers.wording import counted, duration

if TYPE_CHECKING:
    from posttrain_helpers.report.results import LessonResults

# The tiny model's claims are established by ten seeds; the real one takes minutes a lesson.
FEWEST_REAL_SEEDS = 3
NOT_RUN = "not run"
# What notes about the English suites are called, beside those about lessons.
ENGLISH = "english"
_HEAD = f"""\
# A real model beside the tiny one

The same notebooks, cell for cell, under two profiles: `{TINY}`, a model of 2 million parameters that was
made for this course, and `{REAL}`, SmolLM2-135M-Instruct, an assistant that was published for everybody.
Both answer the same held-out questions; in lessons 05 and 10 the pairs and problems are each profile's own.

`python -m posttrain_helpers real-model` writes this page; change nothing here. The numbers come from the
results of the lessons and are kept in [real_model.json](real_model.json); the texts between the tables stand
in [real_model_notes.yaml](real_model_notes.yaml). An interval is a 95 % interval of the paired difference.
*Established* means: held on at least {100 * ESTABLISHED_SHARE:.0f} % of {FEWEST_SEEDS} or more fresh seeds
(`{TINY}`), or on each of {FEWEST_REAL_SEEDS} or more (`{REAL}`).
"""
_ENGLISH_HEAD = """\
## What a real model forgets

Three small English suites, far from what the lessons train: instructions whose constraints a program checks,
second questions about a first reply, and requests of which some are to be declined. Each cell says how many
items were right, with the 95 % interval of the share, and in brackets how many were gained and lost against
the model that the stage was trained from, with the interval of the difference. The suites are small: a few
items more or less show nothing.
"""


@dataclass(frozen=True)
class Replies:
    """Two replies to read: one before, one after."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Note:
    """What a person says about a lesson.

    Attributes:
        text: a paragraph: what differs between the models, and why.
        replies: a few to read.
    """

    text: str = ""
    replies: tuple[Replies, ...] = ()


@dataclass(frozen=True)
class Held:
    """On how many seeds a claim held, how far its values lie apart, and whether that establishes it."""

    held: int
    seeds: int
    lowest: float
    highest: float
    established: bool

    def __str__(self) -> str:
        end = ", established" if self.established else ""
        return f"{self.held} of {self.seeds}, {number(self.lowest)} to {number(self.highest)}{end}"


def page_path() -> Path:
    """Return the path of the page."""
    return repository_root() / "docs" / "real_model.md"


def notes_path() -> Path:
    """Return the path of what people have written."""
    return repository_root() / "docs" / "real_model_notes.yaml"


def update_page(lessons: Sequence[str]) -> Path:
    """Take up what runs have left, and write the numbers and the page.

    Args:
        lessons: the names of all lessons, in reading order; those that were not run are listed as such.

    Returns:
        The path of the page.

    Raises:
        CourseError: a damaged file, notes about a lesson that does not exist, or a variable that asks for
            another base model, other recipes or another split.
    """
    check_unchanged("the page")
    notes = read_notes([*lessons, ENGLISH])
    measured = with_new(read_measured(), found_runs(), found_records())
    write_json_atomic(data_path(), asdict(measured))
    return write_text_atomic(page_path(), page(measured, lessons, notes))


def read_notes(names: Iterable[str]) -> dict[str, Note]:
    """Return what people have written, by lesson.

    Raises:
        CourseError: the file is damaged, or a text belongs to none of the names and would not be shown.
    """
    from posttrain_helpers.recipes.yaml_files import read_yaml
    from posttrain_helpers.wording import closest

    path, names = notes_path(), list(names)
    if not path.is_file():
        return {}
    notes = checked(dict[str, Note], read_yaml(path), str(path), remedy="correct it")
    for name in notes:
        if name not in names:
            raise CourseError(
                f"{path} has a text about {name!r}, which is no part of the page; {closest(name, names)}the "
                f"parts are {', '.join(names)}."
            )
    return notes


def page(measured: Measured, lessons: Sequence[str], notes: Mapping[str, Note]) -> str:
    """Return the page.

    Args:
        measured: the numbers.
        lessons: the names of all lessons, in reading order.
        notes: what people say, by lesson and under "english".
    """
    parts = [_HEAD, _overview(measured, lessons)]
    for lesson in lessons:
        runs = measured.lessons.get(lesson, {})
        if runs or lesson in notes:
            parts.append("\n".join(_lesson(lesson, runs)))
            parts += _note(notes.get(lesson))
    parts += [_ENGLISH_HEAD, "\n".join(_english(measured.english)), *_note(notes.get(ENGLISH))]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _row(head)
    yield _row(["---"] * len(head))
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _overview(measured: Measured, lessons: Sequence[str]) -> str:
    rows = []
    for lesson in lessons:
        runs = measured.lessons.get(lesson, {})
        names = dict.fromkeys(found.run.headline.name for found in runs.values())
        rows.append(
            [
                f"[{lesson_title(lesson)}](../notebooks/{lesson}.ipynb)",
                "; ".join(names) or "-",
                *(_short(runs.get(profile)) for profile in PROFILES),
            ]
        )
    return "\n".join(_table(["lesson", "its first claim", *PROFILES], rows))


def _short(found: LessonRuns | None) -> str:
    if found is None:
        return NOT_RUN
    claim = found.run.headline
    return f"{number(claim.before)} → {number(claim.after)}, {words(claim.verdict)}"


def _lesson(lesson: str, runs: Mapping[str, LessonRuns]) -> Iterator[str]:
    yield f"## {lesson_title(lesson)}\n"
    if not runs:
        yield f"{NOT_RUN[:1].upper()}{NOT_RUN[1:]}."
        return
    for name, profiles in _headlines(runs).items():
        yield f"**{name}**\n"
        columns = [_facts(lesson, profile, runs[profile]) for profile in profiles]
        others = [profile for profile in PROFILES if profile not in runs]
        head = ["", *profiles, *others]
        rows = [
            [fact, *(column[fact] for column in columns), *([NOT_RUN] * len(others))] for fact in columns[0]
        ]
        yield from _table(head, rows)
        yield ""
    yield from _further(lesson, runs)


def _headlines(runs: Mapping[str, LessonRuns]) -> dict[str, list[str]]:
    """Return which profiles have which first claim: the same, unless a lesson changed between the runs."""
    names: dict[str, list[str]] = {}
    for profile in PROFILES:
        if profile in runs:
            names.setdefault(runs[profile].run.headline.name, []).append(profile)
    return names


def _facts(lesson: str, profile: str, found: LessonRuns) -> dict[str, str]:
    """Return all that is said about a first claim and its run, fact by fact."""
    run, claim = found.run, found.run.headline
    held = _held(lesson, profile, claim, found)
    return {
        f"{claim.metric}, before → after": f"{number(claim.before)} → {number(claim.after)}",
        "difference": f"{signed(claim.difference)} ({interval(claim.low, claim.high)})",
        "items": f"{claim.n:,}",
        "test": format_p(claim.p, claim.p_at_floor),
        "verdict": _verdict(claim),
        "held on seeds": str(held) if held else "one run only",
        "time": f"{duration(run.seconds)}, training {duration(run.training_seconds)}",
        "peak memory": "not measured" if run.peak_cpu_mb is None else f"{run.peak_cpu_mb:,.0f} MB",
        "run": f"seed {run.seed}, {run.written[:10] or 'date unknown'}",
        "machine": _machine(run),
    }


def _verdict(claim: Claim) -> str:
    limit = "" if claim.at_least is None else f", at least {claim.at_least:g}"
    if claim.held:
        return f"{words(claim.verdict)}, as promised{limit}"
    return f"{words(claim.verdict)}; promised: {words(claim.expected)}{limit}"


def _machine(run: LessonResults) -> str:
    found = run.environment
    precision = "precision" if "precision" in found else "dtype"
    parts = [str(found[key]) for key in ("device", precision) if key in found]
    if "threads" in found:
        parts.append(counted(int(found["threads"]), "thread"))
    if run.matmul_gflops is not None:
        parts.append(f"{run.matmul_gflops:.0f} GFLOP/s")
    return ", ".join(parts) or "unknown"


def _held(lesson: str, profile: str, claim: Claim | Bound, found: LessonRuns) -> Held | None:
    """Return how a claim came out over seeds; None where only the run that is shown measured it."""
    if profile == TINY:
        table = spread(lesson)
        if claim.name not in table.index:
            return None
        row = table.loc[claim.name]
        held, seeds, enough = int(row["held"]), int(row["seeds"]), held_often(table, claim.name)
        return Held(held, seeds, float(row["lowest"]), float(row["highest"]), enough)
    values = [claims[claim.name] for claims in found.seeds.values() if claim.name in claims]
    if len(values) < 2:
        return None
    held, numbers = sum(value.held for value in values), [value.value for value in values]
    enough = len(values) >= FEWEST_REAL_SEEDS and held == len(values)
    return Held(held, len(values), min(numbers), max(numbers), enough)


def _further(lesson: str, runs: Mapping[str, LessonRuns]) -> Iterator[str]:
    """Yield the table of all claims but the first, and of the bounds."""
    found: dict[str, dict[str, str]] = {}
    for profile in PROFILES:
        if profile in runs:
            run = runs[profile].run
            for claim in (*run.claims[1:], *run.bounds):
                cell = _one_line(claim)
                if held := _held(lesson, profile, claim, runs[profile]):
                    cell += f"; seeds: {held}"
                found.setdefault(claim.name, {})[profile] = cell
    if found:
        missing = {p: "not measured" if p in runs else NOT_RUN for p in PROFILES}
        rows = [[name, *(cells.get(p, missing[p]) for p in PROFILES)] for name, cells in found.items()]
        yield from _table(["further claims", *PROFILES], rows)


def _one_line(claim: Claim | Bound) -> str:
    if isinstance(claim, Bound):
        return f"{number(value_of(claim))}, {'' if claim.held else 'not '}{claim.limits}"
    return (
        f"{number(claim.before)} → {number(claim.after)} ({interval(claim.low, claim.high)}), "
        f"n = {claim.n:,}, {_verdict(claim)}"
    )


def _english(stages: Mapping[str, StageCounts]) -> Iterator[str]:
    if not stages:
        yield "Not run: `python -m posttrain_helpers evaluate base sft --profile smollm2 --suites " + (
            "instructions_en,dialogues_en,refusals_en` measures it."
        )
        return
    names = list(dict.fromkeys(name for stage in stages.values() for name in stage.suites))
    rows = [
        [
            label,
            stage.against or "-",
            *(_cell(stage, name) for name in names),
            f"{duration(stage.seconds)}, {stage.device}, {stage.written[:10]}",
        ]
        for label, stage in stages.items()
    ]
    yield from _table(["model", "trained from", *names, "evaluation"], rows)


def _cell(stage: StageCounts, name: str) -> str:
    if name not in stage.suites:
        return NOT_RUN
    count = stage.suites[name]
    text = f"{count.right} of {count.n} ({interval(count.low, count.high)})"
    if count.change is None:
        return text
    change = count.change
    ends = " to ".join(signed(end) for end in (change.low, change.high))
    return f"{text} [+{change.gained} −{change.lost}: {ends}, {format_p(change.p)}]"


def _note(note: Note | None) -> Iterator[str]:
    if note is None:
        return
    if note.text.strip():
        yield note.text.strip()
    for replies in note.replies:
        turns = {"asked": replies.prompt, "before": replies.before, "after": replies.after}
        yield "\n>\n".join(f"> *{name}:* {_quoted(text)}" for name, text in turns.items())


def _quoted(text: str) -> str:
    """Return a text within a quotation: its lines stay, and nothing in it is HTML."""
    import html

    return "<br>".join(html.escape(text.strip(), quote=False).splitlines())
