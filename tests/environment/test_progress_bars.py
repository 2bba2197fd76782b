"""A bar appears where somebody watches and the work takes long, and leaves no trace in a notebook."""

from __future__ import annotations

import io
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from posttrain_helpers.environment import progress_bars
from posttrain_helpers.environment.progress_bars import ProgressBar
from posttrain_helpers.lessons.freshness import normalise
from posttrain_helpers.lessons.run import execute


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, seconds_a_batch: float) -> str:
    """Return what a bar over five batches of two writes when each batch takes so many seconds."""
    now = [1000.0]
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress_bars, "time", SimpleNamespace(time=lambda: now[0]))
    with ProgressBar(10, "prompt") as bar:
        for _ in range(5):
            now[0] += seconds_a_batch
            bar.update(2)
    return stream.getvalue()


def test_slow_work_shows_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    states = shown(monkeypatch, Terminal(), 3.0).split("\r")
    assert any("4/10" in state and "prompt" in state for state in states)
    assert [state.strip() for state in states[-2:]] == ["", ""]


def test_quick_work_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, Terminal(), 0.9) == ""


def test_what_ends_with_its_last_batch_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, Terminal(), 1.2) == ""


def test_a_file_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO(), 60.0) == ""


def test_python_without_a_console_shows_none() -> None:
    assert not progress_bars.is_live(None)


def test_the_time_left_counts_what_was_done_before_the_bar_appeared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress_bars, "SECONDS_WITHOUT_A_BAR", 0.0)
    with ProgressBar(10, "prompt") as bar:
        bar._started -= 20.0
        bar.update(4)
        bar.update(1)
    found = re.search(r"4/10 \[00:(\d\d)<00:(\d\d)", sys.stderr.getvalue())
    assert found
    assert (int(found[1]), int(found[2])) == pytest.approx((20, 30), abs=1)


def test_an_error_takes_the_bar_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress_bars, "SECONDS_WITHOUT_A_BAR", 0.0)
    with suppress(KeyError), ProgressBar(10, "prompt") as bar:
        bar._started -= 1.0
        bar.update(4)
        raise KeyError
    assert sys.stderr.getvalue().split("\r")[-2].strip() == ""


SLOW_GENERATION = """
from posttrain_helpers import generate, setup
from posttrain_helpers.environment import progress_bars

setup("tiny")
from transformers import AutoModelForCausalLM, AutoTokenizer

progress_bars.SECONDS_WITHOUT_A_BAR = 0.0
model = AutoModelForCausalLM.from_pretrained(MODEL)
print("before")
replies = generate(model, AutoTokenizer.from_pretrained(MODEL), ["a cow"] * 6, max_new_tokens=2, batch_size=2)
print("after")
"""


@pytest.mark.slow
@pytest.mark.parametrize("widgets", [True, False], ids=["ipywidgets", "no ipywidgets"])
def test_a_bar_that_appeared_leaves_no_trace_and_no_warning(
    widgets: bool, random_model_dir: Path, tmp_path: Path, output_root: Path
) -> None:
    without = "" if widgets else "import sys; sys.modules['ipywidgets'] = None\n"
    source = tmp_path / "00_first.ipynb"
    cell = new_code_cell(f"{without}MODEL = {str(random_model_dir)!r}\n{SLOW_GENERATION}")
    nbformat.write(new_notebook(cells=[cell]), source)
    executed = nbformat.read(execute(source, tmp_path / "out.ipynb", "tiny"), as_version=4)
    assert "/6 [" in str(executed.cells[0].outputs), "no bar appeared"
    outputs = normalise(executed).cells[0].outputs
    assert len(outputs) == 1, outputs
    assert outputs[0].name == "stdout"
    assert outputs[0].text.endswith("before\nafter\n")
