"""A training that takes minutes says how far it is."""

from __future__ import annotations

import io
import re
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_trainings import small_recipe, trainer_of

from posttrain_helpers.training import progress
from posttrain_helpers.training.progress import Progress, progress_text
from posttrain_helpers.training.trainer import train
from posttrain_helpers.wording import readable_size


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each step seem to take six seconds."""
    seconds = iter(range(0, 10_000, 6))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


def printed(model_dir: Path, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **options: Any) -> str:
    monkeypatch.setattr(sys, "stdout", stream)
    shown = Progress("building …", **options)
    trainer = trainer_of(model_dir, small_recipe(max_steps=5, logging_steps=1), shown.callback())
    train(trainer)
    shown.done("done in 30 s")
    return stream.getvalue()


@pytest.mark.usefixtures("output_root", "every_step")
def test_a_file_gets_a_line_now_and_then(random_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(random_model_dir, monkeypatch, io.StringIO())
    head, first, second, last = text.splitlines()
    assert (head, last) == ("building … ", "done in 30 s")
    assert re.fullmatch(
        r"  step 2 of 5, loss \d\.\d{3}, [\d.,]+ tokens/s, [\d.,]+ [MG]B, about 18 s left", first
    )
    assert second.startswith("  step 4 of 5")
    assert "\r" not in text


@pytest.mark.usefixtures("output_root", "every_step")
def test_a_terminal_shows_one_line(random_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(random_model_dir, monkeypatch, Terminal(), own_line=True)
    head, line = text.rstrip("\n").split("\n")
    assert head == "building …"
    states = line.split("\r")[1:]
    assert [state.split(",")[0] for state in states[:-1]] == [f"  step {step} of 5" for step in range(1, 6)]
    assert states[-1].rstrip() == "done in 30 s"
    # What is longer is wiped out by what follows.
    assert all(len(after) >= len(before.rstrip()) for before, after in pairwise(states))


@pytest.mark.usefixtures("every_step")
def test_a_resumed_training_is_timed_from_where_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    callback = Progress("building …").callback()
    args = SimpleNamespace(device=torch.device("cpu"))
    state = SimpleNamespace(global_step=90, max_steps=100, is_world_process_zero=True, log_history=[])
    callback.on_train_begin(args, state, None)
    for state.global_step in (91, 92):
        callback.on_step_end(args, state, None)
    assert capsys.readouterr().out.endswith("B, about 48 s left\n")


@pytest.mark.parametrize(
    ("tokens", "pace", "first_step", "said"),
    [
        ([(10, 1000), (20, 1500)], 2.0, 0, ["25 tokens/s"]),
        ([(10, 1000)], 0.5, 0, ["200 tokens/s"]),
        ([(10, 1000), (10, 1000)], 0.5, 0, []),
        ([(10, 1000)], 0.0, 0, []),
        ([], 0.5, 0, []),
        # SFT counts from 0 again where it goes on.
        ([(1, 104), (2, 209), (3, 52)], 0.5, 2, []),
        ([(1, 104), (2, 209), (3, 52), (4, 152)], 0.5, 2, ["200 tokens/s"]),
    ],
)
def test_the_speed_is_that_between_the_latest_two_logs(
    tokens: list[tuple[int, int]], pace: float, first_step: int, said: list[str]
) -> None:
    logs = [{"step": step, "num_tokens": count} for step, count in tokens]
    state = SimpleNamespace(log_history=[*logs, {"step": 30, "eval_loss": 1.0}])
    assert progress._speed(state, pace, first_step) == said


def test_the_memory_of_a_gpu_is_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1_000_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3_000_000_000)
    assert progress.used_memory(torch.device("cuda")) == f"{readable_size(3_000_000_000)} of GPU memory"


@pytest.mark.usefixtures("output_root")
def test_a_short_training_has_one_line(random_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(random_model_dir, monkeypatch, io.StringIO()) == "building … done in 30 s\n"


@pytest.mark.parametrize(
    ("logs", "seconds", "text"),
    [
        ([], 12, "  step 3 of 9, about 12 s left"),
        (
            [{"loss": 1.5}, {"loss": 1.25}, {"eval_loss": 3}],
            150,
            "  step 3 of 9, loss 1.250, dev loss 3.000, about 2 min 30 s left",
        ),
        ([{"loss": 0.0, "reward": 0.5}], 7000, "  step 3 of 9, reward 0.500, about 1 h 56 min left"),
        (
            [{"reward": 0.5}, {"eval_loss": 0, "eval_reward": 0.25}],
            9,
            "  step 3 of 9, reward 0.500, dev reward 0.250, about 9.0 s left",
        ),
        ([{"loss": 0.0, "objective/scores": 2.0}], 99, "  step 3 of 9, reward 2.000, about 1 min 39 s left"),
    ],
)
def test_what_is_said(logs: list[dict[str, float]], seconds: float, text: str) -> None:
    assert progress_text(SimpleNamespace(global_step=3, max_steps=9, log_history=logs), seconds) == text
