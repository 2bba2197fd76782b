"""Commands that a notebook starts: what they print, how they fail, and that none is left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from posttrain_helpers.environment.fetched import PROVENANCE
from posttrain_helpers.environment.paths import OUTPUT_VARIABLE
from posttrain_helpers.lessons.commands import kill_when, run, torchrun

WAITS = "import time; time.sleep(600)"
# A process that starts another one, says which, and waits.
FAMILY = f"""
import subprocess, sys, pathlib
child = subprocess.Popen([sys.executable, "-c", {WAITS!r}])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
child.wait()
"""


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def is_gone(pid: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_lines_come_back_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = f"import os, posttrain_helpers; print('é'); print(os.environ[{OUTPUT_VARIABLE!r}])"
    program += "; print(os.environ['OMP_NUM_THREADS'])"
    assert run(python(program), tmp_path) == ["é", str(tmp_path), "1"]


def test_a_model_that_was_fetched_into_the_readers_output_is_found(
    tmp_path: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = output_root / "models" / "SmolLM2-135M-Instruct"
    directory.mkdir(parents=True)
    (directory / PROVENANCE).write_text("{}", encoding="utf-8")
    monkeypatch.setenv("POSTTRAIN_PROFILE", "smollm2")
    program = "from posttrain_helpers import get_profile; print(get_profile().base_model)"
    assert run(python(program), tmp_path) == [str(directory.resolve())]


def test_a_command_that_fails_shows_its_last_lines(tmp_path: Path) -> None:
    program = "for number in range(99): print('line', number)\nraise SystemExit('no such recipe')"
    with pytest.raises(RuntimeError, match=r"failed with exit code 1(.|\n)*line 98\nno such recipe") as error:
        run(python(program), tmp_path)
    assert "line 10\n" not in str(error.value)


def test_what_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "child"
    with pytest.raises(RuntimeError, match="took more than 3 seconds and was ended"):
        run(python(FAMILY, note), tmp_path, seconds=3)
    assert is_gone(int(note.read_text()))


def test_an_interrupted_cell_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait, note = subprocess.Popen.wait, tmp_path / "child"

    def interrupted(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is None:
            return wait(process)
        while not (note.exists() and note.read_text()):
            time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(python(FAMILY, note), tmp_path)
    assert is_gone(int(note.read_text()))


def test_a_command_is_killed_when_its_file_is_there(tmp_path: Path) -> None:
    started = time.monotonic()
    code = kill_when(python(FAMILY, tmp_path / "child"), tmp_path, "chil?")
    assert code != 0
    assert time.monotonic() - started < 60


def test_what_ends_before_its_file_is_there_was_not_killed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended before it was killed at nothing"):
        kill_when(python("pass"), tmp_path, "nothing")
    with pytest.raises(RuntimeError, match="failed with exit code 3"):
        kill_when(python("raise SystemExit(3)"), tmp_path, "nothing")


def test_a_command_without_its_file_is_killed_in_the_end_and_is_an_error(tmp_path: Path) -> None:
    note = tmp_path / "child"
    with pytest.raises(RuntimeError, match="took more than 3 seconds to nothing"):
        kill_when(python(FAMILY, note), tmp_path, "nothing", seconds=3)
    assert is_gone(int(note.read_text()))


def test_a_file_of_an_earlier_run_kills_nothing(tmp_path: Path) -> None:
    (tmp_path / "child").write_text("")
    with pytest.raises(RuntimeError, match="child is there before the command starts"):
        kill_when(python("pass"), tmp_path, "child")


def test_each_group_has_a_port_of_its_own() -> None:
    first, second = torchrun(2), torchrun(3)
    assert first[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert first[first.index("--nproc_per_node") + 1] == "2"
    assert "--master_port" in second
