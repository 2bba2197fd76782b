"""The shipped rows: the columns of the public sets, right answers, and the dirt that is meant."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from public_schemas import SCHEMAS, real_rows

import posttrain_helpers
from posttrain_helpers.data.loading import load_data, raw_rows
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.rewards.verifiers import gsm8k_answer

pytestmark = pytest.mark.usefixtures("output_root")
SAMPLES = Path(posttrain_helpers.__file__).parent / "data/public/samples"
# Recipe, the set's file, a file of real rows, and what the filter has to find in the shipped ones.
SETS = {
    "ultrachat": (
        "sft_ultrachat",
        "ultrachat_200k_schema/train_sft.jsonl",
        "2 empty reply, 2 duplicate, 1 no assistant turn, 1 unknown role 'moderator', "
        "1 control token in a text, <|im_end|>",
    ),
    "ultrafeedback": (
        "dpo_ultrafeedback",
        "ultrafeedback_binarized/trl-lib_train.jsonl",
        "5 tie, 2 identical, 2 duplicate, 1 empty completion, 1 no shared prompt",
    ),
    "gsm8k": ("grpo_gsm8k", "gsm8k/train.jsonl", "1 duplicate, 1 empty prompt, 1 no answer"),
}


def rows_of(name: str) -> list[dict[str, Any]]:
    lines = (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def form(value: Any) -> Any:
    """Return the keys and types of a value; a list has the forms of its members."""
    if isinstance(value, dict):
        return tuple(sorted((key, form(member)) for key, member in value.items()))
    return ("list", frozenset(map(form, value))) if isinstance(value, list) else type(value).__name__


@pytest.mark.parametrize("name", SETS)
def test_the_columns_and_types_are_those_of_the_set(name: str) -> None:
    forms = Counter(map(form, rows_of(name)))
    assert list(forms) == [form(SCHEMAS[name][0][0])]


@pytest.mark.parametrize("name", SETS)
def test_the_columns_and_types_are_those_of_real_rows(name: str) -> None:
    assert {*map(form, rows_of(name))} <= {*map(form, real_rows(SETS[name][1]))}


@pytest.mark.parametrize("name", SETS)
def test_the_recipe_reads_them_and_the_filter_finds_the_dirt(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(SETS[name][0], "tiny")
    train, held_out = load_data(recipe)
    dropped = capsys.readouterr().out.split("dropped ")[1].split(": ", 1)
    assert sorted(dropped[1].strip().split(", ")) == sorted(SETS[name][2].split(", "))
    assert len(train) + len(held_out) + int(dropped[0]) == len(rows_of(name)) == len(raw_rows(recipe))
    assert len(train) >= 30
    assert len(held_out) == recipe.data["held_out_samples"]


@pytest.mark.parametrize(
    "recipe", ["sft_ultrachat", "reward_ultrafeedback", "dpo_ultrafeedback", "grpo_gsm8k"]
)
def test_other_profiles_read_the_published_set(recipe: str) -> None:
    sources = {profile: load_recipe(recipe, profile).data["source"] for profile in ("smollm2", "qwen3")}
    assert all(source.count("/") == 1 for source in sources.values())


def test_calculations_are_right_and_the_last_one_is_the_answer() -> None:
    rows = rows_of("gsm8k")
    assert len(rows) > 60
    for row in rows:
        marked = re.findall(r"([\d.+*/-]+) = <<(.+?)=([\d.]+)>>([\d.]*\d)", row["answer"])
        assert len(marked) == row["answer"].count("<<")
        for before, inside, result, after in marked:
            assert before == inside
            exact = re.sub(r"[\d.]+", lambda number: f"Fraction('{number[0]}')", inside)
            assert eval(exact, {"Fraction": Fraction}) == Fraction(result) == Fraction(after)
        if "####" in row["answer"] and marked:
            assert gsm8k_answer(row["answer"]) == marked[-1][2]


def test_conversations_name_their_first_message_and_its_hash() -> None:
    for row in rows_of("ultrachat"):
        assert row["prompt"] == row["messages"][0]["content"]
        assert row["prompt_id"] == hashlib.sha256(row["prompt"].encode()).hexdigest()


def test_ratings_are_those_of_the_annotators_and_choose_the_pair() -> None:
    rows = rows_of("ultrafeedback")
    assert all(1 <= row["score_rejected"] <= row["score_chosen"] <= 10 for row in rows)
    longer = [len(row["chosen"][1]["content"]) > len(row["rejected"][1]["content"]) for row in rows]
    assert 0.6 < sum(longer) / len(longer) < 0.75  # as in the real set, length is a hint and no more


def test_some_conversations_hold_problems_of_the_other_set() -> None:
    questions = {row["question"] for row in rows_of("gsm8k")} - {""}
    asked = [message["content"] for row in rows_of("ultrachat") for message in row["messages"]]
    assert sum(any(question in text for question in questions) for text in asked) == 2


def test_raw_rows_are_not_those_of_the_known_world() -> None:
    with pytest.raises(CourseError, match="the source is 'tinyworld/sft'"):
        raw_rows(load_recipe("sft", "tiny"))
