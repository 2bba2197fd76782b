"""The reader's changes of every recipe: `POSTTRAIN_OVERRIDES`."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.recipes.overrides import parsed_overrides

pytestmark = pytest.mark.usefixtures("output_root")


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch):
    return lambda text: monkeypatch.setenv("POSTTRAIN_OVERRIDES", text)


@pytest.mark.parametrize("name", ["sft", "dpo", "reward", "grpo", "ppo", "kto"])
def test_a_change_is_laid_over_every_recipe_and_changes_its_hash(name: str, change) -> None:
    before = load_recipe(name, "qwen3")
    change("args.max_steps=3")
    after = load_recipe(name, "qwen3")
    assert after.args["max_steps"] == after.own_args["max_steps"] == 3
    assert after.content() == {**before.content(), "args": {**before.own_args, "max_steps": 3}}
    assert after.hash != before.hash
    change("")
    assert load_recipe(name, "qwen3").hash == before.hash


def test_a_change_behind_the_name_of_a_recipe_is_for_this_one_and_wins(change) -> None:
    change("dpo.args.max_steps=5 args.max_steps=3 sft.seed=9")
    assert load_recipe("dpo", "tiny").args["max_steps"] == 5
    assert (load_recipe("sft", "tiny").args["max_steps"], load_recipe("sft", "tiny").seed) == (3, 9)
    assert load_recipe("dpo", "tiny").seed == 0


def test_the_changes_come_after_those_of_a_notebook(change) -> None:
    change("args.max_steps=3")
    recipe = load_recipe("sft", "tiny", {"args.max_steps": 50, "args.learning_rate": 1e-3})
    assert (recipe.args["max_steps"], recipe.args["learning_rate"]) == (3, 1e-3)


def test_recipes_that_share_data_keep_sharing_them(change) -> None:
    change("dpo.data.source=pairs.jsonl dpo.data.held_out_samples=4")
    for name in ("dpo", "ipo", "sft_chosen"):
        assert load_recipe(name, "qwen3").data == {
            "source": "pairs.jsonl",
            "held_out_samples": 4,
            "length_groups": 16,
        }
    assert load_recipe("sft", "qwen3").data["source"] == "tinyworld/sft"


def test_blanks_around_a_key_do_not_count_and_the_callers_changes_stay_its_own() -> None:
    assert parsed_overrides([" args.max_steps = 3"]) == {"args.max_steps": 3}
    given = {"seed": 1}
    parsed_overrides(given)["seed"] = 2
    assert given == {"seed": 1}


def test_a_recipe_of_the_readers_own_can_be_named(change, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{method: sft, parent: base, data: {source: rows.jsonl}}", encoding="utf-8")
    change("mine.args.max_steps=4")
    assert load_recipe(path, "tiny").args["max_steps"] == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("args.max_step=3", r"args\.max_step does not exist; did you mean 'max_steps'"),
        ("sft.data.sorce=x.jsonl", r"data\.sorce does not exist"),
        ("sft.max_steps=3", r"'sft', POSTTRAIN_OVERRIDES: the override 'max_steps' does not exist"),
        (
            "sftt.args.max_steps=3",
            r"POSTTRAIN_OVERRIDES: 'sftt\.args\.max_steps' changes nothing; did you mean",
        ),
        ("max_steps=3", r"POSTTRAIN_OVERRIDES: 'max_steps' changes nothing.*data, args, lora"),
        (
            "args.max_steps",
            "an override looks like 'args.learning_rate=1e-3', but 'args.max_steps' was given",
        ),
        ("args.max_steps=[2", "the value of the override 'args.max_steps=.2' is not valid YAML"),
        ("args.max_steps=two", "'sft': args.max_steps must be a whole number, but it is 'two'"),
    ],
)
def test_what_no_recipe_knows_is_an_error(text: str, words: str, change) -> None:
    change(text)
    with pytest.raises(CourseError, match=words):
        load_recipe("sft", "tiny")


def test_text_in_quotes_may_hold_blanks_and_a_backslash_is_only_a_backslash(change) -> None:
    change(r"""sft.data.source=C:\new\rows.csv sft.data.columns='{prompt: a question, reply: "b"}'""")
    data = load_recipe("sft", "qwen3").data
    assert data["source"] == r"C:\new\rows.csv"
    assert data["columns"] == {"prompt": "a question", "reply": "b"}


def test_a_quotation_that_does_not_end_is_a_sentence(change) -> None:
    change("data.source='rows.jsonl")
    with pytest.raises(CourseError, match="POSTTRAIN_OVERRIDES has a quotation that does not end"):
        load_recipe("sft", "tiny")
