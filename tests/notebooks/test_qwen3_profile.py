"""Lessons run to their end under the profile `qwen3`, with a small model in place of the real one.

Every lesson runs under `tiny` anyway. Here run those that have cells of their own for another profile;
`POSTTRAIN_EVERY_LESSON=1` runs the others as well.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from shrunken_qwen3 import STEPS, TOKENIZER_VARIABLE, conversations, environment

from posttrain_helpers.data.conversations import usable_conversations
from posttrain_helpers.lessons.run import execute, notebooks_directory, select
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.report.results import metrics_path, read_results

pytestmark = pytest.mark.slow
# Lesson -> the stages that it saves itself; what else it needs is built on demand.
LESSONS = {
    "00_meet_the_base_model": [],
    "01_supervised_fine_tuning": ["sft"],
    "05_reward_modelling": ["reward_model"],
    "06_direct_preference_optimization": ["dpo"],
    "07_preference_family": ["ipo", "kto", "orpo", "simpo", "sft_chosen"],
    "08_ppo_rlhf": ["ppo"],
    "09_grpo_verifiable_rewards": ["grpo"],
    "11_evaluation": [],
}
SAVED_RECIPES = {"reward_model": "reward"}
EVERY_LESSON = "POSTTRAIN_EVERY_LESSON"
# The first one asks for no profile; the other one takes longest, and the last lesson builds the same stages.
ON_REQUEST = {"00_meet_the_base_model", "07_preference_family"}


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(autouse=True)
def _shrunken(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def printed(path: Path) -> str:
    """Return what the code cells of an executed notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def test_no_lesson_is_left_out() -> None:
    assert [path.stem for path in select()] == list(LESSONS)


@pytest.mark.parametrize(
    "lesson", [name for name in LESSONS if name not in ON_REQUEST or os.environ.get(EVERY_LESSON)]
)
def test_a_lesson_runs_to_its_end(lesson: str, variables: dict[str, str]) -> None:
    root = Path(variables["POSTTRAIN_OUTPUT"])
    source = notebooks_directory() / f"{lesson}.ipynb"
    executed = execute(source, root / source.name, "qwen3", parameters={"PROFILE": "qwen3", "SEED": 0})
    text = printed(executed)
    assert "profile   qwen3: another base model" in text
    assert f"args.max_steps={STEPS}" in text  # what was changed stands on the card
    assert metrics_path(lesson, "qwen3").is_relative_to(root)
    (results,) = [results for results in read_results("qwen3") if results.lesson == lesson]
    # A model that knows nothing does not do what lessons expect: they say so, and do not stop.
    assert any(claim.verdict != claim.expected for claim in results.claims)
    for stage in LESSONS[lesson]:
        manifest = json.loads((root / f"qwen3/stages/{stage}/manifest.json").read_text(encoding="utf-8"))
        assert manifest["recipe_hash"] == load_recipe(SAVED_RECIPES.get(stage, stage), "qwen3").hash
        assert manifest["settings"]["args"]["max_steps"] == STEPS


def test_the_rows_are_of_every_kind_and_all_usable() -> None:
    rows = conversations()
    kept, dropped = usable_conversations(rows, "rows")
    assert (kept, dropped) == (rows, {})
    assert {len(row["messages"]) for row in rows} == {2, 3, 4, 5}  # with and without a system turn


@pytest.mark.skipif(not os.environ.get(TOKENIZER_VARIABLE), reason=f"{TOKENIZER_VARIABLE} names no directory")
def test_the_tokenizer_is_the_real_one(variables: dict[str, str]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(variables["POSTTRAIN_MODEL"], local_files_only=True)
    assert tokenizer("Hello, world!").input_ids == [9707, 11, 1879, 0]
