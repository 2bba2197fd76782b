"""Record the outputs of a committed notebook (`run --inplace`), without what differs between machines."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain_helpers.environment.notebooks import read_notebook
from posttrain_helpers.environment.paths import output_root, repository_root, write_text_atomic

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOISE_TAGS = {"injected-parameters", "papermill-error-cell-tag"}
_CELL_NOISE = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled")
_NOTEBOOK_NOISE = ("papermill", "widgets", "language_info", "kernelspec")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_KERNEL_FILE = re.compile(r"[^\s'\"]*ipykernel_\d+[\\/]+\d+\.py")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{8,16}\b")


def record(path: Path, executed: Path) -> None:
    """Rewrite a committed notebook with the outputs of its executed copy and the hash of its sources."""
    import nbformat

    notebook = normalise(read_notebook(executed))
    notebook.metadata["posttrain"] = {"source_hash": source_hash(notebook)}
    nbformat.validate(notebook)
    write_text_atomic(path, nbformat.writes(notebook).rstrip("\n") + "\n")


def source_hash(notebook: NotebookNode) -> str:
    """Return the SHA-256 of the kinds and sources of all cells, in order."""
    sources = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(sources, ensure_ascii=True).encode("ascii")).hexdigest()


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Return a copy of an executed notebook without what differs between machines or moments.

    Metadata of papermill, time stamps, widget states, versions, memory addresses and machine paths go;
    execution counts run from 1; a line that was rewritten keeps its last state, and a progress bar that went
    away leaves nothing.
    """
    notebook = deepcopy(notebook)
    notebook.cells = [cell for cell in notebook.cells if not NOISE_TAGS & set(cell.metadata.get("tags", []))]
    for key in _NOTEBOOK_NOISE:
        notebook.metadata.pop(key, None)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python"}
    count = 0
    for cell in notebook.cells:
        for key in _CELL_NOISE:
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type != "code":
            continue
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
        cell.outputs = _normal_outputs(cell.outputs, cell.execution_count)
    return notebook


def _normal_outputs(outputs: list[NotebookNode], count: int | None) -> list[NotebookNode]:
    # A widget needs its kernel; without one it shows nothing.
    kept = _joined_streams([output for output in outputs if _WIDGET not in output.get("data", {})])
    for output in kept:
        if output.output_type == "stream":
            output.text = _scrub(_last_states(output.text))
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/") and isinstance(value, str):
                output.data[kind] = _scrub(value)
        if output.output_type == "execute_result":
            output.execution_count = count
    # A bar of text that was wiped out leaves nothing, and what it parted is one again.
    return _joined_streams([output for output in kept if output.get("text") != ""])


def _joined_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    joined: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _last_states(text: str) -> str:
    """Return what a terminal shows in the end: of a line that was rewritten, the last state."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(_last_state(line) if "\r" in line else line for line in lines)


def _last_state(line: str) -> str:
    states = [state for state in line.split("\r") if state]
    return states[-1].rstrip() if states else ""


def _scrub(text: str) -> str:
    """Replace machine paths and memory addresses by words that are the same everywhere."""
    text = _ADDRESS.sub("0x…", _KERNEL_FILE.sub("the cell above", text))
    places = [
        (output_root(), "trainer_output"),
        (repository_root(), "."),
        (Path(sys.prefix), "$VENV"),
        (Path(tempfile.gettempdir()), "$TMP"),
        (Path.home(), "~"),
    ]
    for place, word in sorted(places, key=lambda pair: -len(str(pair[0]))):
        if len(place.parts) < 2:  # a home of "/" is part of every path
            continue
        for form in {str(place), str(place).replace("\\", "\\\\"), place.as_posix()}:
            text = re.sub(rf"(?<![\w.~-]){re.escape(form)}(?![\w-])", lambda _, word=word: word, text)
    return text
