"""How often a lesson's claims hold: the same lesson over many seeds, none of which a setting was chosen on.

    python -m posttrain_helpers seeds 06 --seeds 100-109

runs every cell of the lesson with each seed, but for those tagged `probe`, which no claim needs, and writes
one table of claims and seeds to `docs/seeds.json`. A lesson shows that table beside its own numbers and
asserts what held on at least nine of ten seeds (`check_claims`).

Each seed has an output directory of its own below `trainer_output/seeds`, so that its stages serve the next
lesson. A seed that is there already is not run again, unless a code cell of its notebook has changed; after a
change of a recipe or of the package, `--fresh` runs it again.
Two calls with different seeds may run side by side, each on its own core; a last call with all seeds collects
what they measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.paths import OUTPUT_VARIABLE, output_root, write_json_atomic
from posttrain_helpers.environment.runtime import check_seed
from posttrain_helpers.environment.schemas import read_checked
from posttrain_helpers.errors import CourseError
from posttrain_helpers.report import fresh_seeds
from posttrain_helpers.report.fresh_seeds import (
    MEASURE_VARIABLE,
    PROFILE,
    check_unchanged,
    spread,
    value_of,
)
from posttrain_helpers.report.results import LessonResults
from posttrain_helpers.statistics.claims import Claim

if TYPE_CHECKING:
    from nbformat import NotebookNode


PROBE_TAG = "probe"

_MOST_SEEDS = 10_000
_SEED_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that a text such as "100-109" or "1,5,20-22" names, in ascending order.

    Raises:
        CourseError: anything else, a seed that is too large, or more than 10,000 of them.
    """
    seeds: set[int] = set()
    for part in text.split(","):
        found = _SEED_RANGE.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise CourseError(
                "--seeds takes whole numbers and ranges such as 100-109 or 1,5,20-22, but "
                f"{text!r} was given."
            )
        check_seed(last)
        if last - first >= _MOST_SEEDS:
            raise CourseError(f"--seeds takes at most {_MOST_SEEDS:,} seeds, but {text!r} was given.")
        seeds.update(range(first, last + 1))
    return sorted(seeds)


def run_seeds(lessons: Sequence[str], seeds: Sequence[int], fresh: bool = False) -> Path:
    """Run lessons over seeds, write the table of their claims, and print it.

    Args:
        lessons: numbers or names, see `lessons.select`; empty means all.
        seeds: each runs the lesson once.
        fresh: run again what was run before.

    Returns:
        The path of the table.

    Raises:
        CourseError: an unknown lesson, one that fails or writes no results, two claims of one name, or a
            variable that asks for another base model, other recipes or another split.
    """
    from posttrain_helpers.lessons.run import select

    check_unchanged("the table over fresh seeds")
    chosen = select(lessons)
    pending = [(seed, path) for seed in seeds for path in chosen if fresh or not _measured(path, seed)]
    done = len(seeds) * len(chosen) - len(pending)
    print(f"lessons: {len(chosen)}, seeds: {len(seeds)}, already measured: {done}")
    begun = time.time()
    for number, (seed, path) in enumerate(pending, start=1):
        started = time.time()
        try:
            _measure(path, seed)
        except CourseError as error:
            raise CourseError(f"With seed {seed}: {error}") from error
        rows = _rows(_read_metrics(path.stem, seed))
        held = sum(row["held"] for row in rows)
        now = time.time()
        left = (now - begun) / number * (len(pending) - number)
        print(
            f"{path.stem}  seed {seed}  {now - started:5.0f} s  {held} of {len(rows)} claims held  "
            f"({number} of {len(pending)}, about {left / 60:.0f} min left)",
            flush=True,
        )
    collected = {path.stem: _collected(path.stem, seeds) for path in chosen}
    # Read as late as possible: another call may have written its lessons meanwhile.
    table = fresh_seeds.read_table()
    former = {lesson: len(table.get(lesson, {}).get("seeds", ())) for lesson in collected}
    # Nothing would be asserted of a lesson any more after a look at one seed.
    kept = [lesson for lesson in collected if former[lesson] > len(seeds)]
    new = {lesson: entry for lesson, entry in collected.items() if lesson not in kept}
    write_json_atomic(fresh_seeds.seeds_path(), table | new)
    for lesson in collected:
        print(f"\n{lesson}\n{spread(lesson).to_string()}")
        if lesson in kept:
            print(f"the table keeps its {former[lesson]} seeds; run at least as many to replace them")
    return fresh_seeds.seeds_path()


