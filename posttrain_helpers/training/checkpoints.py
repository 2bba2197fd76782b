"""Checkpoints of a training, so that one that was killed goes on: which are whole, and when to write them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerCallback

_NAME = re.compile(r"checkpoint-(\d+)")
USUAL_CHECKPOINTS = 10  # in a training


def newest_checkpoint(directory: Path) -> Path | None:
    """Return the newest checkpoint that is whole, None without one: the trainer writes its state last."""
    return next((path for path in reversed(checkpoints(directory)) if _state(path)), None)


def checkpoints(directory: Path) -> list[Path]:
    """Return what a trainer wrote as checkpoints, the newest last; a copy beside them is the reader's."""
    found = {path: _NAME.fullmatch(path.name) for path in directory.glob("checkpoint-*")}
    return sorted((path for path, name in found.items() if name), key=lambda path: int(found[path][1]))


def progress_of(checkpoint: Path) -> tuple[int, int]:
    """Return the step of a checkpoint that is whole, and the last step of its training."""
    state = _state(checkpoint)
    return state["global_step"], state["max_steps"]


def checkpoint_callback(every: int | None = None) -> TrainerCallback:
    """Return a callback that lets its trainer write a checkpoint after every so many steps.

    They are rounded up to where no sampled replies wait to be trained on; None makes ten of a training.
    """
    from transformers import TrainerCallback

    class Checkpoints(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            period = _steps_of_a_rollout(args)
            self.every = -(-(every or state.max_steps / USUAL_CHECKPOINTS) // period) * period

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % self.every == 0 and state.global_step < state.max_steps:
                control.should_save = True

    return Checkpoints()


def _steps_of_a_rollout(args: Any) -> int:
    if (steps := getattr(args, "steps_per_update", None)) is not None:  # PPO
        return steps
    sampled = getattr(args, "steps_per_generation", None) or args.gradient_accumulation_steps
    return max(1, sampled * getattr(args, "num_iterations", 1) // args.gradient_accumulation_steps)


def _state(checkpoint: Path) -> dict[str, Any] | None:
    from transformers.trainer import TRAINER_STATE_NAME

    try:
        return json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or cut off
        return None
