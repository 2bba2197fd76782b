from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain_helpers.training.checkpoints import checkpoint_callback, newest_checkpoint, progress_of


def checkpoint(directory: Path, step: int, state: str | None) -> Path:
    path = directory / f"checkpoint-{step}"
    path.mkdir()
    if state is not None:
        (path / "trainer_state.json").write_text(state, encoding="utf-8")
    return path


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent") is None
    whole = json.dumps({"global_step": 10, "max_steps": 50})
    checkpoint(tmp_path, 9, whole)
    newest = checkpoint(tmp_path, 10, whole)
    checkpoint(tmp_path, 20, whole[:-9])
    checkpoint(tmp_path, 30, None)
    shutil.copytree(newest, tmp_path / "checkpoint-10-copy")
    assert newest_checkpoint(tmp_path) == newest
    assert progress_of(newest) == (10, 50)


@pytest.mark.parametrize(
    ("every", "steps", "args", "saved"),
    [
        (None, 20, {}, list(range(2, 20, 2))),
        (None, 3, {}, [1, 2]),
        (4, 10, {}, [4, 8]),
        (4, 20, {"steps_per_update": 8}, [8, 16]),  # PPO: between two rollouts
        (12, 40, {"steps_per_update": 8}, [16, 32]),
        (1, 9, {"steps_per_generation": 4, "num_iterations": 1}, [4, 8]),
        (1, 20, {"steps_per_generation": 4, "num_iterations": 2}, [8, 16]),
        (1, 9, {"steps_per_generation": 8, "gradient_accumulation_steps": 2}, [4, 8]),
    ],
)
def test_a_training_is_saved_where_no_sampled_replies_wait(
    every: int | None, steps: int, args: dict, saved: list[int]
) -> None:
    callback = checkpoint_callback(every)
    args = SimpleNamespace(**{"gradient_accumulation_steps": 1, **args})
    state, found = SimpleNamespace(max_steps=steps, global_step=0), []
    callback.on_train_begin(args, state, None)
    for step in range(1, steps + 1):
        state.global_step, control = step, SimpleNamespace(should_save=False)
        callback.on_step_end(args, state, control)
        found += [step] * control.should_save
    assert found == saved
