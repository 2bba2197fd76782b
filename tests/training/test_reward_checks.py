from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.training import reward_checks
from posttrain_helpers.training.reward_checks import MOST_ROUNDS, PROMPTS, RewardCheck, check_rewards
from posttrain_helpers.training.trainer import make_trainer

pytestmark = pytest.mark.usefixtures("output_root")


def contents(completions: list) -> list[str]:
    return [completion[0]["content"] for completion in completions]


def length(completions: list, **kwargs: Any) -> list[float]:
    return [float(len(text)) for text in contents(completions)]


def half(completions: list, **kwargs: Any) -> list[float]:
    return [0.5] * len(completions)


def of_the_prompt(completions: list, number: list[int], **kwargs: Any) -> list[float]:
    return [float(value) for value in number]


@pytest.fixture
def trainer_for(random_model_dir: Path):
    """Build a trainer whose policy writes random text."""

    def build(*functions: Any, method: str = "grpo", rows: int = 40, **overrides: Any):
        small = {
            "max_completion_length": 8,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "max_steps": 2,
            "beta": 0.0,
            **overrides,
        }
        recipe = load_recipe(method, "tiny", {f"args.{key}": value for key, value in small.items()})
        model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
        prompts = [
            {"prompt": [{"role": "user", "content": f"What is {number} + 1?"}], "number": number}
            for number in range(rows)
        ]
        data = Dataset.from_list(prompts)
        return make_trainer(recipe, model, tokenizer, data, verbose=False, reward_funcs=functions)

    return build


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_rewards_that_differ_pass_and_are_reported(method: str, trainer_for) -> None:
    found = trainer_for(length, half, method=method).reward_check
    assert (found.prompts, found.replies) == (PROMPTS, 4)
    assert found.means["half"] == 0.5
    assert found.means["length"] > 0
    assert found.without_spread == 0
    assert str(RewardCheck(8, 4, {"exact_answer": 0.25, "length": 12.0}, 0.375)) == (
        "rewards before training (8 prompts, 4 replies each): exact_answer 0.250, length 12.000; all replies "
        "equal for 38% of the prompts"
    )


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_a_constant_reward_is_refused(method: str, trainer_for) -> None:
    sentence = (
        r"all 128 replies to 32 prompts get the same reward, half is 0\.5: every advantage is zero and there "
        "is no gradient.*the answer column"
    )
    with pytest.raises(CourseError, match=sentence):
        trainer_for(half, method=method)


def test_a_reward_that_is_seldom_different_is_found_in_a_later_round(trainer_for) -> None:
    calls = []

    def seldom(completions: list, **kwargs: Any) -> list[float]:
        calls.append(len(completions))
        return [float(len(calls) == 3 and index == 5) for index in range(len(completions))]

    found = trainer_for(seldom).reward_check
    assert found.prompts == 3 * PROMPTS
    assert found.means["seldom"] == pytest.approx(1 / (3 * PROMPTS * 4))
    assert found.without_spread == pytest.approx(1 - 1 / (3 * PROMPTS))
    assert calls == [PROMPTS * 4] * 3


