"""Killing lesson 01 while it trains leaves nothing that loads as complete, and a rerun starts cleanly."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from posttrain_helpers.models.manifest import is_complete, stage_path
from posttrain_helpers.report.results import metrics_path
from posttrain_helpers.stages.build import load_stage

MOST_SECONDS_TO_TRAINING = 240


def kill_tree(process: subprocess.Popen) -> None:
    """Kill a process and everything that it started at once, as a power cut would."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=30)


def wait_for_training(process: subprocess.Popen, output_root: Path) -> None:
    """Return when the memory monitor has written its first rows: then a training step has ended."""
    deadline = time.monotonic() + MOST_SECONDS_TO_TRAINING
    while time.monotonic() < deadline:
        rows = [
            path.read_text(encoding="utf-8").count("\n") for path in (output_root / "memory").glob("*.csv")
        ]
        if max(rows, default=0) >= 3:
            return
        assert process.poll() is None, "the lesson ended before it could be killed"
        time.sleep(0.2)
    raise AssertionError("the lesson did not begin to train")


@pytest.mark.slow
def test_a_killed_lesson_leaves_nothing_complete_and_a_rerun_works(
    output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "posttrain_helpers", "run", "01"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ))
    try:
        wait_for_training(process, output_root)
    finally:
        kill_tree(process)
    assert not is_complete(stage_path("sft", "tiny"))
    assert not metrics_path("01_supervised_fine_tuning", "tiny").exists()
    assert not (output_root / "tiny" / "notebooks" / "01_supervised_fine_tuning.ipynb").exists()
    monkeypatch.setenv("POSTTRAIN_OVERRIDES", "sft.data.n_train=160")  # what it learns is not the question
    stage = load_stage("sft", "tiny")
    assert is_complete(stage)
    leftovers = [path.name for path in stage.parent.iterdir() if path.name.endswith((".tmp", ".old"))]
    assert leftovers == []
