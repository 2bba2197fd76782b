"""The results of a lesson: written by its last cell, read by the report card.

A lesson ends with `write_results(...)`, which makes `<output>/<profile>/metrics/<lesson>.json`. The report
reads these files and nothing else, so every number that it shows was computed by a run. Figures that a lesson
registers with `show_figure(...)` lie in `<output>/<profile>/figures`; the report shows them below the claims.
What is measured on dev instead of test lies in `<output>/<profile>/dev`, so that neither replaces the other.
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, NonNegativeFloat

from posttrain_helpers.environment.paths import naming_file
from posttrain_helpers.environment.profiles import changes_in_force, get_profile
from posttrain_helpers.environment.schemas import plain, read_checked, write_checked
from posttrain_helpers.environment.splits import DEFAULT_SPLIT, reported_split, results_directory
from posttrain_helpers.environment.training_watch import trained_seconds
from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.claims import Bound, Claim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from posttrain_helpers.environment.runtime import Runtime
    from posttrain_helpers.memory.monitor import MemoryMonitor

LESSON_NAME = re.compile(r"[0-9]{2}[a-z]?(?:_[a-z0-9]+)+")  # without the "__" of a figure's file
_FIGURE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_REMEDY = "delete it and run its lesson again"


@dataclass(frozen=True)
class LessonResults:
    """What one lesson measured, field by field as in its metrics file.

    Args:
        lesson: the notebook's name without its ending, such as `01_supervised_fine_tuning`.
        profile: the profile that the lesson ran on.
        seed: the seed of the run.
        seconds: wall-clock time of the lesson.
        peak_cpu_mb: highest resident memory of the process in MB, None where it was not measured.
        peak_gpu_mb: highest GPU memory in MB, None without a GPU.
        versions: library name to version.
        claims: the paired before/after results; the first is the headline.
        bounds: what the lesson promises of single numbers; as all that follows, old files lack it.
        environment: where the lesson ran (device, dtype, threads, platform), as text or numbers, and the
            `changes` of the base model or of recipes, where a variable made some.
        written: when the file was written, ISO 8601 in UTC.
        extra: whatever else the lesson wants to keep; it must be plain JSON.
        split: the held-out split that the claims were measured on.
        training_seconds: of all trainings of the lesson; what it built because it was missing does not count.
        matmul_gflops: rate of float32 matrix products that `setup` measured, to compare times of two runs by;
            None where no `setup` measured it.
    """

    lesson: Annotated[str, AfterValidator(_checked_lesson)]
    profile: str
    seed: int
    seconds: NonNegativeFloat
    peak_cpu_mb: NonNegativeFloat | None
    peak_gpu_mb: NonNegativeFloat | None
    versions: dict[str, str]
    claims: Annotated[tuple[Annotated[Claim, AfterValidator(_checked_claim)], ...], Field(min_length=1)]
    bounds: tuple[Annotated[Bound, AfterValidator(_checked_bound)], ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    written: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    split: str = DEFAULT_SPLIT
    training_seconds: NonNegativeFloat = 0.0
    matmul_gflops: NonNegativeFloat | None = None

    @property
    def headline(self) -> Claim:
        """The lesson's first claim."""
        return self.claims[0]


def metrics_path(lesson: str, profile: str | None = None) -> Path:
    """Return the path of a lesson's metrics file, whether or not it exists."""
    return results_directory(profile) / "metrics" / f"{_checked_lesson(lesson)}.json"


def write_results(
    lesson: str,
    runtime: Runtime,
    claims: Sequence[Claim | Mapping[str, Any]],
    memory: MemoryMonitor | Sequence[MemoryMonitor] | None = None,
    seconds: float | None = None,
    extra: Mapping[str, Any] | None = None,
    bounds: Sequence[Bound | Mapping[str, Any]] = (),
) -> Path:
    """Check the results of a lesson and write them, whole or not at all.

    Args:
        lesson: the notebook's name without its ending.
        runtime: what `setup()` returned; gives profile, seed, versions and the start of the clock.
        claims: at least one; the first is the headline.
        memory: one monitor or several; the file keeps the highest peak.
        seconds: wall-clock time of the lesson; None means since `setup()`.
        extra: more values to keep, plain JSON.
        bounds: what the lesson promises of single numbers, beside the claims.

    Returns:
        The path of the file.

    Raises:
        CourseError: when a number is not finite or out of its range, a verdict unknown, or no claim given.
    """
    where = f"the results of {lesson!r}"
    changes = " ".join(f"{name}={os.environ[name].strip()}" for name in changes_in_force())
    monitors = [] if memory is None else list(memory) if isinstance(memory, Sequence) else [memory]
    results = LessonResults(
        lesson=lesson,
        profile=runtime.profile.name,
        seed=runtime.seed,
        seconds=time.time() - runtime.started if seconds is None else seconds,
        peak_cpu_mb=_highest(monitor.peak_cpu_mb for monitor in monitors),
        peak_gpu_mb=_highest(monitor.peak_gpu_mb for monitor in monitors),
        versions=dict(runtime.versions),
        claims=tuple(claims),
        bounds=tuple(bounds),
        environment={
            "device": str(runtime.device),
            "dtype": str(runtime.dtype).removeprefix("torch."),
            "precision": runtime.precision,
            "threads": runtime.threads,
            "platform": f"{platform.system()} {platform.machine()}",
            **({"changes": changes} if changes else {}),
        },
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        extra={str(key): plain(value, f"{where}, {key!r}") for key, value in (extra or {}).items()},
        split=reported_split(),
        training_seconds=trained_seconds(),
        matmul_gflops=runtime.matmul_gflops,
    )
    return write_checked(metrics_path(lesson, runtime.profile.name), results, where)


