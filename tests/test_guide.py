"""The decision guide: what it says the course measured is what the committed results say."""

from __future__ import annotations

import re
from statistics import median

import pytest

from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.lessons.run import discover
from posttrain_helpers.report.fresh_seeds import read_table
from posttrain_helpers.report.real_model_results import read_measured
from posttrain_helpers.statistics.claims import Bound, Claim

GUIDE = repository_root() / "docs" / "guide.md"
TEXT = GUIDE.read_text(encoding="utf-8")
MEASURED_RUNS = read_measured()
MEASURED = re.compile(r"<!-- measured: begin -->\n(.*?)<!-- measured: end -->", re.DOTALL)
DECIMAL = re.compile(r"(?<![\w.])\d*\.\d+|\d+ ?%")


def measured_rows() -> list[str]:
    """Return the rows below the two lines of the table's head."""
    (table,) = MEASURED.findall(TEXT)
    return table.splitlines()[2:]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split(" | ")]


def change(before: list[float], after: list[float]) -> str:
    return f"{median(before):.3f} → {median(after):.3f}"


def expected_row(lesson: str, claim: str) -> str:
    """Return a row of the table from `docs/seeds.json` and `docs/real_model.json`."""
    (found,) = [entry for entry in read_table()[lesson]["claims"] if entry["name"] == claim]
    runs = list(found["runs"].values())
    if "before" in runs[0]:
        tiny = change([run["before"] for run in runs], [run["after"] for run in runs])
    else:
        values = [run["value"] for run in runs]
        tiny = f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
    held = f"{sum(run['held'] for run in runs)} of {len(runs)}"
    number = lesson.partition("_")[0]
    link = f"[{number}](../notebooks/{lesson}.ipynb)"
    return f"| {link} | {claim} | {measure(lesson, claim)} | {tiny} | {held} | {real(lesson, claim)} |"


def single_runs(lesson: str, profile: str) -> list[Claim | Bound]:
    """Return the claims and bounds of the first run of a profile; empty where there is none."""
    found = MEASURED_RUNS.lessons.get(lesson, {}).get(profile)
    return [*found.run.claims, *found.run.bounds] if found else []


def measure(lesson: str, claim: str) -> str:
    found = [entry for entry in single_runs(lesson, "tiny") if entry.name == claim]
    return found[0].metric.replace("_", " ") if found and isinstance(found[0], Claim) else "as named"


def real(lesson: str, claim: str) -> str:
    entries = single_runs(lesson, "smollm2")
    found = [entry for entry in entries if entry.name == claim and isinstance(entry, Claim)]
    if not found:
        return "not measured" if entries else "not run"
    verdict = found[0].verdict.replace("_", " ").replace("non inferior", "non-inferior")
    seeds = [
        runs[claim].held for runs in MEASURED_RUNS.lessons[lesson]["smollm2"].seeds.values() if claim in runs
    ]
    more = f"; {sum(seeds)} of {len(seeds)} seeds" if len(seeds) > 1 else ""
    return f"{change([found[0].before], [found[0].after])}, {verdict}{more}"


@pytest.mark.parametrize("row", measured_rows(), ids=lambda row: " ".join(cells(row)[:2]))
def test_a_measured_row_is_what_was_measured(row: str) -> None:
    link, claim = cells(row)[:2]
    lesson = re.fullmatch(r"\[\w+\]\(\.\./notebooks/(\w+)\.ipynb\)", link)[1]
    assert row == expected_row(lesson, claim)


def test_every_lesson_with_seeds_has_a_measured_row() -> None:
    asked = {row.partition("notebooks/")[2].partition(".ipynb")[0] for row in measured_rows()}
    assert asked == set(read_table())


def test_no_other_number_is_typed() -> None:
    prose = MEASURED.sub("", TEXT)
    prose = "\n".join(line for line in prose.splitlines() if "](https://" not in line)  # these have a source
    assert DECIMAL.findall(prose) == [".5"]  # what a win rate is without a difference


def test_every_lesson_named_exists() -> None:
    known = {path.stem.partition("_")[0] for path in discover()}
    rows = TEXT.partition("## From data and goal")[2].partition("Two rules")[0].splitlines()
    named = {number for row in rows if row.count("|") == 7 for number in re.findall(r"\b\d\d[a-z]?\b", row)}
    assert len(named) > 10
    assert named <= known


def test_every_framework_has_its_source_and_the_page_its_date() -> None:
    frameworks = TEXT.partition("## Frameworks")[2]
    assert re.search(r"Read on \d{4}-\d\d-\d\d", frameworks)
    rows = [line for line in frameworks.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 9
    assert [row for row in rows if not row.startswith("| [") or "](https://" not in row] == []
