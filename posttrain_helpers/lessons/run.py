"""Find the notebooks and execute them in order.

Run the whole course, one lesson, or refresh the committed notebooks:

    python -m posttrain_helpers run
    python -m posttrain_helpers run 01 --profile tiny --seed 1
    python -m posttrain_helpers run --inplace
"""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.notebooks import cell_name, read_notebook
from posttrain_helpers.environment.paths import naming_file, output_root, repository_root
from posttrain_helpers.environment.runtime import check_seed
from posttrain_helpers.environment.splits import DEFAULT_SPLIT, reported_split
from posttrain_helpers.errors import CourseError
from posttrain_helpers.lessons.freshness import record
from posttrain_helpers.report.results import LESSON_NAME, metrics_path, read_metrics

if TYPE_CHECKING:
    from nbformat import NotebookNode

COMMITTED_PROFILE = "tiny"
KERNEL_START_SECONDS = 120


def notebooks_directory() -> Path:
    """Return the directory of the committed notebooks."""
    return repository_root() / "notebooks"


def discover(directory: Path | None = None) -> list[Path]:
    """Return the lessons (`NN_name.ipynb`) in reading order.

    Args:
        directory: where to look; None is the repository's `notebooks`.
    """
    directory = directory or notebooks_directory()
    return sorted(path for path in directory.glob("*.ipynb") if LESSON_NAME.fullmatch(path.stem))


def select(names: Sequence[str] = (), directory: Path | None = None) -> list[Path]:
    """Return the lessons that `names` ask for, in reading order.

    Args:
        names: numbers (`1`, `01`; `11` is all of its parts, `11a` one), names (`01_supervised_fine_tuning`)
            or file names; empty means all.
        directory: where to look; None is the repository's `notebooks`.

    Raises:
        CourseError: when there are no notebooks, or a name fits none of them.
    """
    lessons = discover(directory)
    if not lessons:
        place = directory or notebooks_directory()
        raise CourseError(f"no lesson was found in {place}; run from a clone of the repository.")
    chosen = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        found = [path for path in lessons if stem == path.stem or _is_number(stem, path)]
        if not found:
            raise CourseError(
                f"there is no lesson {name!r}; the lessons are {', '.join(path.stem for path in lessons)}."
            )
        chosen.update(found)
    return [path for path in lessons if path in chosen or not names]


def _is_number(text: str, path: Path) -> bool:
    number, _, _ = path.stem.partition("_")
    return bool(text) and (text.zfill(len(number)) == number or text.zfill(2) == number[:2])


def run_lessons(
    names: Sequence[str] = (),
    profile: str | None = None,
    seed: int | None = None,
    inplace: bool = False,
    directory: Path | None = None,
) -> list[Path]:
    """Execute lessons in order and print one line for each; stop at the first that fails.

    Args:
        names: which lessons, see `select`; empty means all.
        profile: a profile's name; None is the default profile.
        seed: the seed injected into the `parameters` cell; None means 0.
        inplace: also rewrite the committed notebooks with the new outputs. They keep their own parameters.
        directory: where the notebooks are; None is the repository's `notebooks`.

    Returns:
        The paths of the executed copies, `<output>/<profile>/notebooks/<lesson>.ipynb`, below `dev` for that
        split.

    Raises:
        CourseError: when a lesson fails, or writes no results; the sentence names the lesson and the cell.
    """
    from posttrain_helpers.environment.profiles import get_profile
    from posttrain_helpers.environment.splits import results_directory

    lessons = select(names, directory)
    if seed is not None:
        check_seed(seed)  # now, not in the first cell
    profile = COMMITTED_PROFILE if inplace and profile is None else get_profile(profile).name
    split = reported_split()
    if inplace:
        _check_as_committed(profile, seed or 0, split)
    parameters = None if inplace else {"PROFILE": profile, "SEED": seed or 0}
    copies = results_directory(profile) / "notebooks"
    print(
        f"profile {profile}, seed {seed or 0}, split {split}, lessons: {len(lessons)}, "
        f"executed copies in {copies}"
    )
    width = max(len(path.stem) for path in lessons)
    executed = []
    for path in lessons:
        started = time.time()
        target = execute(path, copies / path.name, profile, parameters)
        headline = _headline(path.stem, profile, started)
        print(f"{path.stem.ljust(width)}  {time.time() - started:6.1f} s  {headline}", flush=True)
        if inplace:
            record(path, target)
        executed.append(target)
    return executed


def _check_as_committed(profile: str, seed: int, split: str) -> None:
    """Refuse to record a run that computes something else than the committed notebooks."""
    from posttrain_helpers.environment.profiles import changes_in_force

    asked = {"profile": profile, "seed": seed, "split": split}
    committed = {"profile": COMMITTED_PROFILE, "seed": 0, "split": DEFAULT_SPLIT}
    changed = [f"the {key} {value!r}" for key, value in asked.items() if value != committed[key]]
    if changed := [*changed, *changes_in_force()]:
        raise CourseError(
            f"--inplace records the notebooks as committed, but {' and '.join(changed)} would change what "
            "they compute; leave out the option or unset the variable, or leave --inplace out."
        )


