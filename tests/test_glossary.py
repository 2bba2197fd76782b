"""The glossary: one line a term, in order, and every link of a lesson finds its term."""

from __future__ import annotations

import re

import nbformat
import pytest

from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.lessons.run import discover

LINK = re.compile(r"glossary\.md#([^)\s]+)\)")


def terms() -> dict[str, str]:
    text = (repository_root() / "docs" / "glossary.md").read_text(encoding="utf-8")
    return dict(re.findall(r'^- <a id="([^"]+)"></a>\*\*(.+?)\*\*: .+\.$', text, flags=re.MULTILINE))


def test_terms_are_in_order_and_each_stands_once() -> None:
    text = (repository_root() / "docs" / "glossary.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("-")]
    names = [name.lower() for name in terms().values()]
    assert len(names) == len(lines) > 100
    assert names == sorted(names)


@pytest.mark.parametrize("path", discover(), ids=lambda path: path.stem)
def test_every_link_finds_its_term(path: object) -> None:
    cells = nbformat.read(path, as_version=4).cells
    linked = {anchor for cell in cells for anchor in LINK.findall(cell.source)}
    assert linked - terms().keys() == set()