def _root(seed: int) -> Path:
    return output_root() / "seeds" / str(seed)


def _metrics_path(lesson: str, seed: int) -> Path:
    return _root(seed) / PROFILE / "metrics" / f"{lesson}.json"


def _read_metrics(lesson: str, seed: int) -> LessonResults:
    path = _metrics_path(lesson, seed)
    return read_checked(LessonResults, path, "delete it, and its seed runs again")


def _without_probes(path: Path) -> NotebookNode:
    from posttrain_helpers.environment.notebooks import read_notebook

    notebook = read_notebook(path)
    notebook.cells = [cell for cell in notebook.cells if PROBE_TAG not in cell.metadata.get("tags", [])]
    return notebook


def _source(path: Path) -> str:
    """Return the hash of the code that a seed runs: neither prose nor probes change what it measures."""
    from posttrain_helpers.lessons.freshness import source_hash

    notebook = _without_probes(path)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return source_hash(notebook)


def _mark(lesson: str, seed: int) -> Path:
    """Return the file that says which source was run to its end."""
    return _metrics_path(lesson, seed).with_suffix(".source")


def _measured(path: Path, seed: int) -> bool:
    """Say whether a lesson was run to its end with a seed, as the notebook is now."""
    mark = _mark(path.stem, seed)
    complete = mark.is_file() and _metrics_path(path.stem, seed).is_file()
    return complete and mark.read_text(encoding="utf-8") == _source(path)


def _measure(path: Path, seed: int) -> None:
    import nbformat

    from posttrain_helpers.lessons.run import execute

    root = _root(seed)
    shortened = root / "notebooks" / path.name
    shortened.parent.mkdir(parents=True, exist_ok=True)
    source = _source(path)  # before the run, during which somebody may edit the notebook
    nbformat.write(_without_probes(path), shortened)
    metrics, mark = _metrics_path(path.stem, seed), _mark(path.stem, seed)
    for stale in (mark, metrics):
        stale.unlink(missing_ok=True)
    execute(
        shortened,
        root / PROFILE / "notebooks" / path.name,
        PROFILE,
        {"PROFILE": PROFILE, "SEED": seed},
        variables={OUTPUT_VARIABLE: str(root), MEASURE_VARIABLE: "1"},
    )
    if not metrics.is_file():
        raise CourseError(
            f"lesson {path.stem} ended without writing {metrics}; it must call write_results(...) in a cell "
            f"that is not tagged {PROBE_TAG!r}."
        )
    mark.write_text(source, encoding="utf-8")


def _rows(results: LessonResults) -> list[dict[str, Any]]:
    """Return the claims and bounds of one run: name, value, whether it held, and the interval if any."""
    rows: list[dict[str, Any]] = []
    for claim in (*results.claims, *results.bounds):
        row = {"name": claim.name, "held": claim.held, "value": value_of(claim)}
        if isinstance(claim, Claim):
            row |= {key: getattr(claim, key) for key in ("low", "high", "before", "after")}
        rows.append(row)
    names = [row["name"] for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise CourseError(
                f"Lesson {results.lesson} has two claims or bounds named {name!r}; rename one, for the table "
                "tells them apart by name."
            )
    return rows


def _collected(lesson: str, seeds: Iterable[int]) -> dict[str, Any]:
    found = {seed: _read_metrics(lesson, seed) for seed in seeds}
    claims: dict[str, dict[str, Any]] = {}
    for seed, results in found.items():
        for row in _rows(results):
            name = row.pop("name")
            claims.setdefault(name, {"name": name, "runs": {}})["runs"][str(seed)] = row
    last = next(reversed(found.values()))
    return {
        "seeds": list(found),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": last.versions,
        "claims": list(claims.values()),
    }