def execute(
    source: Path,
    target: Path,
    profile: str,
    parameters: dict[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Path:
    """Execute a notebook with the interpreter that runs this function, and keep the executed copy.

    Args:
        source: the notebook; it is not changed.
        target: where the copy goes. A failing notebook leaves its copy too, with the traceback in it.
        profile: what `POSTTRAIN_PROFILE` says inside the kernel.
        parameters: values injected after the cell tagged `parameters`; None injects nothing.
        variables: of the kernel's environment, beside and over those of this process.

    Returns:
        `target`.

    Raises:
        CourseError: when a cell fails or the kernel dies, and when the `parameters` cell lacks a parameter.
    """
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    cells = read_notebook(source).cells
    injected_after = _check_parameters(source, cells, parameters) if parameters else len(cells)
    reached, busy = 0, False

    def start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal reached, busy
        reached, busy = cell_index - (cell_index > injected_after), True

    def finish(cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        nonlocal busy
        busy = False

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.stem}.partial.ipynb")
    escape = str.maketrans({"{": "{{", "}": "}}"})  # papermill formats its paths
    try:
        with naming_file(target):
            execute_notebook(
                str(source).translate(escape),
                str(partial).translate(escape),
                parameters=parameters,
                kernel_name="python3",
                language="python",
                kernel_manager_class=_kernel_manager_class(profile, variables or {}, lambda: busy),
                on_cell_start=start,
                on_cell_executed=finish,
                progress_bar={"desc": source.stem, "leave": False, "disable": not sys.stderr.isatty()},
                start_timeout=KERNEL_START_SECONDS,
                cwd=str(source.parent),
            )
    except PapermillExecutionError as error:
        partial.replace(target)
        index = error.cell_index - (error.cell_index > injected_after)
        reason = f"{error.ename}: {' '.join(error.evalue.split())}"
        raise CourseError(
            f"lesson {source.stem} stopped at {cell_name(cells, index)} with {reason} "
            f"(the whole traceback is in {target})."
        ) from error
    except DeadKernelError as error:
        partial.replace(target)
        raise CourseError(
            f"the kernel of lesson {source.stem} died in {cell_name(cells, reached)}; most often memory ran "
            "out: close other programs and run the lesson again."
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial.replace(target)


def _kernel_manager_class(profile: str, variables: Mapping[str, str], busy: Callable[[], bool]) -> type:
    """Return a kernel manager that starts this interpreter, whatever kernel specs are installed."""
    import zmq
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    from posttrain_helpers.environment.profiles import (
        MODEL_VARIABLE,
        changes_in_force,
        get_profile,
    )

    environment = {
        "POSTTRAIN_PROFILE": profile,
        # The kernel's working directory is the notebook's; a relative path would point elsewhere there.
        "POSTTRAIN_OUTPUT": str(output_root()),
        # A backend chosen in the shell would leave the notebooks without pictures.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    if MODEL_VARIABLE in changes_in_force():
        environment[MODEL_VARIABLE] = get_profile(profile).base_model
    environment |= variables
    specification = KernelSpec(**{**get_kernel_dict(), "env": environment})
    specification.argv[0] = sys.executable

    class CurrentInterpreter(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            # Without encryption every kernel prints a warning about it.
            super().__init__(transport_encryption="auto" if zmq.has("curve") else "disabled", **options)

        @property
        def kernel_spec(self) -> KernelSpec:
            return specification

        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
            # After Ctrl-C a cell still runs, and a busy kernel does not answer a polite request.
            await self._async_shutdown_kernel(now or busy(), restart)

        async def _async_interrupt_kernel(self) -> None:
            # Shutting down begins with an interrupt. It can only stop a cell; a kernel that waits prints it.
            if busy():
                await super()._async_interrupt_kernel()

    return CurrentInterpreter


def _check_parameters(source: Path, cells: list[NotebookNode], parameters: dict[str, Any]) -> int:
    """Return the index of the `parameters` cell, which must set every parameter that is to be injected."""
    tagged = [index for index, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise CourseError(
            f"{source.name} has {len(tagged)} cells tagged 'parameters'; a lesson has exactly one, "
            f"which sets {' and '.join(parameters)}."
        )
    names = {node.id for node in ast.walk(ast.parse(cells[tagged[0]].source)) if isinstance(node, ast.Name)}
    missing = [name for name in parameters if name not in names]
    if missing:
        raise CourseError(
            f"the cell tagged 'parameters' of {source.name} does not set {' and '.join(missing)}; add it."
        )
    return tagged[0]


def _headline(lesson: str, profile: str, started: float) -> str:
    path = metrics_path(lesson, profile)
    # Two seconds of slack: some file systems keep no finer time.
    if not path.exists() or path.stat().st_mtime < started - 2:
        raise CourseError(
            f"lesson {lesson} ended without writing {path}; its last cell must call write_results(...)."
        )
    claim = read_metrics(path).headline
    return f"{claim.name}: {claim.before:.3g} -> {claim.after:.3g} ({claim.verdict.replace('_', ' ')})"
