"""Plant known mistakes in a copy of the package, one at a time, and see whether the tests notice.

    python tests/mutants/run.py
    python tests/mutants/run.py --only statistics

The mistakes stand in `mistakes.py`. One is *caught* when a test that is named for it fails, and *survives*
when all of them pass: then a test is missing. It *does not apply* when its function or its text is gone.
The exit status is 1 if a mistake survived, and 2 if the tests fail without any. Test processes are forked, so
this runs on Linux and macOS only.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import fnmatch
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from mistakes import GROUPS, Mistake

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("posttrain_helpers", "tests", "pyproject.toml", "requirements.txt", "README.md")
# Imported once, in the process that every test process is forked from.
PRELOADED = ["pytest", "scipy.stats", "datasets", "pandas", "torch", "transformers", "trl", "peft"]
TIMEOUT = 600
NO_TESTS_FAILED, TESTS_FAILED = 0, 1


class DoesNotApplyError(Exception):
    """The function or the text of a mistake is not in the package."""


def source_file(root: Path, module: str) -> Path:
    """Return the file of a dotted module name."""
    path = root.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    raise DoesNotApplyError(f"there is no module {module}")


def definition(tree: ast.Module, name: str) -> ast.stmt:
    """Return the definition of a function, class or constant, such as `Comparison.claim`."""
    scope: ast.Module | ast.stmt = tree
    for part in name.split("."):
        for node in scope.body:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            names = {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}
            if part in names:
                scope = node
                break
        else:
            raise DoesNotApplyError(f"there is no {name}")
    return scope


def with_mistake(source: str, mistake: Mistake) -> str:
    """Return a module's source with the mistake in it."""
    node = definition(ast.parse(source), mistake.where)
    lines = source.splitlines(keepends=True)
    before, inside, after = (
        "".join(part)
        for part in (
            lines[: node.lineno - 1],
            lines[node.lineno - 1 : node.end_lineno],
            lines[node.end_lineno :],
        )
    )
    found = inside.count(mistake.old)
    if found != 1:
        raise DoesNotApplyError(f"{mistake.where} holds the text {found} times: {mistake.old!r}")
    changed = before + inside.replace(mistake.old, mistake.new) + after
    ast.parse(changed)
    return changed


def run_tests(root: str, tests: Sequence[str], stop_at_first: bool, log: str) -> None:
    """Run tests of a copy of the repository in this process, and end it with pytest's status."""
    import pytest

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.dont_write_bytecode = True  # a mistake must not outlive its turn in a cache
    os.chdir(root)
    os.environ["PYTHONPATH"] = root
    sys.path.insert(0, root)
    options = ["-q", "-p", "no:nbmake", "-p", "no:cacheprovider", "--import-mode=importlib", "-o", "addopts="]
    os._exit(pytest.main([*options, *(["-x"] if stop_at_first else []), *tests]))


def status_of(context: Any, root: Path, tests: Sequence[str], stop_at_first: bool = True) -> int | None:
    """Return the status of pytest, run in a process of its own; None if it did not come to an end."""
    arguments = (str(root), list(tests), stop_at_first, str(root / "tests.log"))
    process = context.Process(target=run_tests, args=arguments)
    process.start()
    process.join(TIMEOUT if stop_at_first else None)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def copy_of_repository(root: Path) -> None:
    """Copy what the tests of the package need, and compile the package once."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy2(source, root / name)
    compileall.compile_dir(root / "posttrain_helpers", quiet=1)


def outcome_of(context: Any, root: Path, path: Path, changed: str, tests: Sequence[str]) -> tuple[str, str]:
    """Put a changed source in the place of the right one for as long as the tests run.

    Returns:
        "caught", "survived" or "does not apply", and a note.
    """
    source, stat = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(changed, encoding="utf-8")
    try:
        status = status_of(context, root, tests)
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the compiled module is right again
    if status is None:
        return "caught", f" (no end within {TIMEOUT} s)"
    if status not in (NO_TESTS_FAILED, TESTS_FAILED):
        return "does not apply", f" (pytest ends with {status})"
    return ("survived" if status == NO_TESTS_FAILED else "caught"), ""


def chosen(pattern: str) -> list[tuple[str, Mistake, tuple[str, ...]]]:
    """Return module, mistake and tests of each mistake whose name or tests fit the pattern."""
    return [
        (group.module, mistake, mistake.tests or group.tests)
        for group in GROUPS
        for mistake in group.mistakes
        if any(
            fnmatch.fnmatch(text, f"*{pattern}*")
            for text in (f"{group.module}.{mistake.where}", *(mistake.tests or group.tests))
        )
    ]


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="part of a function's or test's name")
    parser.add_argument("--list", action="store_true", help="only see which mistakes apply")
    parser.add_argument("--no-baseline", action="store_true", help="take it that the tests pass as they are")
    options = parser.parse_args()
    mistakes = chosen(options.only)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory).resolve()
        copy_of_repository(root)
        tests = sorted({test for _, _, named in mistakes for test in named})
        if not options.no_baseline and not options.list:
            if (status := status_of(context, root, tests, stop_at_first=False)) != NO_TESTS_FAILED:
                print((root / "tests.log").read_text(encoding="utf-8")[-3000:])
                print(f"pytest ends with {status} without any mistake; mend the tests first.")
                return 2
            print(f"{len(tests)} files or tests pass without a mistake", flush=True)
        for module, mistake, named in mistakes:
            started = time.perf_counter()
            try:
                path = source_file(root, module)
                changed = with_mistake(path.read_text(encoding="utf-8"), mistake)
            except DoesNotApplyError as error:
                outcome, note = "does not apply", f" ({error})"
            else:
                outcome, note = "applies", ""
                if not options.list:
                    outcome, note = outcome_of(context, root, path, changed, named)
            counts[outcome] += 1
            seconds = time.perf_counter() - started
            place = f"{module.removeprefix('posttrain_helpers.')}.{mistake.where}"
            print(f"{outcome:14} {seconds:5.1f} s  {place}: {mistake.what}{note}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return 1 if counts["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
