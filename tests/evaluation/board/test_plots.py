import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from evaluation_records import course, divergence, mixed, record, suite, two

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.board.board import Board
from posttrain_helpers.evaluation.board.plots import plot_frontier, plot_leaderboard, plot_retention

RIGHT = [True] * 40


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def board() -> Board:
    return Board(course())


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def named(figure) -> list[str]:
    return [text.get_text().split()[1] for text in figure.axes[0].get_legend().get_texts()]


def test_the_leaderboard_draws_each_average_with_its_interval_and_ranks(board):
    figure = plot_leaderboard(board)
    ranks = board.leaderboard()
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ranks.index)
    intervals = [
        line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 2
    ]
    assert np.allclose(intervals, 100 * ranks[["low", "high"]].to_numpy())
    assert texts(figure) == [*ranks["ranks"], "rank"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the best on top
    assert "mean of 6 suites, %" in axes.get_xlabel()
    assert "score" in plot_leaderboard(board, "preference").axes[0].get_xlabel()


def test_a_part_of_the_leaderboard_keeps_its_ranks(board):
    figure = plot_leaderboard(board, labels=["sft", "grpo"])
    ranks = board.leaderboard().loc[["grpo", "sft"], "ranks"]
    assert texts(figure) == [*ranks, "rank"]
    with pytest.raises(CourseError, match="'sfft' has no average; choose among grpo"):
        plot_leaderboard(board, labels=["sfft"])
    with pytest.raises(CourseError, match="No model was chosen; choose among"):
        plot_leaderboard(board, labels=[])


def test_the_heat_map_shows_every_difference_and_marks_the_significant_ones(board):
    figure = plot_retention(board)
    forgetting = board.retention()
    cells = figure.axes[0].texts
    assert len(cells) == len(forgetting.labels) * len(forgetting.columns)
    bold = {text.get_position() for text in cells if text.get_fontweight() == "bold"}
    expected = {
        (column, row)
        for row, label in enumerate(forgetting.labels)
        for column, name in enumerate(forgetting.columns)
        if forgetting.verdict(label, name) != "no_difference_shown"
    }
    assert bold == expected
    assert 0 < len(expected) < len(cells)
    index = forgetting.columns.index("entities") + len(forgetting.columns) * forgetting.labels.index("grpo")
    assert cells[index].get_text() == f"{100 * forgetting.matrix().loc['grpo', 'entities']:+.0f}"


def test_a_reference_that_read_no_documents_has_no_number_below_them():
    parts = [suite("entities", mixed(10))]
    read = {"losses": [20.0, 30.0], "tokens": [10, 10]}
    board = Board([record("sft", parts), *(record(name, parts, retention=read) for name in ("dpo", "ppo"))])
    labels = [text.get_text() for text in plot_retention(board).axes[0].get_xticklabels()]
    assert labels == ["entities\n25 %", "base\ndocuments\n-"]
    plt.close("all")


def test_blue_is_better_also_where_lower_is_better(board):
    image = plot_retention(board).axes[0].images[0]
    forgetting = board.retention()
    shades = np.asarray(image.get_array())
    documents = forgetting.columns.index("base documents")
    row = forgetting.labels.index("grpo")
    assert forgetting.matrix().loc["grpo", "base documents"] > 0
    assert shades[row, documents] == -1
    red, _, blue, _ = image.cmap(1.0)
    assert blue > red
    assert np.nanmax(np.abs(shades)) == 1


def test_missing_and_unchanged_cells_can_be_drawn():
    parts = [suite("entities", RIGHT), suite("arithmetic", mixed(3))]
    board = Board([record("base", parts), record("sft", parts), record("dpo", parts[:1])])
    assert texts(plot_retention(board)) == ["0", "0", "0", "-"]
    turned = Board(list(board.records.values()), reference="dpo")
    assert plot_retention(turned).axes[0].get_xticklabels()[1].get_text() == "arithmetic\n-"


def test_a_skill_that_may_change_on_purpose_is_named(board):
    assert "A stage may change identity on purpose." in plot_retention(board).axes[0].get_xlabel()
    assert "on purpose" not in plot_retention(two(RIGHT, RIGHT)).axes[0].get_xlabel()


def test_a_matrix_needs_a_second_model():
    with pytest.raises(CourseError, match="sft is the only model on the board"):
        plot_retention(Board([record("sft", [suite("entities", RIGHT)])]))


def test_the_frontier_draws_every_model_at_its_means(board):
    figure = plot_frontier(board)
    axes = figure.axes[0]
    points = board.frontier()
    drawn = [bars.lines[0].get_xydata()[0] for bars in axes.containers]
    assert np.allclose(drawn, points[["kl", "gold"]])
    assert texts(figure) == [str(place) for place in range(1, len(points) + 1)]
    assert named(figure) == list(points.index)
    assert axes.get_xlabel().startswith("KL from sft")
    assert axes.get_xlim()[1] > points["kl_high"].max()


def test_equal_steps_of_the_square_root_are_equally_long(board):
    axes = plot_frontier(board).axes[0]
    places = axes.transData.transform([(kl, 0) for kl in (0, 1, 4, 9)])[:, 0]
    assert np.diff(places) == pytest.approx([places[1] - places[0]] * 3)
    ticks = axes.get_xticks()
    assert 0 in ticks
    assert len(ticks) >= 4


def test_names_stand_beside_the_frontier_and_numbers_on_its_points(board):
    figure = plot_frontier(board)
    axes = figure.axes[0]
    figure.canvas.draw()
    assert [text.get_position() for text in axes.texts] == list(
        board.frontier()[["kl", "gold"]].itertuples(index=False, name=None)
    )
    names = axes.get_legend().get_window_extent()
    assert axes.get_window_extent().x1 <= names.x0
    assert names.x1 <= figure.bbox.x1


def test_the_reference_alone_has_a_frontier():
    board = Board([record("sft", [suite("x", RIGHT)], divergence=divergence([0.0], [0.5]))])
    assert named(plot_frontier(board)) == ["sft"]
    with pytest.raises(CourseError, match="No record holds a divergence"):
        plot_frontier(two(RIGHT, RIGHT))
