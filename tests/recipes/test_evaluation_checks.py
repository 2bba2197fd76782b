"""What a recipe says about evaluations while it trains, and whether that can be."""

from __future__ import annotations

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe

STEPS = {"args.eval_strategy": "steps", "args.eval_steps": 5}


@pytest.mark.parametrize(
    ("recipe", "changes", "sentence"),
    [
        ("sft", STEPS, "asks for evaluations, but there are no rows for them; set data.dev"),
        (
            "sft",
            {"early_stopping": 2, "data.dev": 8},
            "early_stopping waits for .*, but there are none",
        ),
        ("ppo", {**STEPS, "data.dev": 8}, "the method 'ppo' is not evaluated while it trains"),
        ("sft", {**STEPS, "data.dev": 8, "early_stopping": 0}, "early_stopping"),
        ("sft", {**STEPS, "data.dev": [8]}, r"data\.dev"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(recipe: str, changes: dict, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_recipe(recipe, "tiny", changes)


def test_early_stopping_keeps_the_best_by_what_the_method_learns_from() -> None:
    watched = {**STEPS, "data.dev": 8, "early_stopping": 2}
    for name, measure in {"sft": "loss", "dpo": "loss", "grpo": "reward"}.items():
        recipe = load_recipe(name, "tiny", watched)
        assert recipe.args["metric_for_best_model"] == measure
        assert recipe.args["load_best_model_at_end"]
        assert recipe.hash != load_recipe(name, "tiny", {**watched, "early_stopping": 3}).hash
    chosen = load_recipe("sft", "tiny", {**watched, "args.metric_for_best_model": "mean_token_accuracy"})
    assert chosen.args["metric_for_best_model"] == "mean_token_accuracy"
