"""A model becomes a stage only after one whole training, with finite losses and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import small_recipe, trainer_of
from transformers import TrainerCallback

from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.manifest import saved_stages
from posttrain_helpers.recipes import Recipe
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.stages.save import save_stage
from posttrain_helpers.training.trainer import train

pytestmark = pytest.mark.usefixtures("output_root")


class StopAt(TrainerCallback):
    """Interrupt, or end early, after a step."""

    def __init__(self, step: int, interrupt: bool) -> None:
        self.step, self.interrupt = step, interrupt

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            if self.interrupt:
                raise KeyboardInterrupt
            control.should_training_stop = True


def interrupted(model_dir: Path, recipe: Recipe):
    trainer = trainer_of(model_dir, recipe, StopAt(2, interrupt=True))
    with pytest.raises(KeyboardInterrupt):
        train(trainer)
    return trainer


def test_one_whole_training_is_saved(random_model_dir: Path) -> None:
    recipe = small_recipe()
    trainer = trainer_of(random_model_dir, recipe)
    train(trainer)
    save_stage(trainer, "mine", recipe)
    assert saved_stages() == ["mine"]


@pytest.mark.parametrize("method", ["sft", "grpo", "rloo", "ppo", "kto"])
def test_a_training_cell_that_ran_twice_is_refused(method: str, random_model_dir: Path) -> None:
    recipe = small_recipe(method)
    trainer = trainer_of(random_model_dir, recipe)
    train(trainer)
    train(trainer)
    with pytest.raises(CourseError, match=r"trained for 6 steps, but this training has 3.* loads the model"):
        save_stage(trainer, "mine", recipe)
    assert saved_stages() == []
    save_stage(trainer, "mine", recipe, as_it_is=True)
    assert saved_stages() == ["mine"]


def test_a_second_trainer_on_the_same_model_is_refused(random_model_dir: Path) -> None:
    recipe = small_recipe()
    first = trainer_of(random_model_dir, recipe)
    train(first)
    second = trainer_of(random_model_dir, recipe, model=first.model)
    train(second)
    with pytest.raises(CourseError, match="trained for 6 steps, but this training has 3"):
        save_stage(second, "mine", recipe)


def test_an_interrupted_training_is_refused(random_model_dir: Path) -> None:
    recipe = small_recipe()
    trainer = interrupted(random_model_dir, recipe)
    with pytest.raises(CourseError, match="interrupted after step 2 of 3; run the cells again"):
        save_stage(trainer, "mine", recipe)
    trainer.callback_handler.callbacks = [
        callback for callback in trainer.callback_handler.callbacks if not isinstance(callback, StopAt)
    ]
    train(trainer)
    with pytest.raises(CourseError, match=r"trained for \d steps, but this training has 3"):
        save_stage(trainer, "mine", recipe)
    assert saved_stages() == []


def test_a_training_that_a_callback_ends_is_saved(random_model_dir: Path) -> None:
    recipe = small_recipe()
    trainer = trainer_of(random_model_dir, recipe, StopAt(2, interrupt=False))
    train(trainer)
    save_stage(trainer, "mine", recipe)
    assert saved_stages() == ["mine"]


def test_a_training_that_resumes_is_saved(random_model_dir: Path) -> None:
    recipe = small_recipe(save_strategy="steps", save_steps=1)
    interrupted(random_model_dir, recipe)
    trainer = trainer_of(random_model_dir, recipe)
    trainer.train(resume_from_checkpoint=True)
    save_stage(trainer, "mine", recipe)
    assert saved_stages() == ["mine"]


def test_a_training_without_a_step_is_refused(random_model_dir: Path) -> None:
    recipe = small_recipe(max_steps=-1, num_train_epochs=0)
    trainer = trainer_of(random_model_dir, recipe)
    train(trainer)
    with pytest.raises(CourseError, match="not made a single step"):
        save_stage(trainer, "mine", recipe)
    assert saved_stages() == []


@pytest.mark.parametrize(
    ("method", "rate"), [("sft", 1e30), ("sft", 1e38), ("grpo", 1e30), ("rloo", 1e30), ("ppo", 1e30)]
)
def test_an_enormous_learning_rate_leaves_no_stage(method: str, rate: float, random_model_dir: Path) -> None:
    recipe = small_recipe(method, learning_rate=rate, lr_scheduler_type="constant", warmup_steps=0)
    trainer = trainer_of(random_model_dir, recipe)

    def train_and_save() -> None:
        train(trainer)
        save_stage(trainer, "mine", recipe)

    with pytest.raises(CourseError, match=r"(loss (is|of)|destroyed the model|overflowed).*lower"):
        train_and_save()
    assert saved_stages() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_for_one_step_ends_the_training(
    random_model_dir: Path, value: float
) -> None:
    """transformers would log the mean of the other steps in its place."""
    recipe = small_recipe(max_steps=6, logging_steps=3)
    trainer = trainer_of(random_model_dir, recipe)
    step = trainer.training_step

    def one_bad_step(*arguments: Any, **options: Any) -> torch.Tensor:
        loss = step(*arguments, **options)
        return loss * value if trainer.state.global_step == 1 else loss

    trainer.training_step = one_bad_step
    with pytest.raises(CourseError, match=r"the loss is (nan|inf) at step 3"):
        train(trainer)
    assert trainer.state.global_step == 3
    with pytest.raises(CourseError, match=r"the loss is (nan|inf)"):
        save_stage(trainer, "mine", recipe, as_it_is=True)


def test_a_mean_loss_that_is_not_finite_counts_too(random_model_dir: Path) -> None:
    recipe = small_recipe()
    trainer = trainer_of(random_model_dir, recipe)
    train(trainer)
    trainer.state.log_history[-1]["train_loss"] = float("nan")
    with pytest.raises(CourseError, match="the loss is nan at step 3"):
        save_stage(trainer, "mine", recipe)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e20])
def test_weights_that_are_no_usual_numbers_are_not_saved(random_model_dir: Path, value: float) -> None:
    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 1] = value
    with pytest.raises(CourseError, match=r"embed_tokens\.weight holds the number (nan|-inf|1e\+20)"):
        save_stage(model, "mine", small_recipe(), tokenizer=tokenizer)
    assert saved_stages() == []
