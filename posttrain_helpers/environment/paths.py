"""Where things are written, and the promise that they are written whole.

Every path starts at the repository root, or at the directory that the environment variable `POSTTRAIN_OUTPUT`
names, whatever the working directory of the kernel is. Files and directories are written beside their target
and renamed, so that an interrupted run leaves either the old version or the new one, never half of one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from posttrain_helpers.errors import CourseError

OUTPUT_VARIABLE = "POSTTRAIN_OUTPUT"


def repository_root() -> Path:
    """Return the directory that holds `posttrain_helpers`."""
    return Path(__file__).resolve().parents[2]


def output_root() -> Path:
    """Return the directory for everything that a run writes: `$POSTTRAIN_OUTPUT`, else `trainer_output`.

    Raises:
        CourseError: the variable names something that is no directory.
    """
    configured = os.environ.get(OUTPUT_VARIABLE)
    if not configured:
        return repository_root() / "trainer_output"
    root = Path(os.path.expanduser(configured)).resolve()
    if root.exists() and not root.is_dir():
        raise CourseError(f"{OUTPUT_VARIABLE} names {root}, which is no directory; name one, or unset it.")
    return root


def write_text_atomic(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8 to `path` by way of a temporary file in the same directory.

    Args:
        path: the target; missing parent directories are made. A device or a pipe is written to as it is.
        text: the whole content.

    Returns:
        The path written.

    Raises:
        OSError: with the path, where the system refuses; nothing of the text is kept.
    """
    path = Path(path)
    with naming_file(path):
        check_file_target(path)
        if path.exists() and not path.is_file():  # a rename would put a file in the place of the device
            path.write_text(text, encoding="utf-8", newline="\n")
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8", newline="\n")
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return path


def check_file_target(path: str | Path) -> None:
    """Check that a path can become a file, before the work whose result it is to hold.

    Raises:
        CourseError: it is a directory, or lies below a file.
    """
    path = Path(path)
    if path.is_dir():
        raise CourseError(f"{path} is a directory, but a file is to be written; add the name of the file.")
    if blocking := [parent for parent in path.parents if parent.exists() and not parent.is_dir()]:
        raise CourseError(f"{path} cannot be written: {blocking[0]} is no directory; choose another path.")


def new_directory(path: str | Path) -> Path:
    """Return the directory that a path names, which holds nothing yet.

    Raises:
        CourseError: something is there already.
    """
    directory = Path(os.path.expanduser(path)).absolute()
    if os.path.lexists(directory) and not (directory.is_dir() and not any(directory.iterdir())):
        raise CourseError(
            f"{directory} is there already and nothing is written over it; name a new directory."
        )
    return directory


@contextmanager
def naming_file(path: str | Path) -> Iterator[None]:
    """Name the file in an error of the system that names none, as that of a full disk, or a temporary one."""
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None or str(error.filename).endswith(".tmp")
        if error.errno is not None and unnamed:
            error.filename, error.filename2 = str(path), None
        raise


def write_json_atomic(path: str | Path, value: Any) -> Path:
    """Write `value` as indented UTF-8 JSON (NaN is refused: it is not JSON) and return the path."""
    return write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, remedy: str) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Args:
        path: the file, in UTF-8.
        remedy: what to do about a damaged file: the end of the sentence, without its full stop.

    Raises:
        CourseError: the file holds no JSON, or something else than one object.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8, and numbers without end
        reason = "brackets in brackets without end" if isinstance(error, RecursionError) else error
        raise CourseError(f"{path} is damaged: it is not valid JSON ({reason}); {remedy}.") from error
    if not isinstance(content, dict):
        raise CourseError(
            f"{path} is damaged: it is no JSON object but a {type(content).__name__}; {remedy}."
        )
    return content


@contextmanager
def atomic_directory(target: str | Path) -> Iterator[Path]:
    """Yield a new directory beside `target` that replaces `target` when the block ends without an error.

    Args:
        target: the directory to make or replace; its parents are made.

    Yields:
        The temporary directory to fill. It is removed when the block raises, and `target` stays as it was.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Named before it is made: an interruption at any moment after that finds what to remove.
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        if target.exists():
            # Two renames, not a removal first: at no moment does a half-removed directory bear the target's
            # name.
            retired = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
            try:
                os.replace(target, retired / target.name)
                os.replace(temporary, target)
            except BaseException:
                if not target.exists() and (retired / target.name).exists():
                    os.replace(retired / target.name, target)
                raise
            finally:
                if target.exists():
                    # What Windows holds open stays there; the new directory is whole all the same.
                    shutil.rmtree(retired, ignore_errors=True)
        else:
            os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
