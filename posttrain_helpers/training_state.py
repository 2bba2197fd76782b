"""What happened to a model in training: counted by a callback, checked before the model becomes a stage.

`watch_trainings` gives every trainer of this process the callback, also one that a notebook builds itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import Trainer

# Published models stay below a few thousand; what a diverged training leaves is larger by orders.
LARGEST_WEIGHT = 1e6
_STEPS = "posttrain_steps"
_LOSSES = ("loss", "train_loss")


def watch_trainings() -> None:
    """Count the steps of every training of this process, and end one whose loss is not finite.

    Call it before a trainer is built; calling it again does nothing.
    """
    from transformers import TrainerCallback, trainer

    if any(callback.__name__ == "TrainingWatch" for callback in trainer.DEFAULT_CALLBACKS):
        return

    class TrainingWatch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            args.logging_nan_inf_filter = False  # it logs the mean of the other steps in place of a NaN
            model = _policy(kwargs["model"])
            # A training that resumes has read the weights of its checkpoint.
            setattr(model, _STEPS, state.global_step or getattr(model, _STEPS, 0))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model = _policy(kwargs["model"])
            setattr(model, _STEPS, getattr(model, _STEPS, 0) + 1)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            _check_losses([logs or {}], state.global_step)

    trainer.DEFAULT_CALLBACKS.append(TrainingWatch)


def check_trained(trainer: Trainer, as_it_is: bool = False) -> None:
    """Check that a training went through once, from the model as it was loaded to its last step.

    A training that a callback ends early (`control.should_training_stop`) went through.

    Args:
        trainer: after `train()`.
        as_it_is: look at the losses only.

    Raises:
        CourseError: no step was made, the training was interrupted, the model was trained before, or a loss
            is not finite.
    """
    state = trainer.state
    _check_losses(state.log_history, state.global_step)
    if as_it_is:
        return
    if state.global_step == 0:
        raise CourseError(
            "the trainer has not made a single step, so the model is what it was before; run train(), and "
            f"see that args.num_train_epochs ({trainer.args.num_train_epochs:g}) and args.max_steps "
            f"({trainer.args.max_steps}; -1 leaves it to the epochs) ask for steps."
        )
    remedy = (
        "run the cells again from the one that loads the model, or pass as_it_is=True to save the model as "
        "it is."
    )
    if state.global_step < state.max_steps and not trainer.control.should_training_stop:
        raise CourseError(
            f"the training was interrupted after step {state.global_step} of {state.max_steps}; {remedy}"
        )
    steps = getattr(_policy(trainer.model), _STEPS, state.global_step)
    if steps != state.global_step:
        raise CourseError(
            f"the model has been trained for {steps} steps, but this training has {state.global_step}: it "
            f"began from a model that was trained already, as when the training cell runs twice; {remedy}"
        )


def check_weights_are_sound(model: Module) -> None:
    """Check that the weights of a trained model are finite numbers of a usual size.

    Raises:
        CourseError: a weight is NaN, infinite or beyond `LARGEST_WEIGHT`.
    """
    from posttrain_helpers.weights import unsound_weight

    if problem := unsound_weight(model, LARGEST_WEIGHT):
        raise CourseError(
            f"the training has destroyed the model: {problem}; lower args.learning_rate, and look at the "
            "loss of the first steps."
        )


def _check_losses(logs: list[dict[str, Any]], step: int) -> None:
    for log in logs:
        for name in _LOSSES:
            loss = log.get(name)
            if loss is not None and not math.isfinite(loss):
                raise CourseError(
                    f"the loss is {loss} at step {log.get('step', step)}, so the model learns nothing more; "
                    "lower args.learning_rate, and look at the loss of the first steps."
                )


def _policy(model: Module) -> Module:
    """Return the model that a stage is made of: PPO trains it together with its critic."""
    return getattr(model, "policy", model)
