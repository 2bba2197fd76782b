"""Lessons run to their end under other models than the shipped one: a small Qwen3 and a small, foreign Llama.

They run on little data and for a few steps. What they measure means nothing; that every cell runs does.
`POSTTRAIN_EVERY_LESSON=1` runs every lesson under both; without it those that ask most of a model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nbformat
import pytest
from small_models import KINDS, STEPS, TOKENIZER_VARIABLE, environment

from posttrain_helpers.lessons.run import execute, notebooks_directory, select
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.report.results import metrics_path, read_results

pytestmark = pytest.mark.slow
# Lesson -> the stages that it saves itself; what else it needs is built on demand.
LESSONS = {
    "00_meet_the_base_model": [],
    "01_supervised_fine_tuning": ["sft"],
    "02_instruction_templates": ["templates"],
    "03_lora_and_qlora": [],
    "04_why_sft_fails": [],
    "05_reward_modelling": ["reward_model"],
    "06_direct_preference_optimization": ["dpo"],
    "07_preference_family": ["ipo", "kto", "orpo", "simpo", "sft_chosen"],
    "08_ppo": ["ppo", "rloo"],
    "09_reward_hacking": [],
    "10_grpo_verifiable_rewards": ["grpo"],
    "11a_training_data": ["best_of_k", "star", "expert_iteration"],
    "11b_distillation": ["distill_on_policy"],
    "11c_preference_pairs": ["ai_feedback_dpo"],
    "12_evaluation": [],
    "13_judges": [],
    "14_real_data": ["sft_ultrachat"],
    "15_scaling_out": [],
}
SAVED_RECIPES = {"reward_model": "reward"}
# What runs unasked, as all of them take minutes: each of the first lessons under one of the models at least.
UNASKED = {
    "qwen3": ("01_supervised_fine_tuning", "06_direct_preference_optimization", "07_preference_family"),
    "llama": ("00_meet_the_base_model", "01_supervised_fine_tuning", "05_reward_modelling"),
}
EVERY_LESSON = "POSTTRAIN_EVERY_LESSON"


@pytest.fixture(scope="module")
def courses(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """The variables of a kind, whose model and stages all its lessons share."""
    return cache(lambda kind: environment(tmp_path_factory.mktemp(kind), kind))


@pytest.fixture(params=KINDS)
def variables(
    request: pytest.FixtureRequest,
    courses: Callable[[str], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    for name, value in courses(request.param).items():
        monkeypatch.setenv(name, value)
    return courses(request.param)


def printed(path: Path) -> str:
    """Return what the code cells of an executed notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def test_no_lesson_is_left_out() -> None:
    assert [path.stem for path in select()] == list(LESSONS)


@pytest.mark.parametrize(
    ("variables", "lesson"),
    [
        (kind, lesson)
        for kind, unasked in UNASKED.items()
        for lesson in (LESSONS if os.environ.get(EVERY_LESSON) else unasked)
    ],
    indirect=["variables"],
)
def test_a_lesson_runs_to_its_end(lesson: str, variables: dict[str, str]) -> None:
    # The recipes of a GPU, and the template of the model itself.
    profile = "tiny" if "llama" in variables["POSTTRAIN_MODEL"] else "qwen3"
    root = Path(variables["POSTTRAIN_OUTPUT"])
    source = notebooks_directory() / f"{lesson}.ipynb"
    executed = execute(source, root / source.name, profile, parameters={"PROFILE": profile, "SEED": 0})
    text = printed(executed)
    assert f"profile   {profile}: another base model" in text
    assert f"args.max_steps={STEPS}" in text  # what was changed stands on the card
    assert metrics_path(lesson, profile).is_relative_to(root)
    (results,) = [results for results in read_results(profile) if results.lesson == lesson]
    # A model that knows nothing does not do what lessons expect: they say so, and do not stop.
    assert any(claim.verdict != claim.expected for claim in results.claims)
    for stage in LESSONS[lesson]:
        manifest = json.loads((root / profile / f"stages/{stage}/manifest.json").read_text(encoding="utf-8"))
        assert manifest["recipe_hash"] == load_recipe(SAVED_RECIPES.get(stage, stage), profile).hash
        assert manifest["settings"]["args"]["max_steps"] == STEPS


@pytest.mark.skipif(not os.environ.get(TOKENIZER_VARIABLE), reason=f"{TOKENIZER_VARIABLE} names no directory")
def test_the_tokenizer_is_the_real_one(variables: dict[str, str]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(variables["POSTTRAIN_MODEL"], local_files_only=True)
    if "qwen3" in variables["POSTTRAIN_MODEL"]:
        assert tokenizer("Hello, world!").input_ids == [9707, 11, 1879, 0]
