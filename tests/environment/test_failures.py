"""What the machine refuses: one sentence with the place, the reason and what to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from posttrain_helpers.environment.failures import machine_failure
from posttrain_helpers.errors import CourseError


def raised_from(cause: BaseException) -> BaseException:
    try:
        raise RuntimeError("a library's own words") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
            "tried to allocate 16384000 bytes. Error code 12 (Cannot allocate memory)\nC++ frames"
        ),
        RuntimeError("can't start new thread"),
        ImportError("libgfortran.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        raised_from(MemoryError()),
    ],
)
def test_memory_that_runs_out_is_a_sentence(error: BaseException) -> None:
    sentence = machine_failure(error)
    assert sentence.startswith("memory ran out")
    assert "per_device_train_batch_size" in sentence
    assert "\n" not in sentence
    assert "enforce fail" not in sentence


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EISDIR])
def test_a_refused_file_is_named_with_the_reason_and_where_it_may_move(
    output_root: Path, number: int
) -> None:
    inside = str(output_root / "tiny" / "report.html")
    sentence = machine_failure(OSError(number, os.strerror(number), inside))
    assert sentence.startswith(f"{inside} cannot be read or written: ")
    assert f"name another directory in POSTTRAIN_OUTPUT (it is {output_root} now)" in sentence
    assert ("make room" in sentence) == (number == errno.ENOSPC)
    outside = machine_failure(OSError(number, os.strerror(number), "/elsewhere/all.json"))
    assert outside.startswith("/elsewhere/all.json cannot")
    assert outside.endswith("choose another path.")


def test_a_file_of_the_hub_s_cache_moves_with_its_own_variable(
    output_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hub"))
    sentence = machine_failure(OSError(errno.EROFS, "read-only", str(tmp_path / "hub" / "x")))
    assert f"in HF_HOME (it is {tmp_path / 'hub'} now)" in sentence


@pytest.mark.parametrize(
    "error",
    [
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        raised_from(OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_a_full_disk_is_known_from_the_words_of_a_library_too(output_root: Path, error: Exception) -> None:
    assert re.match("what this command writes .*: the disk is full; make room", machine_failure(error))


def test_a_limit_on_the_size_of_files_is_known_too(output_root: Path) -> None:
    error = Exception("Error while serializing: I/O error: File too large (os error 27)")
    assert "a file of this size is not allowed there" in machine_failure(error)


def test_a_working_directory_that_is_gone_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        Path("x").absolute()
    assert machine_failure(caught.value).startswith("the working directory does not exist any more")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a defect"),
        KeyError("x"),
        OSError("a library's sentence without a number"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        BrokenPipeError(errno.EPIPE, "pipe"),
        CourseError("a mistake"),
    ],
)
def test_what_the_machine_did_not_refuse_stays_what_it_is(error: Exception) -> None:
    assert machine_failure(error) is None
