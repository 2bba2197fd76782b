"""What was measured of the tiny model and of the real one: a small committed file, from which a page is made.

Runs leave results of lessons under both profiles in the output directory, those of more seeds of the real
model below `seeds`, and evaluations on the English suites. They are added to `docs/real_model.json`; what is
not there now stays as it was measured before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain_helpers.environment.paths import output_root, repository_root
from posttrain_helpers.environment.schemas import read_checked
from posttrain_helpers.environment.splits import DEFAULT_SPLIT
from posttrain_helpers.errors import CourseError
from posttrain_helpers.report.fresh_seeds import value_of
from posttrain_helpers.report.results import LessonResults, results_in

if TYPE_CHECKING:
    from posttrain_helpers.evaluation.records import EvaluationRecord, SuiteRecord

TINY, REAL = "tiny", "smollm2"
PROFILES = (TINY, REAL)
_REMEDY = "take it from the repository again, or delete it and run what it held"


@dataclass(frozen=True)
class SeedValue:
    """What one seed gave for a claim: whether it held, and its value."""

    held: bool
    value: float


@dataclass(frozen=True)
class LessonRuns:
    """A lesson under one profile.

    Attributes:
        run: what is shown: the run with the lowest seed.
        seeds: of every seed that ran (a text, as JSON has it), the claims and bounds by their name.
    """

    run: LessonResults
    seeds: dict[str, dict[str, SeedValue]]


@dataclass(frozen=True)
class Change:
    """A suite against another model: items gained and lost, and the interval of the difference."""

    gained: int
    lost: int
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class SuiteCount:
    """How many items of a suite a model got right, the interval of the share, and the change if any."""

    right: int
    n: int
    low: float
    high: float
    change: Change | None


@dataclass(frozen=True)
class StageCounts:
    """A model on the English suites.

    Attributes:
        against: the model that it was trained from, and is compared with; None for the first.
        suites: by name.
        seconds: of the evaluation.
        device, written: where and when.
    """

    against: str | None
    suites: dict[str, SuiteCount]
    seconds: float
    device: str
    written: str


@dataclass(frozen=True)
class Measured:
    """All that was measured: lessons by name and profile, and stages of the real model by label."""

    lessons: dict[str, dict[str, LessonRuns]] = field(default_factory=dict)
    english: dict[str, StageCounts] = field(default_factory=dict)


def data_path() -> Path:
    """Return the path of the committed numbers."""
    return repository_root() / "docs" / "real_model.json"


def read_measured() -> Measured:
    """Return what was measured before; nothing where there is no file yet."""
    return read_checked(Measured, data_path(), _REMEDY) if data_path().is_file() else Measured()


def found_runs() -> list[LessonResults]:
    """Return the results in the output directory: of both profiles, and of more seeds of the real one.

    Raises:
        CourseError: a file is damaged, holds another lesson, profile or split than its place says, or was
            measured with another base model or other recipes.
    """
    root = output_root()
    # The tiny model's seeds have a table of their own.
    directories = [(profile, root / profile / "metrics") for profile in PROFILES]
    directories += [(REAL, seed / REAL / "metrics") for seed in sorted((root / "seeds").glob("*"))]
    runs = []
    for profile, directory in directories:
        for results in results_in(directory, profile, DEFAULT_SPLIT):
            if changes := results.environment.get("changes"):
                raise CourseError(
                    f"{directory / results.lesson}.json was measured with {changes}, but the page is about "
                    "the course's own models and recipes; delete it and run its lesson again without."
                )
            runs.append(results)
    return runs


def found_records() -> list[EvaluationRecord]:
    """Return the evaluations of the real model in the output directory."""
    from posttrain_helpers.evaluation.records import read_records

    return read_records(REAL)


def with_new(
    measured: Measured, runs: Sequence[LessonResults], records: Sequence[EvaluationRecord]
) -> Measured:
    """Return what was measured before and now.

    Args:
        measured: before. A run of the same lesson, profile and seed gives way, as does a record of the same
            model.
        runs: results of lessons.
        records: evaluations; only their English suites count.
    """
    lessons = {name: dict(profiles) for name, profiles in measured.lessons.items()}
    for results in runs:
        profiles = lessons.setdefault(results.lesson, {})
        profiles[results.profile] = _with_run(profiles.get(results.profile), results)
    return Measured(lessons=lessons, english=measured.english | _counted(records))


def _with_run(before: LessonRuns | None, results: LessonResults) -> LessonRuns:
    seed = str(results.seed)
    values = {
        claim.name: SeedValue(claim.held, float(value_of(claim)))
        for claim in (*results.claims, *results.bounds)
    }
    seeds = {**(before.seeds if before else {}), seed: values}
    shown = before is None or results.seed <= before.run.seed
    return LessonRuns(
        run=replace(results, extra={}) if shown else before.run,
        seeds=dict(sorted(seeds.items(), key=lambda entry: int(entry[0]))),
    )


def _counted(records: Sequence[EvaluationRecord]) -> dict[str, StageCounts]:
    from posttrain_helpers.evaluation.suites.loading import ENGLISH_SETS
    from posttrain_helpers.models.manifest import BASE

    by_label = {record.label: record for record in records}
    counts = {}
    for label, record in by_label.items():
        parent = record.parent if record.parent in by_label else BASE
        other = by_label.get(parent) if label != BASE else None
        suites = {
            name: _count(suite, other.suites.get(name) if other else None)
            for name, suite in record.suites.items()
            if name in ENGLISH_SETS
        }
        if suites:
            against = parent if other else None
            counts[label] = StageCounts(against, suites, record.seconds, record.device, record.written)
    return counts


def _count(suite: SuiteRecord, other: SuiteRecord | None) -> SuiteCount:
    from posttrain_helpers.statistics.intervals import wilson_interval
    from posttrain_helpers.statistics.paired_tests import paired_binary

    scores = _scores(suite)
    right, n = sum(scores.values()), len(scores)
    before = _scores(other) if other else {}
    if scores.keys() != before.keys():  # not measured, or on other items
        return SuiteCount(right, n, *wilson_interval(right, n), None)
    result = paired_binary(list(before.values()), [scores[item] for item in before])
    change = Change(result.up, result.down, result.low, result.high, result.p)
    return SuiteCount(right, n, *wilson_interval(right, n), change)


def _scores(suite: SuiteRecord) -> Mapping[str, bool]:
    """Return for every item that can be scored whether the reply was right."""
    pairs = zip(suite.ids, suite.headline, strict=True)
    return {item: bool(score) for item, score in pairs if score is not None}
