"""Trainings of three steps, for tests of what happens around a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from posttrain_helpers.recipes import Recipe, load_recipe
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.training.trainer import make_trainer


def small_recipe(method: str = "sft", **arguments: Any) -> Recipe:
    small = {"max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    if method in ("grpo", "rloo", "ppo"):
        small |= {"max_completion_length": 4}
    if method in ("grpo", "rloo"):
        small |= {"num_generations": 2, "steps_per_generation": 1, "num_iterations": 1}
    if method == "ppo":
        small |= {"value_model": None}  # no reward model is there
    return load_recipe(
        method, "tiny", {f"args.{key}": value for key, value in {**small, **arguments}.items()}
    )


def length(completions: list, **kwargs: Any) -> list[float]:
    return [float(len(completion[0]["content"])) for completion in completions]


def trainer_of(model_dir: Path, recipe: Recipe, *callbacks: TrainerCallback, model: Any = None):
    from datasets import Dataset

    loaded, tokenizer = load_model_and_tokenizer(model_dir, verbose=False)
    rewards = None
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {number} + 1?"}],
            "completion": [{"role": "assistant", "content": f"It is {number + 1}."}],
            "label": bool(number % 3),
        }
        for number in range(16)
    ]
    if recipe.method == "sft":
        rows = [{"messages": row["prompt"] + row["completion"]} for row in rows]
    if recipe.method in ("grpo", "rloo", "ppo"):
        rows, rewards = [{"prompt": row["prompt"]} for row in rows], [length]
    return make_trainer(
        recipe,
        loaded if model is None else model,
        tokenizer,
        Dataset.from_list(rows),
        callbacks,
        verbose=False,
        reward_funcs=rewards,
    )
