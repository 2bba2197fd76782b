import html.parser
import re
import sys
from types import SimpleNamespace

import pytest
from evaluation_records import course, mixed, record, suite, two

from posttrain_helpers.evaluation.board import Board
from posttrain_helpers.evaluation.board_view import BETTER, WORSE, tables, to_html, to_text

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


def test_marks_tell_what_is_significantly_better_or_worse_than_the_reference():
    names = ("up", "down", "same")
    first = [suite(name, mixed(20)) for name in names]
    second = [suite("up", RIGHT), suite("down", WRONG), suite("same", mixed(21))]
    table = tables(Board([record("sft", first), record("dpo", second)]))[0]
    row = next(row for row in table.rows if row[0].text == "dpo")
    assert [(cell.text, cell.mark) for cell in row[3:]] == [("100", BETTER), ("0", WORSE), ("52", "")]
    assert row[3].hint.startswith("+50.0 points against sft")
    assert "20 up, 0 down, 20 same" in row[3].hint
    reference = next(row for row in table.rows if row[0].text == "sft (reference)")
    assert {cell.mark for cell in reference} == {""}


def test_the_best_model_is_on_top_and_ties_share_a_range(board):
    table = tables(board)[0]
    assert table.headings[:3] == ("model", "rank", "average")
    assert table.headings[-1] == "identity"  # not averaged, so it comes last
    assert table.rows[0][0].text == board.leaderboard().index[0]
    assert [row[1].text for row in table.rows] == board.leaderboard()["ranks"].tolist()
    assert "not told apart from" in table.rows[0][1].hint


def test_lower_perplexity_counts_as_better(board):
    second = tables(board)[1]
    column = second.headings.index("perplexity")
    marks = {row[0].text: row[column].mark for row in second.rows}
    assert marks["grpo"] == WORSE
    assert marks["base"] == ""


def test_what_was_not_measured_is_a_dash_and_has_no_rank():
    parts = [suite("entities", RIGHT), suite("arithmetic", RIGHT)]
    board = Board([record("base", parts), record("sft", parts), record("dpo", parts[:1])])
    last = tables(board)[0].rows[-1]
    assert [cell.text for cell in last] == ["dpo", "-", "-", "100", "-"]
    assert "dpo has no average over correctness: it lacks arithmetic." in re.sub(r"\s+", " ", str(board))


def test_tables_without_ranks():
    board = Board([record("sft", [suite("x", [True])]), record("dpo", [suite("x", [False])])])
    assert tables(board)[0].headings == ("model", "x")
    board = Board([record("sft", [suite("x", RIGHT)]), record("dpo", [suite("y", RIGHT)])])
    assert [table.title for table in tables(board)] == ["Correctness"]
    assert "-" in str(board)


@pytest.mark.parametrize("width", [40, 70, 100, 200])
def test_text_keeps_to_the_width_and_repeats_the_names(board, width):
    text = to_text(board, width, ascii_only=False)
    assert max(map(len, text.splitlines())) <= width
    for heading in ("entities", "phrasings", "identity", "preference", "perplexity"):
        assert text.count(f"{heading}") >= 1
    blocks = sum(line.startswith("model ") for line in text.splitlines())
    assert text.count("\ngrpo ") == blocks


def test_numbers_stand_below_each_other(board):
    lines = to_text(board, 200, ascii_only=False).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("model "))
    rows = [line for line in lines[start + 2 : start + 14]]
    assert len(rows) == 12
    ends = {match.end() for row in rows for match in re.finditer(r"\(\d+ to \d+\)", row)}
    assert len(ends) == 1


def test_a_console_without_triangles_gets_plain_marks(board, monkeypatch):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding="cp1252"))
    text = to_text(board, 120)
    text.encode("cp1252")
    assert "+ better, ! worse than sft" in text
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding="utf-8"))
    assert f"{BETTER} better, {WORSE} worse than sft" in to_text(board, 120)


def test_html_is_well_formed_and_takes_its_colours_from_the_page(board):
    fragment = to_html(board)
    parser = parsed(fragment)
    assert parser.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td", "span"}
    rows = sum(len(table.rows) for table in tables(board))
    assert fragment.count("<tr") == rows + len(tables(board))
    # Fixed colours of text or page would vanish in one of the two themes.
    assert not re.search(r"(?<![-\w])color\s*:|background:(?!transparent|rgba)", fragment)
    assert 'title="the skill of entities"' in fragment
    assert "<script" not in fragment
    assert "http" not in fragment


def test_labels_and_names_of_suites_are_escaped():
    hostile = "<img src=x onerror=alert(1)>"
    board = Board([record("sft", [suite(hostile, RIGHT)]), record(hostile, [suite(hostile, WRONG)])])
    fragment = to_html(board)
    assert "<img" not in fragment
    assert "&lt;img" in fragment
    parsed(fragment)


def test_control_characters_do_not_reach_the_terminal():
    board = Board([record("sft", [suite("x\x1b[31m", RIGHT)])])
    assert "\x1b" not in to_text(board, 80)
    assert "\x1b" not in to_html(board)


def test_the_notebook_shows_html_and_the_terminal_text(board):
    assert board._repr_html_() == to_html(board)
    assert str(board) == repr(board) == to_text(board)


def test_a_number_has_two_decimals_and_a_share_is_in_percent():
    board = two([0.123, 0.2], [0.4, 0.9])
    assert tables(board)[0].rows[0][2].text.startswith("0.65 (")
    assert tables(two(mixed(10), mixed(30)))[0].rows[0][3].text == "75"
