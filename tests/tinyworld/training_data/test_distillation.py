"""The ways to distil are compared on the same prompts, one reply each, and none of them is held out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest

from posttrain_helpers.data.loading import load_data
from posttrain_helpers.environment.splits import HELD_OUT_SPLITS, Split
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.stages.samples import Sample
from posttrain_helpers.tinyworld.tasks import held_out_suite
from posttrain_helpers.tinyworld.training_data import distillation
from posttrain_helpers.tinyworld.training_data.prompts import held_out_problems

pytestmark = pytest.mark.usefixtures("output_root")


@pytest.fixture(autouse=True)
def _written_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every stage answer with its name and the number of the prompt, but the student agree at times."""

    def replies(policy: str, prompts: list, **options: Any) -> list[list[Sample]]:
        assert options["samples"] == 1
        names = ["grpo" if number % 4 == 0 else policy for number in range(len(prompts))]
        return [[Sample(f"{name} {number}", True)] for number, name in enumerate(names)]

    monkeypatch.setattr(distillation, "sample_replies", replies)


def loaded(name: str) -> Any:
    return load_data(load_recipe(name, "tiny", {"data.n_prompts": 80}), verbose=False)[0]


def test_each_way_gets_the_same_prompts_and_one_reply() -> None:
    prompts, offline, pairs = (
        loaded(name) for name in ("distill_on_policy", "distill_offline", "strong_weak_dpo")
    )
    assert len(prompts) == len(offline) == 80
    assert [turns[:-1] for turns in offline["messages"]] == list(prompts["prompt"])
    assert [turns[-1]["content"] for turns in offline["messages"]] == [f"grpo {n}" for n in range(80)]
    # Equal replies make no pair.
    assert len(pairs) == 60
    assert set(pairs[0]) == {"prompt", "chosen", "rejected"}
    assert pairs[0]["rejected"][0]["content"].startswith("sft")
    assert all(prompt in list(prompts["prompt"]) for prompt in pairs["prompt"])


def test_teacher_and_student_are_sampled_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def replies(policy: str, prompts: list, **options: Any) -> list[list[Sample]]:
        calls.append({"policy": policy, **options})
        return [[Sample(policy, True)] for _ in prompts]

    monkeypatch.setattr(distillation, "sample_replies", replies)
    distillation.build_distillation_data(
        8, 2, 15, 3, "qwen3", policy="grpo", student="sft", sampling_temperature=0.7
    )
    shared = {"samples": 1, "temperature": 0.7, "max_new_tokens": 40, "seed": 3, "profile": "qwen3"}
    assert calls == [{"policy": "grpo", **shared}, {"policy": "sft", **shared}]


def test_pairs_of_equal_replies_are_counted() -> None:
    rows, _, dropped = distillation.build_distillation_data(8, 2, 15, 3, "tiny", policy="grpo", student="sft")
    assert (len(rows), dropped) == (6, {"identical": 2})  # every fourth reply is the teacher's


def test_half_of_the_prompts_are_those_of_fine_tuning_in_random_order() -> None:
    rows, _, _ = distillation.build_distillation_data(200, 2, 15, 0, "tiny", smallest=11)
    numbers = [[int(text) for text in re.findall(r"\d+", row["prompt"][0]["content"])] for row in rows]
    smaller = [found[0] < 11 for found in numbers]  # fine-tuning begins with 3 to 12
    assert sum(smaller) / len(rows) == pytest.approx(0.5 * 8 / 10, abs=0.1)
    assert any(smaller[:20])
    assert not all(smaller[-20:])


def test_recipes_compared_have_equal_steps_and_rows() -> None:
    on_policy, offline = (load_recipe(name, "tiny") for name in ("distill_on_policy", "distill_offline"))
    same = ("learning_rate", "lr_scheduler_type", "per_device_train_batch_size", "num_train_epochs")
    assert [on_policy.args[key] for key in same] == [offline.args[key] for key in same]
    assert (on_policy.model, on_policy.teacher) == (offline.model, offline.teacher)
    assert {**on_policy.data, **offline.data} == offline.data
    prompts, replies = loaded("distill_on_policy"), loaded("distill_offline")
    assert len(prompts) == len(replies)  # so that an epoch has as many steps


@pytest.mark.parametrize("profile", ["tiny", "smollm2"])
def test_larger_problems_are_no_prompts(profile: str) -> None:
    recipe = load_recipe("distill_on_policy", profile)
    rows, items = load_data(recipe, verbose=False)
    larger = [item for item in items if item["id"].startswith("larger_problems/")]
    assert len(larger) == 300
    assert {item["kind"] for item in distillation._larger_problems(3, 15, 11)} == {"2_step"}
    assert not contents(rows) & contents(larger)
    first = [int(re.search(r"\d+", item["prompt"][0]["content"])[0]) for item in larger]
    # Where a step less is a single one, problems about groups have amounts of their own.
    groups = [" in each. " in item["prompt"][0]["content"] for item in larger]
    assert sum(groups) < 0.2 * len(larger)
    amounts = [amount for amount, grouped in zip(first, groups, strict=True) if not grouped]
    assert min(amounts) > recipe.data["largest"]


def test_larger_amounts_are_as_many_and_follow_those_of_the_prompts() -> None:
    items = distillation._larger_problems(3, 15, 11)
    expected = held_out_problems(2, 20, 300, smallest=16)
    assert [item["prompt"] for item in items] == [item["prompt"] for item in expected]


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
def test_a_prompt_that_is_held_out_is_left_out(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = held_out_problems(2, 15, 300, split, smallest=11)
    monkeypatch.setattr(distillation, "build_word_problem_data", lambda number, *_: (held_out[:number], None))
    rows, _, dropped = distillation.build_distillation_data(80, 2, 15, 0, "tiny", smallest=11)
    assert (rows, dropped) == ([], {"prompt of a held-out item": 80})


def contents(items: Iterable[dict]) -> set[str]:
    return {item["prompt"][0]["content"] for item in items}


@pytest.mark.parametrize("seed", [0, 1])
def test_no_prompt_is_held_out_and_none_comes_twice(seed: int) -> None:
    recipe = load_recipe("distill_on_policy", "tiny", {"seed": seed})
    rows, _ = load_data(recipe, verbose=False)
    asked = contents(rows)
    assert len(asked) == len(rows) >= recipe.data["n_prompts"] - 2
    for split in HELD_OUT_SPLITS:
        assert not asked & contents(held_out_suite("word_problems", split=split))
        assert not asked & contents(held_out_problems(2, 15, 300, split, smallest=11))
        assert not asked & contents(held_out_problems(2, 20, 300, split, smallest=16))
    assert not asked & contents(load_data(load_recipe("grpo", "tiny", {"seed": seed}), verbose=False)[0])
