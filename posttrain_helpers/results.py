"""The results of a lesson: written by its last cell, read by the report card.

A lesson ends with `write_results(...)`, which makes `<output>/<profile>/metrics/<lesson>.json`. The report
reads these files and nothing else, so every number that it shows was computed by a run. Figures that a lesson
registers with `save_figure(...)` lie in `<output>/<profile>/figures`; the report shows them below the claims.
"""

from __future__ import annotations

import json
import math
import platform
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.storage import output_root, write_json_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from posttrain_helpers.memory import MemoryMonitor
    from posttrain_helpers.runtime import Runtime
    from posttrain_helpers.statistics import Bound, Claim

_LESSON_NAME = re.compile(r"\d\d_[a-z0-9_]+")
_FIGURE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_CLAIM_TEXTS = ("name", "metric", "expected", "verdict")
_CLAIM_NUMBERS = ("before", "after", "difference", "low", "high", "p")
# Files of earlier versions lack them.
_CLAIM_OPTIONS = ("at_least", "confidence", "p_at_floor", "adjusted_p")


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
        environment: where the lesson ran (device, dtype, threads, platform), as text or numbers.
        written: when the file was written, ISO 8601 in UTC.
        extra: whatever else the lesson wants to keep; it must be plain JSON.
        bounds: what the lesson promises of single numbers.
    """

    lesson: str
    profile: str
    seed: int
    seconds: float
    peak_cpu_mb: float | None
    peak_gpu_mb: float | None
    versions: dict[str, str]
    claims: tuple[Claim, ...]
    environment: dict[str, Any] = field(default_factory=dict)
    written: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    bounds: tuple[Bound, ...] = ()

    @property
    def headline(self) -> Claim:
        """The lesson's first claim."""
        return self.claims[0]


def metrics_path(lesson: str, profile: str | None = None) -> Path:
    """Return the path of a lesson's metrics file, whether or not it exists."""
    return output_root() / _profile_name(profile) / "metrics" / f"{_checked_lesson(lesson)}.json"


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
        CourseError: when a field is missing, a number is not finite, a verdict unknown, or no claim given.
    """
    profile = _runtime_profile(runtime)
    monitors = [] if memory is None else list(memory) if isinstance(memory, Sequence) else [memory]
    record = {
        "lesson": lesson,
        "profile": profile,
        "seed": runtime.seed,
        "seconds": time.time() - runtime.started if seconds is None else seconds,
        "peak_cpu_mb": _highest(monitor.peak_cpu_mb for monitor in monitors),
        "peak_gpu_mb": _highest(monitor.peak_gpu_mb for monitor in monitors),
        "versions": dict(runtime.versions),
        "claims": [dict(claim) if isinstance(claim, Mapping) else asdict(claim) for claim in claims],
        "bounds": [dict(bound) if isinstance(bound, Mapping) else asdict(bound) for bound in bounds],
        "environment": {
            "device": str(runtime.device),
            "dtype": str(runtime.dtype).removeprefix("torch."),
            "threads": runtime.threads,
            "platform": f"{platform.system()} {platform.machine()}",
        },
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "extra": dict(extra or {}),
    }
    record = _plain(record, f"the results of {lesson!r}")
    _checked_record(record, f"the results of {lesson!r}")
    return write_json_atomic(metrics_path(lesson, profile), record)


def read_results(profile: str | None = None) -> list[LessonResults]:
    """Read and check every metrics file of a profile.

    Args:
        profile: a profile's name; None is the default profile.

    Returns:
        The results in the order of the lessons; an empty list when no lesson has been run.

    Raises:
        CourseError: when a file is no JSON or breaks the contract; the sentence names the file.
    """
    from posttrain_helpers.statistics import Bound, Claim

    found = []
    for path in sorted((output_root() / _profile_name(profile) / "metrics").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CourseError(
                f"{path} is not valid JSON ({error}); delete it and run its lesson again."
            ) from error
        _checked_record(record, str(path))
        if record["lesson"] != path.stem:
            raise CourseError(
                f"{path} holds the results of {record['lesson']!r}; delete it and run that lesson again."
            )
        known = {item.name for item in fields(LessonResults)}
        values = {key: value for key, value in record.items() if key in known}
        values["claims"] = tuple(Claim(**claim) for claim in record["claims"])
        values["bounds"] = tuple(Bound(**bound) for bound in record.get("bounds", ()))
        found.append(LessonResults(**values))
    return found


def save_figure(fig: Figure, lesson: str, name: str, profile: str | None = None) -> Path:
    """Save a figure as PNG where the report card finds it.

    Args:
        fig: a matplotlib figure.
        lesson: the notebook's name without its ending.
        name: a short name in lower case (letters, digits, `_`, `-`); it becomes the caption.
        profile: a profile's name; None is the default profile.

    Returns:
        The path `<output>/<profile>/figures/<lesson>__<name>.png`.

    Raises:
        CourseError: when `lesson` or `name` has another form.
    """
    if not _FIGURE_NAME.fullmatch(name) or "__" in name:
        raise CourseError(
            f"a figure's name is lower-case letters, digits, '_' and '-', but {name!r} was given; "
            "choose a name such as 'loss_curve'."
        )
    return write_png(fig, figures_directory(profile) / f"{_checked_lesson(lesson)}__{name}.png")


def lesson_figures(lesson: str, profile: str | None = None) -> list[tuple[str, Path]]:
    """Return the figures that a lesson registered, as (caption, path) in alphabetical order."""
    paths = sorted(figures_directory(profile).glob(f"{_checked_lesson(lesson)}__*.png"))
    return [(path.stem.split("__", 1)[1].replace("_", " "), path) for path in paths]


def figures_directory(profile: str | None = None) -> Path:
    """Return the directory of a profile's figures, whether or not it exists."""
    return output_root() / _profile_name(profile) / "figures"


