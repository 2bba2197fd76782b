"""The evaluation sections as plain values: the board's numbers, marks, colours and samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_records import MODELS, quick_record, write_records

from posttrain_helpers.evaluation.board import Board
from posttrain_helpers.report.board import (
    board_view,
    first_shown,
    frontier_view,
    leaderboard,
    read_board,
    retention_view,
    samples_view,
)


@pytest.fixture(scope="module")
def board() -> Board:
    return Board([quick_record(label) for label in MODELS])


def test_without_records_there_is_no_board(output_root: Path) -> None:
    assert read_board("tiny") is None
    write_records(["base", "sft"])
    found = read_board("tiny")
    assert found is not None
    assert found.labels == ["base", "sft"]


def test_rows_are_those_of_the_board_with_ties_and_marks(board: Board) -> None:
    table = leaderboard(board, "correctness")
    frame = board.leaderboard("correctness")
    assert table is not None
    assert table.average
    assert [row.label for row in table.rows] == list(frame.index)
    assert [row.ranks for row in table.rows] == [text.replace("-", "–") for text in frame["ranks"]]
    assert any("–" in row.ranks for row in table.rows)
    assert [column.name for column in table.columns] == [*board.averaged("correctness"), "identity"]
    assert [column.averaged for column in table.columns] == [True] * 6 + [False]
    rows = {row.label: row for row in table.rows}
    assert rows["sft"].average.standing == ""
    assert rows["grpo"].average.standing == "better"
    for label, row in rows.items():
        tied = "sft" in frame.loc[label, "tied_with"]
        assert (row.average.standing == "") == (tied or label == "sft")
        for column, cell in zip(table.columns, row.cells, strict=True):
            found = board.rates(column.name).loc[label]
            assert (cell.mean, cell.low, cell.high) == (found["mean"], found["low"], found["high"])
            verdict = None if label == "sft" else board.retention().verdict(label, column.name)
            assert cell.standing == {"improved": "better", "worse": "worse"}.get(verdict, "")
            assert column.axis.ticks == (0.0, 1.0)


def test_what_is_worse_is_marked_worse(board: Board) -> None:
    best = Board(list(board.records.values()), reference="grpo")
    table = leaderboard(best, "correctness")
    assert {row.average.standing for row in table.rows if row.label in ("base", "sft")} == {"worse"}


def test_one_preference_suite_needs_no_average_and_has_its_own_scale(board: Board) -> None:
    records = [
        replace(record, suites={name: suite for name, suite in record.suites.items() if name != "preference"})
        for record in board.records.values()
    ]
    table = leaderboard(Board(records), "preference")
    assert table is not None
    assert not table.average
    assert leaderboard(board, "preference").average
    low, high = table.columns[0].axis.ticks[0], table.columns[0].axis.ticks[-1]
    assert all(low <= row.cells[0].low <= row.cells[0].high <= high for row in table.rows)


def test_a_kind_without_suites_has_no_table(board: Board) -> None:
    records = [
        replace(record, suites={"entities": record.suites["entities"]}) for record in board.records.values()
    ]
    assert leaderboard(Board(records), "preference") is None
    assert [table.kind for table in board_view(Board(records))["leaderboards"]] == ["correctness"]


def test_a_model_that_lacks_a_suite_comes_last_without_a_rank(board: Board) -> None:
    records = [
        replace(record, suites={"entities": record.suites["entities"]}) if label == "grpo" else record
        for label, record in board.records.items()
    ]
    table = leaderboard(Board(records), "correctness")
    assert table is not None
    last = table.rows[-1]
    assert (last.label, last.ranks, last.average) == ("grpo", "", None)
    assert [cell is None for cell in last.cells] == [False] + [True] * 6


def test_models_with_no_suite_in_common_are_shown_unranked() -> None:
    names = ("entities", "arithmetic", "word_problems")
    records = []
    for place, label in enumerate(("base", "sft", "dpo")):
        record = quick_record(label)
        kept = {name: record.suites[name] for name in names if name != names[place]}
        records.append(replace(record, suites=kept))
    table = leaderboard(Board(records), "correctness")
    assert table is not None
    assert [row.ranks for row in table.rows] == ["", "", ""]
    assert [cell is None for cell in table.rows[0].cells].count(True) == 1


def test_a_suite_of_one_item_ranks_nobody() -> None:
    records = [quick_record(label, items=1) for label in ("base", "sft")]
    table = leaderboard(Board(records), "correctness")
    assert table is not None
    assert {cell.standing for row in table.rows for cell in row.cells} == {""}
    assert leaderboard(Board(records), "preference").rows[0].cells[0].low == pytest.approx(
        leaderboard(Board(records), "preference").rows[0].cells[0].mean
    )


def test_the_frontier_holds_every_measured_model_for_both_widths(board: Board) -> None:
    view = frontier_view(board)
    assert view is not None
    assert {mark.label for mark in view["rows"]} == set(MODELS)
    assert [mark.kl for mark in view["rows"]] == sorted(mark.kl for mark in view["rows"])
    assert view["rows"][0].label == view["reference"] == "sft"
    frame = board.frontier()
    for mark in view["rows"]:
        assert tuple(mark[1:]) == pytest.approx(tuple(frame.loc[mark.label]))
    assert view["apart"].label == "base"
    assert view["drawn"] == [mark for mark in view["rows"] if mark.label != "base"]
    for chart in view["charts"].values():
        assert [point.mark for point in chart.points] == view["drawn"]
    records = [replace(record, divergence=None) for record in board.records.values()]
    assert frontier_view(Board(records)) is None


def test_the_base_is_drawn_where_it_is_the_reference_or_alone(board: Board) -> None:
    records = [
        replace(record, divergence={**record.divergence, "reference": "base"})
        for record in board.records.values()
    ]
    for chosen in (records, [board.records["base"]]):
        view = frontier_view(Board(chosen))
        assert view["apart"] is None
        assert view["drawn"] == view["rows"]


def test_the_colour_follows_the_difference_and_its_sense(board: Board) -> None:
    view = retention_view(board)
    assert view is not None
    assert view["against"] == "sft"
    found = board.retention()
    assert [column["name"] for column in view["columns"]] == list(found.columns)
    assert [column["documents"] for column in view["columns"]] == [False] * 9 + [True]
    for label, cells in view["rows"]:
        for column, cell in zip(view["columns"], cells, strict=True):
            difference = found.results[label][column["name"]].difference
            assert cell["verdict"] == found.verdict(label, column["name"])
            assert 0 <= cell["tint"] <= 62
            if difference:
                assert cell["good"] == ((difference < 0) if column["documents"] else (difference > 0))
    deepest = [max(cells[index]["tint"] for _, cells in view["rows"]) for index in (7, 8, 9)]
    assert deepest == [62, 62, 62]
    assert max(cell["tint"] for _, cells in view["rows"] for cell in cells[:7]) == 62


def test_one_model_has_nothing_to_retain(board: Board) -> None:
    assert retention_view(Board([board.records["base"]])) is None


def test_samples_show_base_reference_and_the_winners_first(board: Board) -> None:
    tables = [leaderboard(board, kind) for kind in ("correctness", "preference")]
    order = first_shown(board, tables)
    assert sorted(order) == sorted(MODELS)
    winners = list(dict.fromkeys(table.rows[place].label for place in range(2) for table in tables))
    assert order[:4] == ["base", "sft", *winners][:4]
    suites = {suite["name"]: suite for suite in samples_view(board, order)}
    assert set(suites) == set(board.suites)
    prompt = suites["entities"]["prompts"][1]
    assert [reply["label"] for reply in prompt["first"]] == order[:4]
    assert [reply["label"] for reply in prompt["more"]] == order[4:]
    for reply in prompt["first"] + prompt["more"]:
        record = board.records[reply["label"]].suites["entities"]
        item = record.prompts.index(prompt["prompt"])
        assert reply["text"] == record.replies[item]
        assert reply["score"] == ("yes" if record.scores["correct"][item] else "no")
    story = suites["stories"]["prompts"][0]["first"][0]
    assert story["score"] == f"{board.records['base'].suites['stories'].scores['gold'][0]:.3f}".replace(
        "-", "−"
    )


def test_a_conversation_shows_how_it_began() -> None:
    record = quick_record("base", items=2)
    suite = record.suites["entities"]
    talk = tuple(
        (
            {"role": "user", "content": f"first {i}"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": suite.prompts[i]},
            {"role": "assistant", "content": suite.replies[i]},
        )
        for i in range(2)
    )
    board = Board([replace(record, suites={"entities": replace(suite, transcripts=talk)})])
    prompts = samples_view(board, ["base"])[0]["prompts"]
    assert [prompt["opening"] for prompt in prompts] == ["first 0", "first 1"]


def test_sources_are_one_where_all_ran_alike(board: Board) -> None:
    assert board_view(board)["sources"] == [("evaluation", {"device": "cpu", "torch": "2.13.0"})]
    records = [
        replace(record, device="cuda:0") if label == "ppo" else record
        for label, record in board.records.items()
    ]
    assert ("evaluation of ppo", {"device": "cuda:0", "torch": "2.13.0"}) in board_view(Board(records))[
        "sources"
    ]