def test_every_round_is_sampled_with_a_seed_of_its_own(trainer_for, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain_helpers.generation import decoding as generation

    seeds, original = [], generation.generate

    def generate(*args: Any, seed: int, **options: Any):
        seeds.append(seed)
        return original(*args, seed=seed, **options)

    monkeypatch.setattr(generation, "generate", generate)
    with pytest.raises(CourseError, match="get the same reward"):
        trainer_for(half)
    assert seeds == [round_ * PROMPTS for round_ in range(MOST_ROUNDS)]


def test_rewards_that_differ_by_rounding_are_the_same(trainer_for) -> None:
    def rounded(completions: list, **kwargs: Any) -> list[float]:
        return [0.1 + 1e-9 * index for index in range(len(completions))]

    with pytest.raises(CourseError, match="get the same reward, rounded varies"):
        trainer_for(rounded)


def test_a_reward_without_weight_does_not_count(trainer_for) -> None:
    with pytest.raises(CourseError, match=r"length varies, half is 0\.5 \(reward_weights \[0\.0, 1\.0\]\)"):
        trainer_for(length, half, reward_weights=[0.0, 1.0])
    assert trainer_for(length, half, reward_weights=[1.0, 0.0]).reward_check.means["half"] == 0.5


def test_a_reward_that_depends_on_the_prompt_alone(trainer_for) -> None:
    sentence = r"all 4 replies to a prompt get the same reward.*temperature 1: raise it.*\(of_the_prompt\)"
    with pytest.raises(CourseError, match=sentence):
        trainer_for(of_the_prompt)


def test_every_reply_is_rewarded_with_the_columns_of_its_row(trainer_for) -> None:
    asked = {}

    def watched(completions: list, prompts: list, number: list[int], **kwargs: Any) -> list[float]:
        asked.update(zip(number, (prompt[0]["content"] for prompt in prompts), strict=True))
        return length(completions)

    trainer_for(watched)
    assert asked == {number: f"What is {number} + 1?" for number in range(0, 40, 5)}


def test_a_trainer_without_groups_may_learn_from_it(trainer_for) -> None:
    """PPO has a critic: it compares a reply with what the critic expects, not with other replies."""
    trainer = trainer_for(length)
    trainer.reward_funcs = [of_the_prompt]
    arguments = {key: value for key, value in vars(trainer.args).items() if key != "num_generations"}
    trainer.args = SimpleNamespace(**arguments)
    check_rewards(trainer)
    found = trainer.reward_check
    assert found.without_spread == 1
    assert found.replies == 8
    trainer.reward_funcs = [half]
    with pytest.raises(CourseError, match=r"half is 0\.5"):
        check_rewards(trainer)


@pytest.mark.parametrize("rows", [1, 3, 9, 31, 33, 1000])
def test_prompts_come_from_all_over_the_training_set(rows: int, trainer_for) -> None:
    trainer = trainer_for(length, rows=max(rows, 8))
    trainer.train_dataset = trainer.train_dataset.select(range(min(rows, len(trainer.train_dataset))))
    rounds = [[row["number"] for row in part] for part in reward_checks._rounds(trainer)]
    seen = [number for part in rounds for number in part]
    assert len(seen) == len(set(seen)) == min(rows, PROMPTS * MOST_ROUNDS)
    assert all(0 < len(part) <= PROMPTS for part in rounds)
    if rows == 1000:
        assert all(part[0] < 125 and part[-1] >= 875 for part in rounds)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (lambda n: [1.0] * (n - 1), "returned 31 rewards for 32 replies"),
        (lambda n: 1.0, r"returned 1\.0 for 32 replies"),
        (lambda n: None, "returned None for 32 replies"),
        (lambda n: [None] * n, "returned None for all of 32 replies"),
        (lambda n: [1.0] * (n - 1) + [float("nan")], "returned nan for the reply"),
        (lambda n: [float("-inf")] + [1.0] * (n - 1), "returned -inf for the reply"),
        (lambda n: ["1.0"] * n, r"returned '1\.0' for a reply; return a number"),
    ],
    ids=["short", "number", "nothing", "all none", "nan", "inf", "text"],
)
def test_what_a_reward_function_may_not_return(returned, sentence: str, trainer_for) -> None:
    def broken(completions: list, **kwargs: Any) -> Any:
        return returned(len(completions))

    with pytest.raises(CourseError, match=f"reward function 'broken' {sentence}"):
        trainer_for(broken)


def test_none_arrays_and_truth_values_are_rewards(trainer_for) -> None:
    def some(completions: list, **kwargs: Any) -> list[float | None]:
        return [None if index % 2 else float(index) for index in range(len(completions))]

    def array(completions: list, **kwargs: Any) -> np.ndarray:
        return np.arange(len(completions))

    def truth(completions: list, **kwargs: Any) -> list[bool]:
        return [index % 4 == 0 for index in range(len(completions))]

    means = trainer_for(some, array, truth).reward_check.means
    assert means == {"some": 15.0, "array": 15.5, "truth": 0.25}


