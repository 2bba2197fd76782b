"""Start commands from a notebook, several processes at a time too, and leave none behind.

    lines = run([*torchrun(2), "-m", "posttrain_helpers", "train", "sft", "--name", "two"], directory)

All that the commands write goes into `directory`, whatever the working directory of the notebook is; each
process has one thread.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from posttrain_helpers.environment.fetched import fetched_directory
from posttrain_helpers.environment.paths import OUTPUT_VARIABLE, repository_root
from posttrain_helpers.environment.profiles import MODEL_VARIABLE, get_profile

SECONDS = 1800.0
_PRINTED = "printed.txt"
_LAST_LINES = 60  # what torchrun says after the error is long


def torchrun(processes: int) -> list[str]:
    """Return the beginning of a command that starts so many processes on this machine, as one group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = f"-m torch.distributed.run --nproc_per_node {processes} --master_addr 127.0.0.1"
    return [sys.executable, *launcher.split(), "--master_port", str(port)]


def run(command: Sequence[str], directory: Path, seconds: float = SECONDS) -> list[str]:
    """Run a command to its end and return the lines that it printed.

    Args:
        command: its words.
        directory: an existing one, for what it writes and prints.
        seconds: after so many it is ended with all that it has started, as when this function is interrupted.

    Raises:
        RuntimeError: it failed or took too long; the message ends with the last lines that it printed.
    """
    process = _start(command, directory)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        failure = f"took more than {seconds:g} seconds and was ended"
    else:
        failure = f"failed with exit code {process.returncode}" if process.returncode else ""
    finally:
        _end(process)
    lines = _printed(directory)
    if failure:
        raise _failed(command, failure, lines)
    return lines


def kill_when(command: Sequence[str], directory: Path, pattern: str, seconds: float = SECONDS) -> int:
    """Start a command, kill it as soon as a file is there, and return its exit code.

    Args:
        command: its words.
        directory: as for `run`.
        pattern: of the file below the directory, which is not there yet.
        seconds: after so many it is killed without the file.

    Raises:
        RuntimeError: the file was there before, or the command ended or took too long without being killed at
            its file; where the command was started, the message ends with the last lines that it printed.
    """
    if any(directory.glob(pattern)):
        raise RuntimeError(f"{pattern} is there before the command starts; remove it first.")
    process = _start(command, directory)
    latest = time.monotonic() + seconds
    there = False
    try:
        while process.poll() is None and not there and time.monotonic() < latest:
            time.sleep(0.02)
            there = any(directory.glob(pattern))
        ended = process.poll() is not None
    finally:
        code = _end(process)
    if ended:
        how = f"failed with exit code {code}" if code else f"ended before it was killed at {pattern}"
        raise _failed(command, how, _printed(directory))
    if not there:
        raise _failed(command, f"took more than {seconds:g} seconds to {pattern}", _printed(directory))
    return code


def _start(command: Sequence[str], directory: Path) -> subprocess.Popen[bytes]:
    with (directory / _PRINTED).open("wb") as printed:
        return subprocess.Popen(
            command,
            env=_environment(directory),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )


def _end(process: subprocess.Popen[bytes]) -> int:
    """Kill a process and all that it has started, unless it has ended; return its exit code."""
    import psutil

    if process.poll() is None:
        family = psutil.Process(process.pid)
        # A launcher that is killed alone leaves its workers behind.
        for member in [*family.children(recursive=True), family]:
            with suppress(psutil.NoSuchProcess):
                member.kill()
    return process.wait()


def _printed(directory: Path) -> list[str]:
    return (directory / _PRINTED).read_text(encoding="utf-8", errors="replace").splitlines()


def _failed(command: Sequence[str], failure: str, lines: list[str]) -> RuntimeError:
    said = "\n".join(lines[-_LAST_LINES:])
    return RuntimeError(f"the command {failure}: {' '.join(command)}\n{said}")


def _environment(directory: Path) -> dict[str, str]:
    import torch

    found = [str(repository_root()), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(found),
        "PYTHONIOENCODING": "utf-8",
        OUTPUT_VARIABLE: str(directory),
        "OMP_NUM_THREADS": "1",
        "USE_LIBUV": "0",  # PyTorch for Windows may come without it
    }
    if fetched := fetched_directory(get_profile().base_model):  # it lies below the reader's own output
        variables[MODEL_VARIABLE] = str(fetched)
    if torch.cuda.device_count() < 2:  # two processes cannot share one GPU
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return variables
