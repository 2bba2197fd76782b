"""Replayed documents are of the base's kinds and hold nothing that a suite asks for."""

from __future__ import annotations

import re

import pytest

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS
from posttrain_helpers.models.chatml import TURN_START
from posttrain_helpers.tinyworld import replay
from posttrain_helpers.tinyworld.arithmetic import Sum, split_of_sum
from posttrain_helpers.tinyworld.documents import chat_debris
from posttrain_helpers.tinyworld.facts import load_relations
from posttrain_helpers.tinyworld.replay import holds_held_out, longest_sentences, replayed_documents
from posttrain_helpers.tinyworld.tasks import SUITES, facts_of, held_out_prompts, held_out_suite

QUESTIONS = held_out_prompts()
ROWS = replayed_documents(400, 0, QUESTIONS)
TEXTS = [row["text"] for row in ROWS]


def test_a_seed_reproduces_them() -> None:
    assert replayed_documents(20, 0, QUESTIONS) == ROWS[:20]
    assert replayed_documents(20, 1, QUESTIONS) != ROWS[:20]
    assert {row["task"] for row in ROWS} == {"documents"}
    assert len({row["id"] for row in ROWS}) == 400


def test_a_text_is_known_by_its_longest_sentence() -> None:
    texts = ["Answer in one word. What is the capital of France?", "Hello! Who are you? Tell me."]
    assert longest_sentences(texts) == {"what is the capital of france", "who are you"}


def test_kinds_come_in_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {lambda rng: "A cow says moo.": 0.8, lambda rng: "A dog barks.": 0.1, chat_debris: 0.1}
    monkeypatch.setattr(replay, "DOCUMENT_SHARES", kinds)
    texts = [row["text"] for row in replayed_documents(900, 0, ())]
    assert texts.count("A cow says moo.") == pytest.approx(800, abs=30)
    assert texts.count("A dog barks.") == 900 - texts.count("A cow says moo.")


def test_every_kind_but_chats_is_there() -> None:
    everything = "\n".join(TEXTS)
    assert TURN_START not in everything
    signs = (
        r"\d \+ \d+ = ",
        r"^[A-Z][a-z]+: .+\?$",
        r"^(Q|Question): ",
        "In the end, ",
        "puts the .* into a bag",
    )
    for sign in signs:
        assert re.search(sign, everything, re.MULTILINE), sign


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
def test_nothing_held_out_is_said_or_asked(split: str) -> None:
    everything = "\n".join(TEXTS)
    for relation, entity in facts_of(split):
        for template in (*relation.statements, *relation.questions):
            assert relation.render(template, entity) not in everything
    for relation in load_relations().values():
        for template in relation.questions_of(split):
            assert not any(relation.render(template, entity) in everything for entity in relation.pairs)
    for name in SUITES:
        assert not [
            item["id"]
            for item in held_out_suite(name, split=split)
            if item["prompt"][0]["content"] in everything
        ]
    for left, operator, right in re.findall(r"(\d+) ([-+*]) (\d+)", everything):
        assert split_of_sum(Sum(int(left), operator, int(right))) != split


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
def test_what_is_held_out_is_noticed(split: str) -> None:
    relation, entity = facts_of(split)[0]
    trained, known = next(fact for fact in facts_of("train") if fact[0] is relation)
    asked = trained.render(trained.questions_of(split)[0], known)
    item = held_out_suite("arithmetic", split=split)[0]
    kept, questions = trained.statement(known), longest_sentences(QUESTIONS)
    for text in (relation.statement(entity), asked, item["prompt"][0]["content"]):
        assert holds_held_out(f"{kept} {text} {kept}", questions)
    assert not holds_held_out(f"{kept} {kept}", questions)
