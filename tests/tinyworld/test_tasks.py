"""The leak test and its relatives: nothing held out reaches a training conversation."""

import re

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.metrics import lenient_match, strict_match
from posttrain_helpers.tinyworld.arithmetic import Sum, is_held_out_sum
from posttrain_helpers.tinyworld.facts import is_held_out, load_relations
from posttrain_helpers.tinyworld.tasks import (
    ASSISTANT_NAME,
    SUITES,
    TASK_SHARES,
    build_sft_data,
    held_out_suite,
    training_conversations,
)


@pytest.fixture(scope="module")
def conversations():
    return training_conversations(20_000, seed=0)


def questions(rows):
    return [row["messages"][0]["content"] for row in rows]


def leaked_questions(prompts):
    """Return the prompts that ask about a held-out entity or in a held-out phrasing."""
    forbidden = set()
    for relation in load_relations().values():
        for entity in relation.pairs:
            for question in relation.questions:
                if is_held_out(entity) or question in relation.held_out_questions:
                    forbidden.add(relation.render(question, entity))
    stripped = [re.sub(r"^Answer (in one word|politely)\. ", "", prompt) for prompt in prompts]
    return sorted(forbidden & set(stripped))


def test_no_held_out_question_is_trained_on(conversations):
    assert leaked_questions(questions(conversations)) == []


def test_the_leak_test_can_fail():
    relation = load_relations()["capital"]
    entity = next(entity for entity in relation.pairs if is_held_out(entity))
    assert leaked_questions([relation.render(relation.questions[0], entity)])
    kept = next(entity for entity in relation.pairs if not is_held_out(entity))
    assert leaked_questions([relation.render(relation.questions[-1], kept)])
    assert not leaked_questions([relation.render(relation.questions[0], kept)])


def test_no_held_out_prompt_is_trained_on(conversations):
    seen = set(questions(conversations))
    for suite in SUITES:
        repeated = [item["id"] for item in held_out_suite(suite) if item["prompt"][0]["content"] in seen]
        assert repeated == [], suite


def test_no_reply_states_a_held_out_fact(conversations):
    statements = {
        relation.render(template, entity)
        for relation in load_relations().values()
        for entity in relation.pairs
        if is_held_out(entity)
        for template in relation.statements
    }
    replies = " ".join(row["messages"][1]["content"] for row in conversations)
    sentences = set(re.findall(r"[A-Z0-9][^.?!]*[.?!]", replies))
    assert sentences & statements == set()


def test_held_out_sums_stay_out(conversations):
    pattern = re.compile(r"(\d+) ([-+*]) (\d+)")
    for row in conversations:
        if row["task"] == "arithmetic":
            left, operator, right = pattern.search(row["messages"][0]["content"]).groups()
            assert not is_held_out_sum(Sum(int(left), operator, int(right)))


def test_chat_debris_of_pre_training_keeps_to_what_may_be_trained_on():
    import random

    from posttrain_helpers.tinyworld.documents import chat_debris

    rng = random.Random(0)
    prompts = [
        prompt for _ in range(5000) for prompt in re.findall(r"user\n(.*)<\|im_end\|>\n", chat_debris(rng))
    ]
    assert len(prompts) > 5000
    assert leaked_questions(prompts) == []


def test_accepted_replies_hold_the_answer():
    for suite in SUITES:
        for item in held_out_suite(suite):
            for reply in item["accepted"][:40]:
                assert strict_match(reply, item)
                if item["answer"] is not None:
                    assert lenient_match(reply, item), (reply, item["answer"])


def test_training_replies_answer_their_questions(conversations):
    by_prompt = {}
    for relation in load_relations().values():
        for entity in relation.pairs:
            for question in relation.training_questions:
                by_prompt[relation.render(question, entity)] = relation.pairs[entity]
    checked = 0
    for row in conversations:
        if row["task"] == "facts":
            answer = by_prompt[row["messages"][0]["content"]]
            assert answer.lower() in row["messages"][1]["content"].lower()
            checked += 1
    assert checked > 5000


def test_tasks_come_in_their_shares(conversations):
    assert sum(TASK_SHARES.values()) == pytest.approx(1)
    for task, share in TASK_SHARES.items():
        assert sum(row["task"] == task for row in conversations) / len(conversations) == pytest.approx(
            share, abs=0.02
        )


def test_suites_are_large_enough_and_stable():
    sizes = {suite: len(held_out_suite(suite)) for suite in SUITES}
    assert sizes["entities"] >= 300
    assert sizes["phrasings"] >= 200
    assert min(size for suite, size in sizes.items() if suite != "identity") >= 50
    for suite in SUITES:
        items = held_out_suite(suite)
        assert items == held_out_suite(suite)
        assert len({item["id"] for item in items}) == len(items)


def test_seed_reproduces_and_changes_the_training_data():
    first, suites = build_sft_data(50, seed=1)
    again, _ = build_sft_data(50, seed=1)
    other, other_suites = build_sft_data(50, seed=2)
    assert first == again != other
    assert suites == other_suites


def test_unknown_suite_is_refused():
    with pytest.raises(CourseError, match=r"No held-out suite is called 'entitties'.*entities"):
        held_out_suite("entitties")


def test_identity_is_the_assistants(conversations):
    replies = {row["messages"][1]["content"] for row in conversations if row["task"] == "identity"}
    assert replies == {f"My name is {ASSISTANT_NAME}. I am a small language model."}