@pytest.mark.parametrize("rated", [{5}, {1}, set()], ids=["first prompts", "later ones", "none of them"])
def test_a_function_may_rate_few_rows(rated: set[int], trainer_for) -> None:
    def others(completions: list, number: list[int], **kwargs: Any) -> list[float | None]:
        values = zip(number, length(completions), strict=True)
        return [None if row in rated else value for row, value in values]

    def few(completions: list, number: list[int], **kwargs: Any) -> list[float | None]:
        values = zip(number, length(completions), strict=True)
        return [value if row in rated else None for row, value in values]

    found = trainer_for(others, few).reward_check
    assert found.means["others"] > 0
    assert (found.means["few"] > 0) == bool(rated)
    assert ("few rated none of them" in str(found)) != bool(rated)


def test_a_function_that_rates_nothing_is_named(trainer_for) -> None:
    def nothing(completions: list, **kwargs: Any) -> list[None]:
        return [None] * len(completions)

    with pytest.raises(CourseError, match=r"get the same reward, half is 0\.5, nothing rated none:"):
        trainer_for(half, nothing)


def test_a_column_that_is_not_there(trainer_for) -> None:
    def reads_answer(completions: list, answer: list, **kwargs: Any) -> list[float]:
        return [0.0] * len(answer)

    with pytest.raises(
        CourseError,
        match=r"'reads_answer' reads the column 'answer', but the training set has number, prompt",
    ):
        trainer_for(reads_answer)


def test_a_function_must_accept_every_column(trainer_for) -> None:
    def narrow(completions: list) -> list[float]:
        return [0.0] * len(completions)

    def wide(
        prompts, completions, completion_ids, number, trainer_state, log_extra, log_metric
    ) -> list[float]:
        log_extra("number", number)
        log_metric("mean", 1.0)
        return [float(len(ids)) + len(text) for ids, text in zip(completion_ids, contents(completions))]  # noqa: B905

    with pytest.raises(CourseError, match=r"'narrow' must accept every column .* add \*\*kwargs"):
        trainer_for(narrow)
    trainer = trainer_for(wide)
    assert trainer.reward_check.means["wide"] > 0
    assert not trainer._metrics["train"]  # the check leaves no trace in the first log


def test_random_state_and_mode_stay_as_they_are(trainer_for) -> None:
    def draws(completions: list, **kwargs: Any) -> list[float]:
        return [random.random() + np.random.rand() + torch.rand(1).item() for _ in completions]

    trainer = trainer_for(draws)
    trainer.model.train()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    check_rewards(trainer)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert before == after
    assert trainer.model.training


def test_replies_have_the_temperature_and_the_length_of_the_trainers(
    trainer_for, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain_helpers.generation import decoding as generation

    seen = {}
    original = generation.generate

    def generate(*args: Any, **options: Any):
        seen.update(options)
        return original(*args, **options)

    monkeypatch.setattr(generation, "generate", generate)
    trainer_for(length, temperature=0.7)
    assert (seen["temperature"], seen["max_new_tokens"], seen["num_return_sequences"]) == (0.7, 8, 4)


def test_models_and_coroutines_are_left_to_the_trainer(trainer_for) -> None:
    async def later(completions: list, **kwargs: Any) -> list[float]:
        return [0.0] * len(completions)

    class Later:
        async def __call__(self, completions: list, **kwargs: Any) -> list[float]:
            return [0.0] * len(completions)

    trainer = trainer_for(length)
    for function in (later, Later(), torch.nn.Linear(1, 1)):
        trainer.reward_funcs = [length, function]
        check_rewards(trainer)
        assert trainer.reward_check is None
        assert trainer.reward_check is None


def test_a_reference_that_is_not_the_policy_is_refused_too(trainer_for, random_model_dir: Path) -> None:
    recipe = load_recipe("rloo", "tiny", {"args.per_device_train_batch_size": 8})
    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.1)
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "Moo?"}]}] * 8)
    with pytest.raises(CourseError, match="the reference model is not the model to be trained"):
        make_trainer(recipe, model, tokenizer, rows, reward_funcs=[length])
    free = load_recipe("rloo", "tiny", {"args.per_device_train_batch_size": 8, "args.beta": 0.0})
    make_trainer(free, model, tokenizer, rows, reward_funcs=[length])
