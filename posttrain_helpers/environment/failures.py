"""What the machine refuses, in one sentence: a file, a directory, room on a disk, memory.

The command line asks here about whatever reaches it, so that no place that reads or writes needs a handler of
its own.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from posttrain_helpers.environment.paths import OUTPUT_VARIABLE, output_root
from posttrain_helpers.errors import CourseError

_NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of the disk is used up"}
_FILE_REFUSALS = {
    **_NO_ROOM,
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "access is denied",
    errno.EPERM: "access is denied",
    errno.EEXIST: "something else is there already",
    errno.ENOTDIR: "a file is in the place of a directory",
    errno.EISDIR: "it is a directory, not a file",
    errno.ENOENT: "it does not exist",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ELOOP: "it is a link that leads to itself",
    errno.EIO: "the disk fails",
    errno.EFBIG: "a file of this size is not allowed there",
    errno.EMFILE: "too many files are open",
}
# Rust libraries (safetensors, tokenizers) and torch give the reason in their text only.
_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)")
_TORCH_CANNOT_WRITE = re.compile(r"PytorchStreamWriter failed writing|inline_container\.cc.*unexpected pos")
_NO_MEMORY = re.compile(
    r"can(?:no|')t allocate memory|std::bad_alloc|out of memory|failed to map segment|can't start new thread"
    r"|resource temporarily unavailable",
    re.IGNORECASE,
)
_TORCH_PLACE = re.compile(r"^\[enforce fail at [^\]]*\] [^.]*\. ")


def machine_failure(error: BaseException) -> str | None:
    """Return one sentence about what the machine refused, None for an error of another kind.

    Args:
        error: what was raised, or was raised from what the machine refused.
    """
    if (sentence := memory_failure(error)) is not None:
        return sentence
    for cause in _causes(error):
        if (number := _refusal(cause)) is not None:
            return _file_sentence(cause, number)
    return None


def memory_failure(error: BaseException) -> str | None:
    """Return one sentence about memory that ran out, None for an error of another kind.

    Args:
        error: what was raised, or was raised from what the machine refused.
    """
    for cause in _causes(error):
        if isinstance(cause, MemoryError) or _NO_MEMORY.search(_first_line(cause)):
            return _memory_sentence(cause)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _memory_sentence(error: BaseException) -> str:
    detail = _TORCH_PLACE.sub("", _first_line(error)).rstrip(".")
    return (
        f"memory ran out{f' ({detail})' if detail else ''}; close other programs or raise the limit of this "
        "process, or ask for less: a smaller args.per_device_train_batch_size, a smaller args.max_length, or "
        "fewer threads (OMP_NUM_THREADS)."
    )


def _refusal(error: BaseException) -> int | None:
    """Return the system's number for what it refused about a file, None for something else."""
    number = error.errno if isinstance(error, OSError) else None
    if found := _NUMBER_IN_TEXT.search(str(error)):
        number = int(found[1])
    if _TORCH_CANNOT_WRITE.search(str(error)):
        number = errno.ENOSPC
    return number if number in _FILE_REFUSALS else None


def _file_sentence(error: BaseException, number: int) -> str:
    if number == errno.ENOENT and not _has_working_directory():
        return "the working directory does not exist any more; change to one that does and start again."
    # Of a file that is renamed, the second name is the one that the reader knows.
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    place = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else None
    room = "make room, or " if number in _NO_ROOM else ""
    shown = place or "what this command writes"
    return f"{shown} cannot be read or written: {_FILE_REFUSALS[number]}; {room}{_elsewhere(place)}."


def _elsewhere(place: str | None) -> str:
    """Return how the reader moves what lies at a place."""
    for variable, root in _movable_roots():
        if place is None or _below(place, root) or _below(str(root), Path(place)):
            return f"name another directory in {variable} (it is {root} now)"
    return "choose another path"


def _movable_roots() -> Iterator[tuple[str, Path]]:
    with suppress(CourseError):  # that it cannot be used is what the sentence is about already
        yield OUTPUT_VARIABLE, output_root()
    if hub := sys.modules.get("huggingface_hub.constants"):
        yield "HF_HOME", Path(hub.HF_HOME)


def _below(place: str, root: Path) -> bool:
    return Path(place).is_relative_to(root)


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
