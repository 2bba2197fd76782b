"""Whether the outputs of a committed notebook are those of its sources, and of no machine in particular."""

from __future__ import annotations

import re
from pathlib import Path

from nbformat import NotebookNode

from posttrain_helpers.environment.notebooks import cell_name, read_notebook
from posttrain_helpers.lessons.freshness import NOISE_TAGS, source_hash

_HOME_OF_SOMEBODY = re.compile(r"(?:/home/|/Users/|[A-Za-z]:\\+Users\\+)[^\s'\"<>]+")


def check_freshness(path: str | Path) -> list[str]:
    """Return the problems of a committed notebook's outputs, one sentence each; empty means fresh.

    A code cell with the tag `figure` must show a picture (an `image/png` output).

    Args:
        path: the notebook.
    """
    notebook = read_notebook(Path(path))
    code = [
        (index, cell)
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
        and cell.source.strip()
        and "skip-execution" not in cell.metadata.get("tags", [])
    ]
    if not any(cell.execution_count for _, cell in code):
        return ["the notebook was never executed"]
    problems = []
    recorded = notebook.metadata.get("posttrain", {}).get("source_hash")
    if recorded is None:
        problems.append("the notebook's metadata has no posttrain.source_hash")
    elif recorded != source_hash(notebook):
        problems.append("a cell's source changed after the outputs were recorded")
    for count, (index, cell) in enumerate(code, start=1):
        name = cell_name(notebook.cells, index)
        if cell.execution_count is None:
            problems.append(f"{name} was not executed")
        elif cell.execution_count != count:
            problems.append(
                f"{name} has execution count {cell.execution_count}; in order it would be {count}"
            )
        problems += [
            f"the output of {name} holds an error: {output.ename}: {output.evalue}"
            for output in cell.outputs
            if output.output_type == "error"
        ]
        pictured = any(output.get("data", {}).get("image/png") for output in cell.outputs)
        if "figure" in cell.metadata.get("tags", []) and not pictured:
            problems.append(f"{name} is tagged 'figure' but shows no picture")
        for text in filter(None, (_HOME_OF_SOMEBODY.search(text) for text in _texts(cell.outputs))):
            problems.append(f"the output of {name} shows a path of one machine: {text.group()}")
    problems += [
        f"{cell_name(notebook.cells, index)} was injected by a run; remove it from the committed notebook"
        for index, cell in enumerate(notebook.cells)
        if NOISE_TAGS & set(cell.metadata.get("tags", []))
    ]
    return problems


def _texts(outputs: list[NotebookNode]) -> list[str]:
    texts = [output.text for output in outputs if output.output_type == "stream"]
    return texts + [
        value
        for output in outputs
        for kind, value in output.get("data", {}).items()
        if kind.startswith("text/") and isinstance(value, str)
    ]
