"""The committed notebooks show what their sources produce; every guard is tripped on a small notebook."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_freshness import check_freshness

from posttrain_helpers.environment.paths import output_root as current_output_root
from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.errors import CourseError
from posttrain_helpers.lessons.freshness import normalise, record, source_hash
from posttrain_helpers.lessons.run import discover

REFRESH = "refresh it with `python -m posttrain_helpers run --inplace {}`"


@pytest.mark.parametrize("path", discover(), ids=lambda path: path.stem)
def test_a_committed_notebook_is_fresh(path: Path) -> None:
    problems = check_freshness(path)
    assert not problems, "\n".join([*problems, REFRESH.format(path.stem[:2])])


@pytest.mark.parametrize("path", discover(), ids=lambda path: path.stem)
def test_a_committed_notebook_is_recorded_with_the_tiny_profile(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    parameters = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    values: dict[str, object] = {}
    exec("\n".join(parameters), values)  # literals only, by papermill's convention
    assert (values.get("PROFILE"), values.get("SEED")) == ("tiny", 0)


def image() -> NotebookNode:
    return new_output(
        "display_data", data={"image/png": base64.b64encode(b"png").decode(), "text/plain": "Figure"}
    )


def fresh_notebook() -> NotebookNode:
    """Return a notebook as `run --inplace` leaves it."""
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# A lesson"),
            new_code_cell("x = 1", execution_count=1),
            new_code_cell("plot(x)", execution_count=2, outputs=[image()], metadata={"tags": ["figure"]}),
            new_code_cell("print(x)", execution_count=3, outputs=[new_output("stream", text="1\n")]),
        ]
    )
    notebook.metadata["posttrain"] = {"source_hash": source_hash(notebook)}
    return notebook


def problems_of(notebook: NotebookNode, directory: Path) -> list[str]:
    path = directory / "00_first.ipynb"
    nbformat.write(notebook, path)
    return check_freshness(path)


def test_a_fresh_notebook_has_no_problem(tmp_path: Path) -> None:
    notebook = fresh_notebook()
    notebook.cells += [
        new_code_cell(""),
        new_code_cell("download()", metadata={"tags": ["skip-execution"]}),
    ]
    notebook.metadata["posttrain"]["source_hash"] = source_hash(notebook)
    assert problems_of(notebook, tmp_path) == []


def change_code(notebook: NotebookNode) -> None:
    notebook.cells[1].source = "x = 2"


def change_prose(notebook: NotebookNode) -> None:
    notebook.cells[0].source = "# Another lesson"


def drop_the_hash(notebook: NotebookNode) -> None:
    del notebook.metadata["posttrain"]


def hold_an_error(notebook: NotebookNode) -> None:
    notebook.cells[1].outputs = [new_output("error", ename="KeyError", evalue="lost", traceback=[])]


def swap_the_counts(notebook: NotebookNode) -> None:
    notebook.cells[1].execution_count = 2
    notebook.cells[2].execution_count = 1


def skip_a_count(notebook: NotebookNode) -> None:
    notebook.cells[3].execution_count = 4


def leave_a_cell_out(notebook: NotebookNode) -> None:
    notebook.cells[3].execution_count = None


def lose_the_picture(notebook: NotebookNode) -> None:
    notebook.cells[2].outputs = [new_output("display_data", data={"text/plain": "<Figure size 640x480>"})]


def show_a_home(notebook: NotebookNode) -> None:
    notebook.cells[3].outputs = [new_output("stream", text="saved /home/somebody/course/model\n")]


def show_a_windows_home(notebook: NotebookNode) -> None:
    data = {"text/plain": "WindowsPath('C:\\\\Users\\\\somebody')"}
    notebook.cells[3].outputs = [new_output("execute_result", data=data, execution_count=3)]


def keep_an_injected_cell(notebook: NotebookNode) -> None:
    notebook.cells[1].metadata["tags"] = ["injected-parameters"]


def clear_everything(notebook: NotebookNode) -> None:
    for cell in notebook.cells[1:]:
        cell.execution_count, cell.outputs = None, []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (change_code, "a cell's source changed after the outputs were recorded"),
        (change_prose, "a cell's source changed after the outputs were recorded"),
        (drop_the_hash, "no posttrain.source_hash"),
        (hold_an_error, "the output of cell 2 of 4 ('x = 1') holds an error: KeyError: lost"),
        (swap_the_counts, "cell 2 of 4 ('x = 1') has execution count 2; in order it would be 1"),
        (skip_a_count, "cell 4 of 4 ('print(x)') has execution count 4; in order it would be 3"),
        (leave_a_cell_out, "cell 4 of 4 ('print(x)') was not executed"),
        (lose_the_picture, "cell 3 of 4 ('plot(x)') is tagged 'figure' but shows no picture"),
        (show_a_home, "shows a path of one machine: /home/somebody/course/model"),
        (show_a_windows_home, "shows a path of one machine: C:"),
        (keep_an_injected_cell, "cell 2 of 4 ('x = 1') was injected by a run"),
        (clear_everything, "the notebook was never executed"),
    ],
)
def test_every_guard_is_tripped(tmp_path: Path, spoil: Callable[[NotebookNode], None], words: str) -> None:
    notebook = fresh_notebook()
    spoil(notebook)
    problems = problems_of(notebook, tmp_path)
    assert any(words in problem for problem in problems), problems


def test_a_missing_notebook_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match=r"there is no notebook .*absent\.ipynb"):
        check_freshness(tmp_path / "absent.ipynb")


def test_normalising_removes_what_differs_between_machines() -> None:
    timing = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    notebook = new_notebook(
        cells=[
            new_code_cell("a = 1", execution_count=7, metadata={"tags": ["parameters"], "execution": timing}),
            new_code_cell("a = 2", execution_count=8, metadata={"tags": ["injected-parameters"]}),
            new_code_cell(
                "a",
                execution_count=9,
                metadata={"tags": [], "papermill": {"duration": 1.0}, "ExecuteTime": {"end_time": "now"}},
                outputs=[
                    new_output("stream", name="stdout", text="step 1\rstep 2\r\nwrote "),
                    new_output("stream", name="stdout", text=f"{current_output_root() / 'tiny'}\n"),
                    new_output("stream", name="stderr", text="/tmp/ipykernel_12/345.py:3: UserWarning\n"),
                    new_output(
                        "display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
                    ),
                    new_output(
                        "execute_result",
                        execution_count=9,
                        data={
                            "text/plain": f"<function f at 0x7f12ab34cd56> {repository_root() / 'docs'}",
                            "image/png": "0x7f12ab34cd56",
                        },
                    ),
                ],
            ),
        ],
        metadata={
            "papermill": {"input_path": "x"},
            "widgets": {"state": {}},
            "kernelspec": {"name": "mine", "display_name": "Mine", "language": "python"},
            "language_info": {"name": "python", "version": "3.11.7"},
            "execution": {"timeout": 600},
        },
    )
    result = normalise(notebook)
    assert set(result.metadata) == {"execution", "kernelspec", "language_info"}
    assert result.metadata.kernelspec.name == "python3"
    assert "version" not in result.metadata.language_info
    first, last = result.cells
    assert (first.execution_count, last.execution_count) == (1, 2)
    assert first.metadata == {"tags": ["parameters"]}
    assert last.metadata == {}
    printed, warned, shown = last.outputs
    assert printed.text.replace("\\", "/") == "step 2\nwrote trainer_output/tiny\n"
    assert warned.text == "the cell above:3: UserWarning\n"
    assert shown.execution_count == 2
    assert shown.data["text/plain"].replace("\\", "/") == "<function f at 0x…> ./docs"
    assert shown.data["image/png"] == "0x7f12ab34cd56"
    assert notebook.cells[0].execution_count == 7, "the notebook given must stay as it was"


def test_a_bar_of_text_that_was_wiped_out_leaves_nothing() -> None:
    outputs = [
        new_output("stream", name="stdout", text="before\n"),
        new_output("stream", name="stderr", text="\r 0%|   | 0/9\r50%|## | 4/9\r             \r"),
        new_output("stream", name="stdout", text="after\n"),
        new_output("stream", name="stderr", text="\r50%|## | 4/9\r             \rlost   \n"),
    ]
    cell = normalise(new_notebook(cells=[new_code_cell("x", outputs=outputs)])).cells[0]
    assert [(output.name, output.text) for output in cell.outputs] == [
        ("stdout", "before\nafter\n"),
        ("stderr", "lost\n"),
    ]


def test_paths_are_only_replaced_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(tmp_path / "out"))
    text = f"{tmp_path / 'out'} {tmp_path / 'outer'} {tmp_path / 'out' / 'x'}"
    notebook = new_notebook(
        cells=[new_code_cell("1", execution_count=1, outputs=[new_output("stream", text=text)])]
    )
    whole, longer, below = normalise(notebook).cells[0].outputs[0].text.split()
    assert whole == "trainer_output"
    assert longer.endswith("outer")
    assert not longer.startswith("trainer_output")
    assert below.replace("\\", "/") == "trainer_output/x"


def test_recording_makes_a_fresh_notebook(tmp_path: Path) -> None:
    executed, target = tmp_path / "executed.ipynb", tmp_path / "00_first.ipynb"
    notebook = fresh_notebook()
    del notebook.metadata["posttrain"]
    nbformat.write(notebook, executed)
    record(target, executed)
    assert check_freshness(target) == []
    assert target.read_bytes().endswith(b"}\n")
