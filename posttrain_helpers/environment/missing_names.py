"""In a notebook: a NameError says which cell has to be run first, and memory that runs out what to change.

After a restart of the kernel, or where a cell was skipped, a later cell fails with a bare "name 'trainer' is
not defined". The notebooks beside the kernel tell which cell makes that name.
"""

from __future__ import annotations

import symtable
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.failures import memory_failure
from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell
    from nbformat import NotebookNode


def explain_errors() -> None:
    """Let IPython say what to do about a missing name or memory that ran out; elsewhere nothing changes."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None and not shell.custom_exceptions:  # a reader's own handler stays
        shell.set_custom_exc((NameError, MemoryError, RuntimeError), _show)


def advice(name: str, run: Sequence[str], directory: Path) -> str:
    """Return what to run before the cell that ran last, an empty text where no cell makes the name.

    Args:
        name: the name that is missing.
        run: the sources of the cells that ran, the failed one last.
        directory: where the notebook lies; the one that holds most of these cells is taken.
    """
    from posttrain_helpers.environment.notebooks import cell_name

    cells = _cells_of_notebook(run, directory)
    if cells is None:
        return "if an earlier cell makes it, run all cells above this one first"
    sources = [cell.source.strip() for cell in cells]
    end = sources.index(run[-1].strip()) if run[-1].strip() in sources else len(cells)
    makers = [index for index in range(end) if name in _names_made(cells[index])]
    if not makers:
        return ""
    return f"{cell_name(cells, makers[-1])} makes it: run all cells above this one first"


def _show(
    shell: InteractiveShell,
    kind: type[Exception],
    error: Exception,
    traceback: TracebackType,
    tb_offset: int | None = None,
) -> None:
    """Show the error as IPython does, with a message that says what to do."""
    if not isinstance(error, NameError):
        if (sentence := memory_failure(error)) is not None:
            error.args = (sentence,)
    elif error.name and _is_of_a_cell(traceback, shell.user_ns):
        added = advice(error.name, shell.history_manager.input_hist_raw, Path.cwd())
        if added:
            error.args = (f"{error}; {added}.",)
    shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)


def _is_of_a_cell(traceback: TracebackType, names: dict[str, Any]) -> bool:
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_globals is names


def _cells_of_notebook(run: Sequence[str], directory: Path) -> list[NotebookNode] | None:
    from posttrain_helpers.environment.notebooks import read_notebook

    asked = {source.strip() for source in run if source.strip()}
    best, most = None, 0
    for path in sorted(directory.glob("*.ipynb")):
        try:
            cells = read_notebook(path).cells
        except CourseError:  # that another notebook is damaged is not what the reader asks about
            continue
        shared = len(asked & {cell.source.strip() for cell in cells if cell.cell_type == "code"})
        if shared > most:
            best, most = cells, shared
    return best


def _names_made(cell: NotebookNode) -> set[str]:
    """Return the names that a code cell binds at its top level."""
    if cell.cell_type != "code":
        return set()
    try:
        symbols = symtable.symtable(cell.source, "cell", "exec").get_symbols()
    except SyntaxError:  # magics
        return set()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
