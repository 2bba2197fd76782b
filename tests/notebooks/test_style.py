"""The form of a lesson: small cells, few imported names, text beside code, no question about the profile."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from statistics import median

import nbformat
import pytest
from nbformat import NotebookNode

from posttrain_helpers.lessons.run import discover

MOST_CELLS, MOST_LINES, MOST_MEDIAN_LINES, MOST_NAMES = 50, 25, 9, 22
# What asks for the profile in a cell; `setup(PROFILE, ...)` and the parameters are the only places for it.
PROFILE_WORDS = re.compile(r"PROFILE|profile")
LESSONS = discover()


def cells(path: Path, kind: str = "code") -> list[NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def profile_questions(sources: list[str]) -> list[str]:
    """Return the lines that ask for the profile, but for the call of `setup`."""
    lines = [line for source in sources for line in source.splitlines()]
    return [line for line in lines if PROFILE_WORDS.search(line) and "setup(PROFILE, seed=SEED)" not in line]


def helper_names(sources: list[str]) -> set[str]:
    """Return the names that cells import from the helper package."""
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    return {
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("posttrain_helpers")
        for alias in node.names
    }


def plain(source: str) -> str:
    """Return code without the lines that only IPython reads."""
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_only_setup_asks_for_the_profile(path: Path) -> None:
    code = [cell.source for cell in cells(path) if "parameters" not in cell.metadata.get("tags", [])]
    assert profile_questions(code) == []


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_picture_can_be_read_out(path: Path) -> None:
    outputs = [output for cell in cells(path) for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    texts = [output.metadata.get("image/png", {}).get("alt", "") for output in pictures]
    assert [text for text in texts if len(text) < 20] == []


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_short_and_its_cells_are_small(path: Path) -> None:
    code, prose = cells(path), cells(path, "markdown")
    lines = [len(cell.source.splitlines()) for cell in code]
    assert len(code) + len(prose) <= MOST_CELLS
    assert len(prose) >= len(code) * 0.9
    assert max(lines) <= MOST_LINES
    assert median(lines) <= MOST_MEDIAN_LINES


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_imports_few_helpers(path: Path) -> None:
    names = helper_names([plain(cell.source) for cell in cells(path)])
    assert len(names) <= MOST_NAMES, sorted(names)


@pytest.mark.parametrize(
    "line", ['if PROFILE == "tiny":', "runtime.profile.name", 'load_recipe("sft", profile="qwen3")']
)
def test_a_question_about_the_profile_is_noticed(line: str) -> None:
    assert profile_questions(["runtime = setup(PROFILE, seed=SEED)", line]) == [line]


def test_names_are_counted_once_and_only_those_of_the_package() -> None:
    cell = "from posttrain_helpers import a, b\nfrom posttrain_helpers.x import b, c\nfrom torch import d"
    assert helper_names([cell]) == {"a", "b", "c"}
