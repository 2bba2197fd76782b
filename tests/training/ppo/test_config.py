from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.training.ppo.config import PPOConfig


def config(tmp_path: Path, **args: Any) -> PPOConfig:
    return PPOConfig(str(tmp_path), use_cpu=True, **args)


def test_the_defaults_are_those_of_trl(tmp_path: Path) -> None:
    args = config(tmp_path)
    # trl 1.12.0, trl/experimental/ppo/ppo_config.py; response_length is max_completion_length here.
    expected = {
        "learning_rate": 3e-6,
        "num_ppo_epochs": 4,
        "num_mini_batches": 1,
        "total_episodes": None,
        "max_completion_length": 53,
        "temperature": 0.7,
        "missing_eos_penalty": None,
        "kl_coef": 0.05,
        "kl_estimator": "k1",
        "cliprange": 0.2,
        "cliprange_value": 0.2,
        "vf_coef": 0.1,
        "gamma": 1.0,
        "lam": 0.95,
        "whiten_rewards": False,
    }
    assert {name: getattr(args, name) for name in expected} == expected
    assert args.whiten_advantages  # as TRL always does
    assert args.report_to == []
    assert not args.remove_unused_columns


def test_the_sizes_of_an_update(tmp_path: Path) -> None:
    args = config(
        tmp_path,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=4,
        num_mini_batches=3,
        num_ppo_epochs=2,
    )
    assert (args.mini_batch_rows, args.rollout_rows, args.steps_per_update) == (32, 96, 6)
    assert args.logging_steps == 6
    assert config(tmp_path, logging_steps=2).logging_steps == 2


def test_half_an_epoch_is_half_of_the_prompts(tmp_path: Path) -> None:
    sizes = {"per_device_train_batch_size": 5, "num_mini_batches": 2, "num_ppo_epochs": 3}
    assert config(tmp_path, num_train_epochs=0.5, **sizes).steps_for(61) == 4 * 6  # 31 episodes, 10 at a time
    assert config(tmp_path, num_train_epochs=2, **sizes).steps_for(10) == 2 * 6


def test_a_checkpoint_that_nobody_asked_for_is_at_the_end_of_an_update(tmp_path: Path) -> None:
    assert config(tmp_path).save_steps == 500
    assert config(tmp_path, num_ppo_epochs=2, num_mini_batches=3).save_steps == 504


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("num_ppo_epochs", 0, "num_ppo_epochs must be a whole number of at least 1, but it is 0"),
        ("num_mini_batches", 1.5, "num_mini_batches must be a whole number of at least 1, but it is 1.5"),
        ("max_completion_length", True, "max_completion_length must be a whole number of at least 1"),
        ("max_completion_length", -1, "max_completion_length must be a whole number of at least 1"),
        ("rollout_batch_size", "8", "rollout_batch_size must be a whole number of at least 1, but it is '8'"),
        ("total_episodes", 0, "total_episodes must be at least 1, but it is 0"),
        ("temperature", 0.0, "temperature must be above 0, but it is 0.0: PPO needs the probabilities"),
        ("temperature", -1.0, "temperature must be above 0"),
        ("temperature", float("inf"), "temperature must be above 0, but it is inf"),
        ("temperature", float("nan"), "temperature must be above 0, but it is nan"),
        ("kl_estimator", "k2", "kl_estimator must be 'k1' or 'k3', but it is 'k2'"),
        ("kl_coef", -0.1, "kl_coef must be at least 0, but it is -0.1"),
        ("vf_coef", float("nan"), "vf_coef must be at least 0, but it is nan"),
        ("gamma", 1.1, "gamma must be between 0 and 1, but it is 1.1"),
        ("lam", -0.1, "lam must be between 0 and 1, but it is -0.1"),
        ("cliprange", 0.0, "cliprange must be above 0, but it is 0.0"),
        ("cliprange_value", -1.0, "cliprange_value must be above 0"),
    ],
)
def test_every_check_trips(name: str, value: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(CourseError, match=sentence):
        config(tmp_path, **{name: value})


def test_no_checkpoint_in_the_middle_of_an_update(tmp_path: Path) -> None:
    sizes = {"num_ppo_epochs": 2, "num_mini_batches": 4}
    with pytest.raises(CourseError, match=r"save_steps=12 would save in the middle.*a multiple of 8 "):
        config(tmp_path, save_strategy="steps", save_steps=12, **sizes)
    assert config(tmp_path, save_strategy="steps", save_steps=16, **sizes).save_steps == 16
    assert config(tmp_path, save_strategy="no", save_steps=12, **sizes).save_steps == 12
