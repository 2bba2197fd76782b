import re
from dataclasses import replace

import pytest
from evaluation_records import MODELS, course, documents, mixed, quick_record, record, suite, two

from posttrain_helpers.evaluation.board.board import Board
from posttrain_helpers.evaluation.board.tables import BETTER, WORSE
from posttrain_helpers.statistics.ranking import score_interval

RIGHT, WRONG = [True] * 40, [False] * 40
MARKS = {"improved": BETTER, "worse": WORSE, "no_difference_shown": "", None: ""}


@pytest.fixture(scope="module")
def board() -> Board:
    return Board(course())


def headings(table) -> list[str]:
    return [column.heading for column in table.columns]


def test_marks_tell_what_is_significantly_better_or_worse_than_the_reference():
    names = ("up", "down", "same")
    first = [suite(name, mixed(20)) for name in names]
    second = [suite("up", RIGHT), suite("down", WRONG), suite("same", mixed(21))]
    rows = Board([record("sft", first), record("dpo", second)]).tables()[0].rows
    assert [(cell.text, cell.mark) for cell in rows["dpo"][2:]] == [("100", BETTER), ("0", WORSE), ("52", "")]
    assert rows["dpo"][2].hint.startswith("+50.0 points against sft (+")
    assert rows["dpo"][2].hint.endswith("): 20 up, 0 down, 20 same")
    assert {cell.mark for cell in rows["sft"]} == {""}


def test_rows_are_those_of_the_leaderboard_with_ties_and_marks(board):
    table = board.tables()[0]
    frame = board.leaderboard()
    assert headings(table)[:2] == ["rank", "average"]
    assert headings(table)[-1] == "identity"  # not averaged, so it comes last
    assert list(table.rows) == list(frame.index)
    assert [cells[0].text for cells in table.rows.values()] == frame["ranks"].tolist()
    assert "not told apart from" in table.rows["grpo"][0].hint
    for label, (_, average, *cells) in table.rows.items():
        row = frame.loc[label]
        assert average.interval == (row["score"], row["low"], row["high"])
        assert (average.mark == "") == (label == "sft" or "sft" in row["tied_with"])
        for column, cell in zip(table.columns[2:], cells, strict=True):
            name = column.heading.replace(" ", "_")
            found = board.suites[name]
            ends = score_interval(found.scores[label], found.yes_no)
            assert cell.interval == (found.scores[label].mean(), *ends)
            verdict = None if label == "sft" else board.retention().verdict(label, name)
            assert cell.mark == MARKS[verdict]


def test_the_interval_of_a_cell_knows_the_relations():
    scores, relations = [0.0, 0.0, 1.0, 1.0, 2.0, 2.0], ("a", "a", "b", "b", "c", "c")
    for values in (scores, [True, True, False, False, True, True]):
        alone, related = (
            Board([record("sft", [suite("facts", values, relations=names)])]).tables()[0].rows["sft"][2]
            for names in (None, relations)
        )
        assert related.interval[0] == alone.interval[0]
        assert related.interval[1] < alone.interval[1]
        assert related.interval[2] > alone.interval[2]


def test_what_is_worse_than_the_best_is_marked_worse(board):
    table = Board(list(board.records.values()), reference="grpo").tables()[0]
    assert (table.rows["base"][1].mark, table.rows["sft"][1].mark) == (WORSE, WORSE)


def test_style_has_no_interval_and_lower_perplexity_counts_as_better(board):
    style = board.tables()[-1]
    assert headings(style) == ["distinct-2", "repetition", "mean tokens", "stop rate", "perplexity"]
    assert (style.rows["grpo"][-1].mark, style.rows["base"][-1].mark) == (WORSE, "")
    assert all(cell.interval is None for cells in style.rows.values() for cell in cells)
    parts = [suite("entities", RIGHT)]
    entries = [record("sft", parts, retention=documents([1.0, 1.0])), record("dpo", parts)]
    assert Board(entries).tables()[-1].rows["dpo"][-1].text == "-"


def test_what_was_not_measured_is_a_dash_and_has_no_rank():
    parts = [suite("entities", RIGHT), suite("arithmetic", RIGHT)]
    board = Board([record("base", parts), record("sft", parts), record("dpo", parts[:1])])
    label, cells = list(board.tables()[0].rows.items())[-1]
    assert (label, [cell.text for cell in cells]) == ("dpo", ["-", "-", "100", "-"])
    assert "dpo has no average over correctness: it lacks arithmetic." in re.sub(r"\s+", " ", str(board))


def test_tables_without_ranks():
    board = Board([record("sft", [suite("x", [0.5])]), record("dpo", [suite("x", [0.7])])])
    assert headings(board.tables()[0]) == ["x"]
    assert board.tables()[0].rows["dpo"][0].interval == (0.7, 0.7, 0.7)
    board = Board([record("sft", [suite("x", RIGHT)]), record("dpo", [suite("y", RIGHT)])])
    assert [table.title for table in board.tables()] == ["Correctness"]
    assert [cell.text for cell in board.tables()[0].rows["dpo"]] == ["-", "100"]


def test_a_kind_without_suites_has_no_table():
    records = [quick_record(label) for label in MODELS[:3]]
    records = [replace(entry, suites={"entities": entry.suites["entities"]}) for entry in records]
    assert [table.title for table in Board(records).tables()] == ["Correctness", "Style"]


def test_a_number_has_two_decimals_and_a_share_is_in_percent():
    board = two([0.123, 0.2], [0.4, 0.9])
    assert board.tables()[0].rows["dpo"][1].text.startswith("0.65 (")
    assert two(mixed(10), mixed(30)).tables()[0].rows["dpo"][2].text == "75"
