"""A reward function that returns no reward in the middle of a training stops it in one sentence."""

from __future__ import annotations

import asyncio
import inspect
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_trainings import small_recipe

from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes.methods import config_class
from posttrain_helpers.rewards.guard import guarded
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.training.ppo.trainer import PPOTrainer
from posttrain_helpers.training.trainer import make_trainer

pytestmark = pytest.mark.usefixtures("output_root")

REPLIES = ["one", "two", "three"]
STATE = SimpleNamespace(global_step=4, max_steps=9)


def called(*functions: Any) -> list[list[float | None]]:
    return [
        function(prompts=REPLIES, completions=REPLIES, trainer_state=STATE) for function in guarded(functions)
    ]


def returning(value: Any) -> Any:
    def mine(completions: list, **kwargs: Any) -> Any:
        return value

    return mine


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([1.0, float("nan"), 1.0], "returned nan for the reply 'two' in step 5"),
        ([1.0, 1.0, float("-inf")], "returned -inf for the reply 'three' in step 5"),
        (torch.tensor([1.0, float("inf"), 1.0]), "returned inf for the reply 'two' in step 5"),
        ([1.0, 1.0], "returned 2 rewards for 3 replies in step 5"),
        ([], "returned 0 rewards for 3 replies in step 5"),
        (None, "returned None for 3 replies in step 5"),
        (0.5, r"returned 0\.5 for 3 replies in step 5"),
        (["1", "2", "3"], "returned '1' for a reply in step 5"),
        ([[1.0], [2.0], [3.0]], r"returned '\[1\.0\]' for a reply in step 5"),
        ([1, 1, 10**400], "returned '10000.*' for a reply in step 5"),
        ([None, None, None], "returned None for all of 3 replies in step 5"),
        ([1.0, None, 2.0], "returned None for 1 of 3 replies in step 5, the first is 'two'"),
    ],
)
def test_what_is_no_reward(value: Any, sentence: str) -> None:
    with pytest.raises(CourseError, match=f"^the reward function 'mine' {sentence}"):
        called(returning(value))


def test_rewards_pass_through() -> None:
    assert called(returning((1, True, 0.5)), returning(torch.tensor([1, 2, 3]))) == [[1, 1, 0.5], [1, 2, 3]]


def test_none_passes_where_another_function_rates_the_reply() -> None:
    assert called(returning([None, 2, None]), returning([1, None, 3])) == [[None, 2, None], [1, None, 3]]
    sentence = "each of the reward functions 'mine', 'mine' returned None for 1 of 3 .* the first is 'three'"
    with pytest.raises(CourseError, match=sentence):
        called(returning([None, 2, None]), returning([1, None, None]))


def test_a_model_among_the_rewards_rates_every_reply() -> None:
    model = torch.nn.Linear(1, 1)
    function, same = guarded([returning([None, None, 1.0]), model])
    assert same is model
    assert function(completions=REPLIES) == [None, None, 1.0]


def test_a_round_that_broke_off_leaves_nothing_behind() -> None:
    """Coroutines end in any order, and one of a round may fail."""

    def ones(completions: list, **kwargs: Any) -> list[float]:
        return [1.0] * len(completions)

    first, second, third = guarded([ones] * 3)
    for function in (second, third):
        assert function(completions=REPLIES) == [1.0] * 3
    for function in (second, first, third):
        assert function(completions=REPLIES[:1]) == [1.0]


def test_name_signature_and_coroutines_stay() -> None:
    async def later(completions: list, answer: list, **kwargs: Any) -> list[float]:
        return [float("nan")] * len(completions)

    class Rater:
        def __call__(self, completions: list, **kwargs: Any) -> list[float]:
            return [1.0] * len(completions)

    slow, rater = guarded([later, Rater()])
    assert (slow.__name__, rater.__name__) == ("later", "Rater")
    assert "answer" in inspect.signature(slow).parameters
    assert inspect.iscoroutinefunction(slow)
    with pytest.raises(CourseError, match="'later' returned nan"):
        asyncio.run(slow(completions=REPLIES, answer=REPLIES))
    assert guarded([slow, rater]) == [slow, rater]
    (partly,) = guarded([partial(later, answer=REPLIES)])
    assert partly.__name__ == "later"
    with pytest.raises(CourseError, match="'later' returned nan"):
        asyncio.run(partly(completions=REPLIES))


def goes_wrong(value: Any, after: int) -> Any:
    def my_reward(completions: list, trainer_state: Any, **kwargs: Any) -> list[Any]:
        rewards: list[Any] = [float(len(str(completion))) for completion in completions]
        if trainer_state.global_step >= after:
            rewards[-1] = value
        return rewards

    return my_reward


@pytest.mark.parametrize("value", [float("inf"), float("nan"), None])
@pytest.mark.parametrize("method", ["grpo", "rloo", "ppo"])
def test_a_training_stops_in_the_step_where_the_reward_goes_wrong(
    method: str, value: float | None, random_model_dir: Path
) -> None:
    from datasets import Dataset

    changes = {"num_ppo_epochs": 1, "num_mini_batches": 1} if method == "ppo" else {}
    recipe = small_recipe(method, **changes)
    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": f"{n} + 1"}]} for n in range(16)])
    rewards = [goes_wrong(value, after=1)]
    trainer = make_trainer(recipe, model, tokenizer, rows, verbose=False, reward_funcs=rewards)
    with pytest.raises(CourseError, match=r"'my_reward' returned (inf|nan|None) for .* in step 2"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_a_ppo_trainer_of_ones_own_stops_too(random_model_dir: Path, tmp_path: Path) -> None:
    from datasets import Dataset

    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    args = config_class("ppo")(str(tmp_path), max_completion_length=4, total_episodes=16, use_cpu=True)
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "Moo?"}]}] * 16)
    trainer = PPOTrainer(model, [goes_wrong(None, after=0)], args, rows, tokenizer)
    with pytest.raises(CourseError, match="'my_reward' returned None for 1 of"):
        trainer.train()
