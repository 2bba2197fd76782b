"""What happened to a model in training: counted by a callback, checked before the model becomes a stage.

`watch_trainings` gives every trainer of this process the callback, also one that a notebook builds itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain_helpers.environment.training_watch import STEPS, check_losses, policy_of
from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import Trainer

# Published models stay below a few thousand; what a diverged training leaves is larger by orders.
LARGEST_WEIGHT = 1e6


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
    check_losses(state.log_history, state.global_step)
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
    steps = getattr(policy_of(trainer.model), STEPS, state.global_step)
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
    from posttrain_helpers.models.weights import unsound_weight

    if problem := unsound_weight(model, LARGEST_WEIGHT):
        raise CourseError(
            f"the training has destroyed the model: {problem}; lower args.learning_rate, and look at the "
            "loss of the first steps."
        )