def read_results(profile: str | None = None) -> list[LessonResults]:
    """Read and check every metrics file of a profile.

    Args:
        profile: a profile's name; None is the default profile.

    Returns:
        The results in the order of the lessons; an empty list when no lesson has been run.

    Raises:
        CourseError: as `results_in`.
    """
    return results_in(results_directory(profile) / "metrics", get_profile(profile).name, reported_split())


def results_in(directory: Path, profile: str, split: str) -> list[LessonResults]:
    """Read and check every metrics file of a directory.

    Args:
        directory: it need not exist.
        profile, split: what its files must have been measured with.

    Returns:
        The results in the order of the lessons.

    Raises:
        CourseError: a file is no JSON, breaks the contract, or holds another lesson, profile or split than
            its place says; the sentence names it.
    """
    found = []
    for path in sorted(directory.glob("*.json")):
        results = read_metrics(path)
        is_of = (results.lesson, results.profile, results.split)
        if is_of != (path.stem, profile, split):
            raise CourseError(
                f"{path} holds the results of {' / '.join(is_of)}, which do not belong there; {_REMEDY}."
            )
        found.append(results)
    return found


def read_metrics(path: Path) -> LessonResults:
    """Read and check one metrics file.

    Raises:
        CourseError: it is no JSON, or breaks the contract.
    """
    return read_checked(LessonResults, path, _REMEDY)


def show_figure(figure: Figure, lesson: str, name: str, alt: str, profile: str | None = None) -> None:
    """Show a figure in the notebook, and save it as PNG where the report card finds it.

    Args:
        figure: of matplotlib.
        lesson: the notebook's name without its ending.
        name: a short name in lower case (letters, digits, `_`, `-`); it becomes the caption and the file
            `<output>/<profile>/figures/<lesson>__<name>.png`.
        alt: what the figure shows, in a sentence or two, for readers who cannot see it; the file holds it as
            its description.
        profile: a profile's name; None is the one in use.

    Raises:
        CourseError: when `lesson` or `name` has another form, or the text is empty.
    """
    from posttrain_helpers.plots import display_figure

    if not _FIGURE_NAME.fullmatch(name) or "__" in name:
        raise CourseError(
            f"a figure's name is lower-case letters, digits, '_' and '-', but {name!r} was given; "
            "choose a name such as 'loss_curve'."
        )
    if not alt.strip():
        raise CourseError(
            f"the figure {name!r} needs a text for readers who cannot see it: what does it show?"
        )
    write_png(figure, figures_directory(profile) / f"{_checked_lesson(lesson)}__{name}.png", alt)
    display_figure(figure, alt)


def lesson_figures(lesson: str, profile: str | None = None) -> list[tuple[str, Path]]:
    """Return the figures that a lesson registered, as (caption, path) in alphabetical order."""
    paths = sorted(figures_directory(profile).glob(f"{_checked_lesson(lesson)}__*.png"))
    return [(path.stem.split("__", 1)[1].replace("_", " "), path) for path in paths]


def figures_directory(profile: str | None = None) -> Path:
    """Return the directory of a profile's figures, whether or not it exists."""
    return results_directory(profile) / "figures"


def write_png(figure: Figure, path: Path, alt: str) -> Path:
    """Write a figure beside `path` and rename it, so that `path` is never half a picture.

    Args:
        figure: of matplotlib.
        path: of the PNG file, which holds `alt` as its description.
        alt: what the figure shows.
    """
    with naming_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".figure.", suffix=".tmp") as directory:
            # White behind the figure: a transparent one is unreadable in a dark theme.
            figure.savefig(
                Path(directory) / path.name,
                dpi=150,
                bbox_inches="tight",
                facecolor="white",
                metadata={"Description": alt},
            )
            return (Path(directory) / path.name).replace(path)


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _checked_lesson(lesson: str) -> str:
    if not LESSON_NAME.fullmatch(lesson):
        raise CourseError(
            f"a lesson's name looks like '01_supervised_fine_tuning', but {lesson!r} was given; "
            "use the notebook's file name without its ending."
        )
    return lesson


def _checked_claim(claim: Claim) -> Claim:
    """Check what the types of the fields leave open."""
    if not claim.name or claim.n < 1:
        raise ValueError(f"it needs a name and items, but its name is {claim.name!r} and n is {claim.n}")
    for key in ("p", "adjusted_p", "confidence"):
        share = getattr(claim, key)
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"{key} must be between 0 and 1, but it is {share}")
    if claim.low > claim.high:
        raise ValueError(f"its interval is {claim.low} to {claim.high}; the lower end is the larger")
    return claim


def _checked_bound(bound: Bound) -> Bound:
    if not bound.name:
        raise ValueError("it has no name")
    return bound
