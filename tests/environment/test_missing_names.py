"""Errors in a notebook: which cell has to be run first, and what to change where memory ran out."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from posttrain_helpers.environment.missing_names import advice, explain_errors
from posttrain_helpers.lessons.run import _kernel_manager_class

SETUP = "from posttrain_helpers import setup\nruntime = setup('tiny', threads=1)"
TRAIN = "trainer = 42\ndef loss():\n    inner = 1\n    return missing_inside"
SAVE = "print(trainer)"
NO_MEMORY = """raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\\nC++ frames")"""


def notebook(directory: Path, *sources: str, name: str = "lesson.ipynb") -> nbformat.NotebookNode:
    cells = [new_markdown_cell("trainer = 'in words'"), *map(new_code_cell, sources)]
    made = new_notebook(cells=cells)
    nbformat.write(made, directory / name)
    return made


@pytest.mark.slow
def test_a_cell_that_was_skipped_is_named_by_the_kernel(tmp_path: Path, output_root: Path) -> None:
    made = notebook(
        tmp_path,
        SETUP,
        TRAIN,
        SAVE,
        "print(traner)",
        "loss()",
        "len(3)",
        NO_MEMORY,
        "raise RuntimeError('x')",
    )
    client = NotebookClient(
        made,
        timeout=300,
        kernel_manager_class=_kernel_manager_class("tiny", {}, lambda: False),
        resources={"metadata": {"path": str(tmp_path)}},
    )
    said, tracebacks = {}, []
    with client.setup_kernel():
        client.execute_cell(made.cells[1], 1)
        for index in (3, 2, 3, 4, 5, 6, 7, 8):
            try:
                client.execute_cell(made.cells[index], index)
            except CellExecutionError as error:
                said[index] = f"{error.ename}: {error.evalue}"
                tracebacks.append("".join(made.cells[index].outputs[-1].traceback))
    assert ["Traceback (most recent call last)" in traceback for traceback in tracebacks] == [True] * 6
    assert made.cells[3].outputs[0].text == "42\n"  # after cell 2 it runs
    assert said == {
        3: "NameError: name 'trainer' is not defined; cell 3 of 9 ('trainer = 42') makes it: run all cells "
        "above this one first.",
        4: "NameError: name 'traner' is not defined",
        5: "NameError: name 'missing_inside' is not defined",
        6: "TypeError: object of type 'int' has no len()",
        7: "RuntimeError: memory ran out (DefaultCPUAllocator: can't allocate memory: you tried); close "
        "other programs or raise the limit of this process, or ask for less: a smaller "
        "args.per_device_train_batch_size, a smaller args.max_length, or fewer threads (OMP_NUM_THREADS).",
        8: "RuntimeError: x",
    }


def test_the_nearest_cell_above_is_named(tmp_path: Path) -> None:
    notebook(tmp_path, "import a as model", "with x as model: pass", SAVE, "model.train()", "model = 3")
    notebook(tmp_path, "model.train()", name="another.ipynb")
    assert advice("model", [SAVE, "model.train()"], tmp_path).startswith("cell 3 of 6 ('with x as model")


@pytest.mark.parametrize("source", ["def f():\n    name = 1", "%time name = 1", "f(name=1)", "name.x = 1"])
def test_what_does_not_make_a_name_is_not_taken_for_it(tmp_path: Path, source: str) -> None:
    notebook(tmp_path, source, "print(name)", "name = 1")
    assert advice("name", ["print(name)"], tmp_path) == ""


def test_a_notebook_that_is_not_found_leaves_the_general_advice(tmp_path: Path) -> None:
    notebook(tmp_path, "a = 1")
    assert advice("b", ["", "print(b)"], tmp_path).startswith("if an earlier cell makes it, run all cells")


def test_a_damaged_notebook_beside_is_passed_over(tmp_path: Path) -> None:
    notebook(tmp_path, SETUP, TRAIN, SAVE)
    (tmp_path / "a.ipynb").write_text("{", encoding="utf-8")
    assert "makes it" in advice("trainer", [SETUP, SAVE], tmp_path)


def test_a_changed_cell_is_still_of_its_notebook(tmp_path: Path) -> None:
    notebook(tmp_path, SETUP, TRAIN, SAVE)
    assert "('trainer = 42') makes it" in advice("trainer", [SETUP, "print(trainer, 1)"], tmp_path)


def test_outside_ipython_nothing_happens() -> None:
    explain_errors()


def test_a_handler_of_the_reader_s_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython

    class Shell:
        custom_exceptions = (KeyError,)

    monkeypatch.setattr(IPython, "get_ipython", Shell)
    explain_errors()  # `Shell` has no set_custom_exc
