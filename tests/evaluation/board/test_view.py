import html.parser
import re
import sys
from types import SimpleNamespace

import pytest
from evaluation_records import course, record, suite

from posttrain_helpers.evaluation.board.board import Board
from posttrain_helpers.evaluation.board.tables import BETTER, WORSE
from posttrain_helpers.evaluation.board.view import to_text

RIGHT, WRONG = [True] * 40, [False] * 40


@pytest.fixture(scope="module")
def board() -> Board:
    return Board(course())


class Parser(html.parser.HTMLParser):
    """Collects the texts of cells, and notices tags that are left open."""

    def __init__(self):
        super().__init__()
        self.open, self.cells, self.tags = [], [], set()

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def parsed(fragment: str) -> Parser:
    parser = Parser()
    parser.feed(fragment)
    assert not parser.open
    return parser


def text_of(board: Board, width: int) -> str:
    return to_text(board, width)


@pytest.mark.parametrize("width", [70, 100, 200])
def test_text_keeps_to_the_width_and_repeats_the_names(board, width):
    text = text_of(board, width)
    assert max(map(len, text.splitlines())) <= width
    for heading in ("entities", "phrasings", "identity", "preference", "perplexity"):
        assert heading in text
    assert text.count("\ngrpo ") == text.count("\nbase ") >= 3  # a table that goes on below names them again


def test_numbers_stand_below_each_other(board):
    rows = text_of(board, 200).splitlines()[4:16]
    assert [row.split()[0] for row in rows] == list(board.tables()[0].rows)
    ends = {match.end() for row in rows for match in re.finditer(r"\(\d+ to \d+\)", row)}
    assert len(ends) == 1


def test_a_console_without_triangles_gets_plain_marks(board, monkeypatch):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding="cp1252"))
    text = str(board)
    text.encode("cp1252")
    assert "+ better, ! worse than sft" in " ".join(text.split())
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding="utf-8"))
    assert f"{BETTER} better, {WORSE} worse than sft" in " ".join(str(board).split())


def test_html_is_well_formed_and_takes_its_colours_from_the_page(board):
    fragment = board._repr_html_()
    parser = parsed(fragment)
    assert parser.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td", "span"}
    assert fragment.count("<tr") == sum(1 + len(table.rows) for table in board.tables())
    # Fixed colours of text or page would vanish in one of the two themes.
    assert not re.search(r"(?<![-\w])color\s*:|background:(?!transparent|rgba)", fragment)
    assert 'title="the skill of entities"' in fragment
    assert "sft (reference)" in parser.cells
    assert "<script" not in fragment
    assert "http" not in fragment


def test_labels_and_names_of_suites_are_escaped():
    hostile = '"><img src=x onerror=alert(1)>'
    parts = [suite(hostile, RIGHT, skill=hostile)]
    board = Board([record("sft", parts), record(hostile, [suite(hostile, WRONG, skill=hostile)])])
    fragment = board._repr_html_()
    assert "<img" not in fragment
    assert "&lt;img" in fragment
    parsed(fragment)


def test_control_characters_do_not_reach_the_terminal_or_the_page():
    board = Board([record("sft", [suite("x\x1b[31m", RIGHT)])])
    assert "\x1b" not in str(board)
    assert "\x1b" not in board._repr_html_()
