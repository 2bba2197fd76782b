"""Count steps and seconds of every training of this process, and end one whose loss is not finite."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    from torch.nn import Module

STEPS = "posttrain_steps"
_LOSSES = ("loss", "train_loss")
_seconds = 0.0


def watch_trainings() -> None:
    """Count steps and seconds of every training of this process, and end one whose loss is not finite.

    Call it before a trainer is built; calling it again does nothing.
    """
    from transformers import TrainerCallback, trainer

    if any(callback.__name__ == "TrainingWatch" for callback in trainer.DEFAULT_CALLBACKS):
        return

    class TrainingWatch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started = time.monotonic()
            args.logging_nan_inf_filter = False  # it logs the mean of the other steps in place of a NaN
            model = policy_of(kwargs["model"])
            # A training that resumes has read the weights of its checkpoint.
            setattr(model, STEPS, state.global_step or getattr(model, STEPS, 0))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model = policy_of(kwargs["model"])
            setattr(model, STEPS, getattr(model, STEPS, 0) + 1)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            global _seconds
            _seconds += time.monotonic() - self.started

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            check_losses([logs or {}], state.global_step)

    trainer.DEFAULT_CALLBACKS.append(TrainingWatch)


def trained_seconds() -> float:
    """Return how long the trainings of this process took that came to their end, in seconds."""
    return _seconds


@contextmanager
def uncounted_training() -> Iterator[None]:
    """Leave out what is trained in the block, such as a stage that was missing."""
    global _seconds
    before = _seconds
    try:
        yield
    finally:
        _seconds = before


def check_losses(logs: list[dict[str, Any]], step: int) -> None:
    """Check that the losses that a trainer logged are finite.

    Raises:
        CourseError: one is not.
    """
    for log in logs:
        for name in _LOSSES:
            loss = log.get(name)
            if loss is not None and not math.isfinite(loss):
                raise CourseError(
                    f"the loss is {loss} at step {log.get('step', step)}, so the model learns nothing more; "
                    "lower args.learning_rate, and look at the loss of the first steps."
                )


def policy_of(model: Module) -> Module:
    """Return the model that a stage is made of: PPO trains it together with its critic."""
    return getattr(model, "policy", model)
