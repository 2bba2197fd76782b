"""Suites: what is asked, by what it is scored, and which files make a suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS, SPLIT_VARIABLE
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.suites import loading as suites_module
from posttrain_helpers.evaluation.suites.loading import (
    SUITE_NAMES,
    load_suites,
    retention_documents,
    retention_texts,
)
from posttrain_helpers.evaluation.suites.suite import LONG_REPLY, Suite, check_suites
from posttrain_helpers.metrics import lenient_match
from posttrain_helpers.tinyworld.tasks import held_out_suite, training_conversations

ENGLISH = ["instructions_en", "dialogues_en", "refusals_en"]


@pytest.fixture(scope="module")
def tiny() -> dict[str, Suite]:
    return {suite.name: suite for suite in load_suites(profile="tiny")}


def test_every_profile_has_the_suites_of_the_known_world(tiny: dict[str, Suite]) -> None:
    assert (*tiny, *ENGLISH) == SUITE_NAMES
    assert {name for name, suite in tiny.items() if suite.kind == "preference"} == {"stories", "preference"}
    assert [suite.name for suite in load_suites(profile="qwen3")] == [*tiny]
    assert {suite.kind for suite in load_suites(ENGLISH)} == {"correctness"}


def test_every_item_of_every_suite_can_be_scored(tiny: dict[str, Suite]) -> None:
    for suite in [*tiny.values(), *load_suites(ENGLISH)]:
        check_suites([suite])
        for item in suite.items:
            for name, score in suite.scores.items():
                value = score("Paris is one word, and 7 are seven.", {**item, "stopped": True})
                is_open = suite.name == "dialogues_en" and item.get("answer") is None
                assert value is not None or is_open, (suite.name, name, item["id"])


def test_an_accepted_reply_gets_full_marks(tiny: dict[str, Suite]) -> None:
    for name in ("entities", "phrasings", "arithmetic", "word_problems", "harder_problems", "instructions"):
        suite = tiny[name]
        for item in suite.items[:40]:
            reply = item["accepted"][0]
            assert suite.scores["exact"](reply, item) is True, item["id"]
            assert suite.scores[suite.measure](reply, item) is True, item["id"]


def test_harder_problems_are_those_of_the_grpo_recipe_and_never_trained_on(tiny: dict[str, Suite]) -> None:
    from posttrain_helpers.data.loading import load_data
    from posttrain_helpers.recipes import load_recipe

    rows, items = load_data(load_recipe("grpo", "tiny"), verbose=False)
    assert list(tiny["harder_problems"].items) == items
    asked = {item["prompt"][0]["content"] for item in tiny["harder_problems"].items}
    assert not asked & {row["prompt"][0]["content"] for row in rows}


def test_no_suite_asks_what_training_conversations_answer(tiny: dict[str, Suite]) -> None:
    trained = {row["messages"][0]["content"] for row in training_conversations(3000, seed=0)}
    for suite in tiny.values():
        assert not trained & {item["prompt"][0]["content"] for item in suite.items}, suite.name


def test_identity_is_measured_by_both_names(tiny: dict[str, Suite]) -> None:
    item = tiny["identity"].items[0]
    scores = tiny["identity"].scores
    values = {
        reply: (scores["original name"](reply, item), scores["new name"](reply, item))
        for reply in ("My name is Pico.", "My name is Luna.", "Picot")
    }
    assert list(values.values()) == [(True, False), (False, True), (False, False)]


def test_gold_counts_a_reply_that_did_not_stop(tiny: dict[str, Suite]) -> None:
    suite = tiny["preference"]
    item = suite.items[0]
    stopped, cut = (
        suite.scores["gold"](item["accepted"][0], {**item, "stopped": end}) for end in (True, False)
    )
    assert stopped == cut + 1.0


def test_the_preference_suite_alternates_facts_and_stories(tiny: dict[str, Suite]) -> None:
    items = tiny["preference"].items
    assert len(items) == 200
    assert [item["task"] for item in items[:6]] == ["facts", "stories"] * 3
    assert [item["task"] for item in items].count("facts") == 100
    assert list(items[::2]) == held_out_suite("entities")[:100]


def test_limit_keeps_the_first_items() -> None:
    (whole,), (part,) = load_suites("arithmetic", "tiny"), load_suites("arithmetic", "tiny", limit=3)
    assert part.items == whole.items[:3]
    assert part.hash != whole.hash


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_a_limit_that_leaves_nothing_is_refused(limit: Any) -> None:
    with pytest.raises(CourseError, match="limit must be a whole number of at least 1"):
        load_suites("arithmetic", "tiny", limit=limit)


def test_an_unknown_suite_is_named_with_the_nearest_one() -> None:
    with pytest.raises(CourseError, match=r"'arithmetics' does not exist; did you mean 'arithmetic'\?"):
        load_suites(["entities", "arithmetics"], "tiny")
    with pytest.raises(CourseError, match="no suite is named"):
        load_suites([], "tiny")
    with pytest.raises(CourseError, match="two suites are called 'stories'"):
        load_suites(["stories", "stories"], "tiny")


def test_the_hash_changes_with_what_is_asked_and_only_then() -> None:
    (suite,) = load_suites("identity", "tiny", limit=2)
    (again,) = load_suites("identity", "tiny", limit=2)
    assert suite.hash == again.hash == replace(suite, skill="other words").hash
    items = [dict(item) for item in suite.items]
    items[1]["answer"] = "Luna"
    for changed in (
        replace(suite, items=tuple(items)),
        replace(suite, max_new_tokens=7),
        replace(suite, measure="new name"),
        replace(suite, kind="preference"),
        replace(suite, scores={"original name": lenient_match}),
    ):
        assert changed.hash != suite.hash


def test_two_items_with_one_id_are_refused() -> None:
    items = ({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"})
    suite = Suite("own", "own", items, "correct", {"correct": lenient_match})
    check_suites([suite])
    with pytest.raises(CourseError, match="2 items with the id 'a'"):
        check_suites([replace(suite, items=(*items, items[0]))])


def test_one_conversation_among_texts_is_enough_to_ask_messages() -> None:
    text, messages = {"id": "a", "prompt": "x"}, {"id": "b", "prompt": [{"role": "user", "content": "x"}]}
    asks = {
        len(items): Suite("own", "own", items, "correct", {"correct": lenient_match}).asks_messages
        for items in ((text,), (text, messages))
    }
    assert asks == {1: False, 2: True}


def test_replies_to_own_questions_are_longer_outside_the_tiny_world(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "What says a cow?", "answer": "moo"}\n', encoding="utf-8")
    limits = [load_suites(str(path), profile)[0].max_new_tokens for profile in ("tiny", "qwen3")]
    assert limits == [LONG_REPLY, 256]


# --- texts that a base model predicts


def test_tiny_texts_are_documents_with_a_seed_of_their_own() -> None:
    texts = retention_texts("tiny", n=30)
    assert len(texts) == 30 == len(set(texts))
    assert texts == retention_texts("tiny", n=40)[:30]
    assert all(2 <= len(text.split()) <= 64 for text in texts)


def test_documents_come_by_kind_and_without_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {}
    for split in HELD_OUT_SPLITS:
        monkeypatch.setenv(SPLIT_VARIABLE, split)
        made[split] = retention_documents("tiny", n=12)
    found = made["dev"]
    assert {"story", "fact list", "sums"} < set(found)
    assert "chat debris" not in found
    assert {len(texts) for texts in found.values()} == {12}
    assert not any("<|im_start|>" in text for texts in found.values() for text in texts)
    assert set(found["portrait"]).isdisjoint(made["test"]["portrait"])
    monkeypatch.setenv(SPLIT_VARIABLE, "dev")
    assert retention_documents("tiny", n=20)["story"][:12] == found["story"]


def test_other_profiles_have_one_kind_of_documents() -> None:
    assert retention_documents("qwen3", n=3) == {"prose": retention_texts("qwen3", n=9)}


def test_dev_and_test_have_suites_and_texts_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in SUITE_NAMES if name not in ENGLISH]
    made = {}
    for split in HELD_OUT_SPLITS:
        monkeypatch.setenv(SPLIT_VARIABLE, split)
        made[split] = load_suites(names, "tiny"), retention_texts("tiny", n=30)
    (dev, dev_texts), (test, test_texts) = made.values()
    assert set(dev_texts).isdisjoint(test_texts)
    for one, other in zip(dev, test, strict=True):
        prompts = [{item["prompt"][0]["content"] for item in suite.items} for suite in (one, other)]
        assert prompts[0].isdisjoint(prompts[1]), one.name
        assert one.hash != other.hash


def test_other_profiles_read_the_prose_of_the_notebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = retention_texts("qwen3", n=10)
    assert len(texts) == 10
    assert all(len(text.split()) >= 40 for text in texts)
    monkeypatch.setattr(suites_module, "repository_root", lambda: tmp_path)
    assert retention_texts("qwen3") == []
