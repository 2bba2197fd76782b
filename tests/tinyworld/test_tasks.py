"""The leak test and its relatives: nothing held out reaches a training conversation."""

import random
import re
from collections import Counter

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.instructions import check_constraints, obeys
from posttrain_helpers.metrics import lenient_match, strict_match
from posttrain_helpers.tinyworld.arithmetic import Sum, is_held_out_sum
from posttrain_helpers.tinyworld.facts import is_held_out, load_relations
from posttrain_helpers.tinyworld.identity import (
    ASSISTANT_NAME,
    NEW_NAME,
    held_out_identity_questions,
    identity_reply,
)
from posttrain_helpers.tinyworld.replies import is_polite
from posttrain_helpers.tinyworld.stories import HELD_OUT_STORY_REQUESTS, STORY_REQUESTS, random_story
from posttrain_helpers.tinyworld.tasks import (
    SUITES,
    TASK_SHARES,
    build_sft_data,
    held_out_stories,
    held_out_suite,
    identity_items,
    is_held_out_pair,
    story_item,
    training_conversations,
    training_facts,
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
    replies = Counter(row["messages"][1]["content"] for row in conversations if row["task"] == "identity")
    assert set(replies) == {identity_reply(ASSISTANT_NAME), identity_reply(NEW_NAME)}
    assert replies.most_common(1)[0][0] == identity_reply(ASSISTANT_NAME)
    assert {item["answer"] for item in held_out_suite("identity")} == {ASSISTANT_NAME}


@pytest.mark.parametrize(("name", "other"), [(ASSISTANT_NAME, NEW_NAME), (NEW_NAME, ASSISTANT_NAME)])
def test_identity_items_accept_one_name_only(name, other):
    items = identity_items(name)
    assert [item["prompt"][0]["content"] for item in items] == held_out_identity_questions()
    for item in items:
        assert strict_match(identity_reply(name), item)
        assert lenient_match(f"Sure! {identity_reply(name)}", item)
        assert not strict_match(identity_reply(other), item)
        assert not lenient_match(identity_reply(other), item)


def test_stories_to_train_on_and_to_hold_out_share_no_pair():
    rng = random.Random(0)
    trained = [story_item(rng) for _ in range(3000)]
    held_out = held_out_stories(100)
    assert not any(is_held_out_pair(item["entity"], item["thing"]) for item in trained)
    assert all(is_held_out_pair(item["entity"], item["thing"]) for item in held_out)
    for items in (trained, held_out):
        for item in items:
            request = item["prompt"][0]["content"]
            assert re.search(rf"\b{item['entity']}\b.*\b{item['thing']}\b", request)
    assert len({item["id"] for item in held_out}) == 100
    assert held_out_stories(100) == held_out != held_out_stories(100, seed=1)


def test_requests_for_stories_are_held_out_too():
    """A request is told by its words before the person's name."""

    def beginnings(items):
        return {item["prompt"][0]["content"].split(item["entity"])[0] for item in items}

    rng = random.Random(0)
    trained = beginnings(story_item(rng) for _ in range(3000))
    of_suite = {request.split("{n}")[0] for request in STORY_REQUESTS[-HELD_OUT_STORY_REQUESTS:]}
    assert len(of_suite) == HELD_OUT_STORY_REQUESTS
    assert trained == {request.split("{n}")[0] for request in STORY_REQUESTS} - of_suite
    assert of_suite <= beginnings(held_out_stories(100))


def test_training_facts_are_every_fact_that_is_not_held_out():
    facts = {(relation.name, entity) for relation, entity in training_facts()}
    suite = {(item["relation"], item["entity"]) for item in held_out_suite("entities")}
    every = {(relation.name, entity) for relation in load_relations().values() for entity in relation.pairs}
    assert facts | suite == every
    assert facts & suite == set()
    assert len(training_facts()) == len(facts)


def test_instructions_and_stories_have_constraints_that_code_verifies():
    for suite in SUITES:
        for item in held_out_suite(suite):
            assert len(check_constraints(item)) == (suite in ("instructions", "stories")), item["id"]
    assert all(check_constraints(item) for item in held_out_stories(100))


def test_accepted_replies_obey_their_instruction():
    for item in held_out_suite("instructions"):
        for reply in item["accepted"]:
            assert obeys(reply, item) is True, (item["id"], reply)
            assert obeys("", item) is False


def test_other_replies_break_their_instruction():
    rules = Counter()
    for item in held_out_suite("instructions"):
        rules[item["rule"]] += 1
        if item["rule"] == "one_word":
            wrong = f"It is {item['answer']}."
        elif item["rule"] == "polite":
            wrong = f"Not again. It is {item['answer']}."
        else:
            word, times = item["id"].split("/")[2:]
            wrong = "Here you are: " + " ".join([word] * (int(times) + 1)) + "."
        assert obeys(wrong, item) is False, (item["id"], wrong)
    assert set(rules) == {"one_word", "polite", "repeat"}


def test_the_polite_constraint_is_politeness(conversations):
    item = next(item for item in held_out_suite("instructions") if item["rule"] == "polite")
    replies = {row["messages"][1]["content"] for row in conversations}
    assert len(replies) > 5000
    assert [reply for reply in replies if obeys(reply, item) != is_polite(reply)] == []


def test_a_story_about_both_obeys_and_another_one_does_not():
    for item in held_out_suite("stories") + held_out_stories(100):
        rng = random.Random(item["id"])
        assert obeys(random_story(rng, name=item["entity"], thing=item["thing"]).text, item) is True
        other = random_story(rng, name=item["entity"], thing="ball" if item["thing"] != "ball" else "kite")
        assert obeys(other.text, item) is False, other.text


def test_prompts_to_train_on_have_no_constraints(conversations):
    """A further column would change what a stage is trained on."""
    assert not any("constraints" in row for row in conversations)
    assert "constraints" not in story_item(random.Random(0))
