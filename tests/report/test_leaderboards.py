"""The evaluation sections as plain values: the board's numbers, marks, colours and samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evaluation_records import MODELS, quick_record

from posttrain_helpers.evaluation.board.board import Board
from posttrain_helpers.report.leaderboards import (
    board_view,
    column_axes,
    draw_frontier,
    first_shown,
    samples_view,
    tints,
)


@pytest.fixture(scope="module")
def board() -> Board:
    return Board([quick_record(label) for label in MODELS])


def test_every_interval_lies_on_the_scale_of_its_column(board: Board) -> None:
    correctness, preference, style = board.tables()
    axes = column_axes(correctness)
    assert axes[0] is None  # ranks have no scale
    assert {axis.ticks for axis in axes[1:]} == {(0.0, 1.0)}
    for axis, *cells in zip(column_axes(preference), *preference.rows.values(), strict=True):
        ends = [end for cell in cells if cell.interval for end in cell.interval]
        assert all(axis.ticks[0] <= end <= axis.ticks[-1] for end in ends)
    assert column_axes(style) == [None] * 5


def test_the_frontier_holds_every_measured_model_the_nearest_first(board: Board) -> None:
    rows = board_view(board)["frontier"]
    assert set(rows) == set(MODELS)
    assert [row["kl"] for row in rows.values()] == sorted(row["kl"] for row in rows.values())
    assert next(iter(rows)) == "sft"
    assert rows["ppo"] == board.frontier().loc["ppo"].to_dict()
    records = [replace(record, divergence=None) for record in board.records.values()]
    assert board_view(Board(records))["frontier"] is None


def test_the_base_is_drawn_only_where_it_is_the_reference_or_alone(board: Board) -> None:
    def drawn(board: Board) -> set[str]:
        return {text.get_text().split()[1] for text in draw_frontier(board).axes[0].get_legend().get_texts()}

    assert drawn(board) == set(MODELS) - {"base"}
    records = [
        replace(record, divergence={**record.divergence, "reference": "base"})
        for record in board.records.values()
    ]
    assert drawn(Board(records)) == set(MODELS)
    assert drawn(Board([board.records["base"]])) == {"base"}


def test_the_colour_follows_the_difference_and_its_sense(board: Board) -> None:
    forgetting = board.retention()
    found = tints(forgetting)
    for label, row in found.items():
        for name, tint in row.items():
            result = forgetting.results[label][name]
            assert tint * result.difference * (1 if result.higher_is_better else -1) >= 0
    deepest = {name: max(abs(row[name]) for row in found.values()) for name in forgetting.columns}
    assert [deepest[name] for name in ("stories", "preference", "base documents")] == [62, 62, 62]
    assert max(deepest[name] for name in forgetting.shares) == 62
    assert board_view(Board([board.records["base"]]))["forgetting"] is None


def test_samples_show_base_reference_and_the_winners_first(board: Board) -> None:
    tables = board.tables()[:2]
    order = first_shown(board, tables)
    assert sorted(order) == sorted(MODELS)
    winners = list(dict.fromkeys(list(table.rows)[place] for place in range(2) for table in tables))
    assert order[:4] == ["base", "sft", *winners][:4]
    suites = {found["suite"].name: found for found in samples_view(board, order)}
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
