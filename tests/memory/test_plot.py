"""The figure of a memory report: the right lines, legible from the last row."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import pandas
import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory.monitor import COLUMNS
from posttrain_helpers.memory.plot import plot_memory

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def history(events: list[str], gpu: bool = False) -> pandas.DataFrame:
    rows = []
    for number, event in enumerate(events):
        figures = [100.0 + number, 300.0, 150.0, 200.0] if gpu else [None] * 4
        rows.append(("", float(number), event, number, 400.0, 500.0 + number, *figures))
    return pandas.DataFrame(rows, columns=list(COLUMNS))


def test_a_training_is_drawn_over_its_steps():
    ax = plot_memory(
        history(["start", "train_begin", "step", "step", "end"], gpu=True), title="Memory of sft"
    )
    assert ax.get_title() == "Memory of sft"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training step", "memory (MB)")
    assert ax.get_ylim()[0] == 0
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert set(lines) == {"CPU in use", "CPU peak", "GPU reserved", "GPU allocated", "GPU peak"}
    assert list(lines["CPU peak"].get_xdata()) == [1, 2, 3]
    assert list(lines["CPU peak"].get_ydata()) == [501, 502, 503]


def test_the_figure_is_legible_on_a_projector():
    ax = plot_memory(history(["train_begin", "step", "step"], gpu=True))
    texts = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_legend().get_texts()]
    texts += [*ax.get_xticklabels(), *ax.get_yticklabels()]
    assert min(text.get_fontsize() for text in texts) >= 14
    assert min(line.get_linewidth() for line in ax.get_lines()) >= 2
    width, height = ax.figure.get_size_inches()
    assert width >= 10
    assert 1.5 <= width / height <= 2


def test_a_block_without_training_is_drawn_over_time_on_the_given_axes():
    _, ax = plt.subplots()
    assert plot_memory(history(["start", "end"]), ax=ax) is ax
    assert ax.get_xlabel() == "seconds"
    assert {line.get_label() for line in ax.get_lines()} == {"CPU in use", "CPU peak"}


def test_a_figure_needs_two_rows():
    with pytest.raises(CourseError, match=r"1 row\(s\), and a line needs two"):
        plot_memory(history(["start"]))


def test_two_trainings_in_one_block_are_drawn_over_time():
    events = history(["train_begin", "step", "step", "train_begin", "step"])
    assert plot_memory(events).get_xlabel() == "training step"
    events["step"] = [0, 1, 2, 0, 1]  # the second training counts anew
    assert plot_memory(events).get_xlabel() == "seconds"