def write_png(fig: Figure, path: Path) -> Path:
    """Write a figure beside `path` and rename it, so that `path` is never half a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".figure.") as directory:
        # White behind the figure: a transparent one is unreadable in a dark theme.
        fig.savefig(Path(directory) / path.name, dpi=150, bbox_inches="tight", facecolor="white")
        return (Path(directory) / path.name).replace(path)


def _profile_name(profile: str | None) -> str:
    from posttrain_helpers.profiles import get_profile

    return get_profile(profile).name


def _runtime_profile(runtime: Runtime) -> str:
    return str(getattr(runtime.profile, "name", runtime.profile))


def _highest(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _checked_lesson(lesson: str) -> str:
    if not _LESSON_NAME.fullmatch(lesson):
        raise CourseError(
            f"a lesson's name looks like '01_supervised_fine_tuning', but {lesson!r} was given; "
            "use the notebook's file name without its ending."
        )
    return lesson


def _plain(value: Any, where: str) -> Any:
    """Turn numpy scalars and tuples into what JSON has, and refuse everything else with its place."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}, {key!r}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}, item {index}") for index, item in enumerate(value)]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return _plain(value.item(), where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CourseError(
                f"{where} is {value}, which is not a number that can be reported; compute it again."
            )
        return value
    raise CourseError(
        f"{where} is a {type(value).__name__}, which JSON cannot hold; convert it to numbers or text."
    )


def _checked_record(record: Any, where: str) -> None:
    if not isinstance(record, dict):
        raise CourseError(f"{where} is no JSON object but a {type(record).__name__}; run the lesson again.")
    required = ("lesson", "profile", "seed", "seconds", "peak_cpu_mb", "peak_gpu_mb", "versions", "claims")
    _require(record, required, where)
    _checked_lesson(str(record["lesson"]))
    _number(record, "seconds", where, low=0.0)
    for key in ("peak_cpu_mb", "peak_gpu_mb"):
        if record[key] is not None:
            _number(record, key, where, low=0.0)
    if not isinstance(record["seed"], int) or isinstance(record["seed"], bool):
        raise CourseError(f"the seed in {where} is {record['seed']!r}; it must be a whole number.")
    if not isinstance(record["versions"], dict):
        raise CourseError(
            f"the versions in {where} are {record['versions']!r}; they must map a library to its version."
        )
    if not isinstance(record["claims"], list) or not record["claims"]:
        raise CourseError(f"{where} has no claim; give at least one, the headline first.")
    for index, claim in enumerate(record["claims"]):
        _checked_claim(claim, f"claim {index + 1} of {where}")
    # Files written before there were bounds lack the key.
    bounds = record.get("bounds", [])
    if not isinstance(bounds, list):
        raise CourseError(f"the bounds in {where} are {bounds!r}; they must be a list.")
    for index, bound in enumerate(bounds):
        _checked_bound(bound, f"bound {index + 1} of {where}")


def _checked_claim(claim: Any, where: str) -> None:
    from posttrain_helpers.statistics import VERDICTS

    names = (*_CLAIM_TEXTS, "n", *_CLAIM_NUMBERS)
    _checked_fields(claim, names, _CLAIM_OPTIONS, _CLAIM_TEXTS, "Claim.from_result(...)", where)
    for key in ("expected", "verdict"):
        if claim[key] not in VERDICTS:
            raise CourseError(
                f"{key!r} in {where} is {claim[key]!r}; it must be one of {', '.join(VERDICTS)}."
            )
    for key in _CLAIM_NUMBERS:
        _number(claim, key, where)
    _number(claim, "p", where, low=0.0, high=1.0)
    _number(claim, "n", where, low=1)
    if claim["low"] > claim["high"]:
        raise CourseError(
            f"the interval of {where} is {claim['low']} to {claim['high']}; the lower end is the larger."
        )
    if claim.get("at_least") is not None:
        _number(claim, "at_least", where)
    if claim.get("adjusted_p") is not None:
        _number(claim, "adjusted_p", where, low=0.0, high=1.0)
    if "confidence" in claim:
        _number(claim, "confidence", where, low=0.0, high=1.0)
    if not isinstance(claim.get("p_at_floor", False), bool):
        raise CourseError(f"'p_at_floor' in {where} is {claim['p_at_floor']!r}; it must be true or false.")


def _checked_bound(bound: Any, where: str) -> None:
    from posttrain_helpers.statistics import Bound

    _checked_fields(bound, ("name", "value"), ("at_least", "at_most"), ("name",), "Bound(...)", where)
    try:
        Bound(**bound)
    except CourseError as error:
        raise CourseError(f"{where} is broken: {error}") from error


def _checked_fields(
    value: Any, needed: Sequence[str], optional: Sequence[str], texts: Sequence[str], maker: str, where: str
) -> None:
    """Check that a value is a dictionary with the fields of a dataclass, and that its texts are texts."""
    if not isinstance(value, dict):
        raise CourseError(f"{where} is a {type(value).__name__}; use `{maker}` to make it.")
    _require(value, needed, where)
    names = (*needed, *optional)
    unknown = sorted(set(value) - set(names))
    if unknown:
        raise CourseError(f"{where} has the unknown field {unknown[0]!r}; the fields are {', '.join(names)}.")
    for key in texts:
        if not isinstance(value[key], str) or not value[key]:
            raise CourseError(f"{key!r} in {where} is {value[key]!r}; it must be text.")


def _require(record: dict[str, Any], names: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in record]
    if missing:
        raise CourseError(
            f"{where} lacks {', '.join(map(repr, missing))}; write it with `write_results(...)`."
        )


def _number(
    record: dict[str, Any], key: str, where: str, low: float = -math.inf, high: float = math.inf
) -> None:
    value = record[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise CourseError(f"{key!r} in {where} is {value!r}; it must be a finite number.")
    if not low <= value <= high:
        limits = f"between {low:g} and {high:g}" if high < math.inf else f"at least {low:g}"
        raise CourseError(f"{key!r} in {where} is {value!r}; it must be {limits}.")
