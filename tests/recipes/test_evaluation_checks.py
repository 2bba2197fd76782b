"""What a recipe says about evaluations while it trains, and whether that can be."""

from __future__ import annotations

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe

STEPS = {"args.eval_strategy": "steps", "args.eval_steps": 5}
WATCHED = {**STEPS, "data.dev": 8}
STOPS = {**WATCHED, "early_stopping": 2}


@pytest.mark.parametrize(
    ("recipe", "changes", "sentence"),
    [
        ("sft", STEPS, "asks for evaluations, but there are no rows for them; set data.dev"),
        (
            "sft",
            {"early_stopping": 2},
            "early_stopping waits for .*, but there are none",
        ),
        ("ppo", {**STEPS, "data.dev": 8}, "the method 'ppo' is not evaluated while it trains"),
        ("ppo", {"data.dev": 8}, "the method 'ppo' is not evaluated while it trains"),
        ("sft", {"data.dev": 8}, "data.dev and args.eval_steps are for evaluations, but there are none"),
        ("sft", {"args.eval_steps": 5}, "set args.eval_strategy=steps, or leave them out"),
        ("sft", {**STOPS, "args.load_best_model_at_end": False}, "told and kept with True for the method"),
        ("sft", {**STOPS, "args.save_strategy": "no"}, r"args\.save_strategy is 'no', but .* 'best'"),
        ("grpo", {**STOPS, "args.greater_is_better": False}, "with True for the method 'grpo'"),
        ("sft", {**WATCHED, "args.metric_for_best_model": "nonsense"}, "is 'nonsense', but .* 'loss'"),
        ("sft", {**WATCHED, "early_stopping": 0}, "early_stopping"),
        ("sft", {**STEPS, "data.dev": [8]}, r"data\.dev"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(recipe: str, changes: dict, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_recipe(recipe, "tiny", changes)


def test_early_stopping_keeps_the_best_by_what_the_method_learns_from() -> None:
    for name, measure in {"sft": "loss", "dpo": "loss", "grpo": "reward"}.items():
        recipe = load_recipe(name, "tiny", STOPS)
        assert recipe.args["metric_for_best_model"] == measure
        assert recipe.args["load_best_model_at_end"]
        assert recipe.hash != load_recipe(name, "tiny", {**STOPS, "early_stopping": 3}).hash
