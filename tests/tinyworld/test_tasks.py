"""Training conversations and held-out suites; that they share nothing is tested in `test_splits`."""

import random
import re
from collections import Counter

import pytest

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.suites.instructions import check_constraints, obeys
from posttrain_helpers.metrics import lenient_match, strict_match
from posttrain_helpers.tinyworld.arithmetic import SUM_QUESTIONS, Sum, split_of_sum, word_problem
from posttrain_helpers.tinyworld.facts import load_relations, split_of
from posttrain_helpers.tinyworld.identity import (
    ASSISTANT_NAME,
    NEW_NAME,
    held_out_identity_questions,
    identity_reply,
)
from posttrain_helpers.tinyworld.leaks import find_leaks
from posttrain_helpers.tinyworld.replies import core_of, is_polite
from posttrain_helpers.tinyworld.stories import random_story, story_requests
from posttrain_helpers.tinyworld.tasks import (
    SUITES,
    TASK_SHARES,
    build_sft_data,
    fact_conversations,
    facts_of,
    held_out_stories,
    held_out_suite,
    identity_items,
    problem_item,
    split_of_pair,
    story_item,
    training_conversations,
)

BOTH_SPLITS = pytest.mark.parametrize("split", HELD_OUT_SPLITS)


@pytest.fixture(scope="module")
def conversations():
    return training_conversations(20_000, seed=0)


@BOTH_SPLITS
def test_accepted_replies_hold_the_answer(split):
    for suite in SUITES:
        for item in held_out_suite(suite, split=split):
            for reply in item["accepted"][:40]:
                assert strict_match(reply, item)
                if item["answer"] is not None:
                    assert lenient_match(reply, item), (reply, item["answer"])


def test_training_replies_answer_their_questions(conversations):
    by_prompt = {}
    for relation in load_relations().values():
        for entity in relation.pairs:
            for question in relation.questions_of("train"):
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


@BOTH_SPLITS
def test_suites_are_large_enough_and_stable(split):
    sizes = {suite: len(held_out_suite(suite, split=split)) for suite in SUITES}
    assert sizes["entities"] >= 300
    assert sizes["phrasings"] >= 200
    assert min(size for suite, size in sizes.items() if suite != "identity") >= 50
    for suite in SUITES:
        items = held_out_suite(suite, split=split)
        assert items == held_out_suite(suite, split=split)
        assert len({item["id"] for item in items}) == len(items)


def test_seed_reproduces_and_changes_the_training_data():
    first, suites = build_sft_data(50, seed=1)
    again, _ = build_sft_data(50, seed=1)
    other, other_suites = build_sft_data(50, seed=2)
    assert first == again != other
    assert suites == other_suites


def calculation(text):
    left, operator, right = re.search(r"(\d+) ([-+*]) (\d+)", text).groups()
    return Sum(int(left), operator, int(right))


def test_training_asks_for_its_own_calculations_in_its_own_words(conversations):
    asked = [row["messages"][0]["content"] for row in conversations if row["task"] == "arithmetic"]
    assert {split_of_sum(calculation(question)) for question in asked} == {"train"}
    words = {question.replace(calculation(question).expression, "{e}") for question in asked}
    assert words == set(SUM_QUESTIONS[:-3])


@BOTH_SPLITS
def test_phrasings_ask_for_trained_facts_in_the_words_of_their_split(split):
    for item in held_out_suite("phrasings", split=split):
        relation = load_relations()[item["relation"]]
        assert split_of(item["entity"]) == "train"
        asked = [relation.render(question, item["entity"]) for question in relation.questions_of(split)]
        assert item["prompt"][0]["content"] in asked


def test_the_conclusion_of_a_word_problem_is_a_right_answer():
    problem = word_problem(random.Random(0), 2)
    item = problem_item(problem, "word_problems/0")
    for reply in (problem.solution, problem.conclusion, f"Sure! {problem.answer}."):
        assert strict_match(reply, item), reply


@BOTH_SPLITS
def test_suites_ask_for_the_calculations_of_their_split(split):
    asked = [item["prompt"][0]["content"] for item in held_out_suite("arithmetic", split=split)]
    assert {split_of_sum(calculation(question)) for question in asked} == {split}


def test_unknown_suite_is_refused():
    with pytest.raises(CourseError, match=r"No held-out suite is called 'entitties'.*entities"):
        held_out_suite("entitties")


def test_identity_is_the_assistants(conversations):
    replies = Counter(row["messages"][1]["content"] for row in conversations if row["task"] == "identity")
    assert set(replies) == {identity_reply(ASSISTANT_NAME), identity_reply(NEW_NAME)}
    assert replies.most_common(1)[0][0] == identity_reply(ASSISTANT_NAME)
    for split in HELD_OUT_SPLITS:
        assert {item["answer"] for item in held_out_suite("identity", split=split)} == {ASSISTANT_NAME}


@BOTH_SPLITS
@pytest.mark.parametrize(("name", "other"), [(ASSISTANT_NAME, NEW_NAME), (NEW_NAME, ASSISTANT_NAME)])
def test_identity_items_accept_one_name_only(name, other, split):
    items = identity_items(name, split)
    assert [item["prompt"][0]["content"] for item in items] == held_out_identity_questions(split)
    for item in items:
        assert strict_match(identity_reply(name), item)
        assert lenient_match(f"Sure! {identity_reply(name)}", item)
        assert not strict_match(identity_reply(other), item)
        assert not lenient_match(identity_reply(other), item)


@BOTH_SPLITS
def test_stories_to_train_on_and_to_hold_out_share_no_pair(split):
    rng = random.Random(0)
    trained = [story_item(rng) for _ in range(3000)]
    held_out = held_out_stories(100, split=split)
    for items, expected in ((trained, "train"), (held_out, split)):
        assert {split_of_pair(item["entity"], item["thing"]) for item in items} == {expected}
        for item in items:
            request = item["prompt"][0]["content"]
            assert re.search(rf"\b{item['entity']}\b.*\b{item['thing']}\b", request)
    assert len({item["id"] for item in held_out}) == 100
    assert held_out_stories(100, split=split) == held_out


def test_requests_for_stories_are_held_out_too():
    """A request is told by its words before the person's name."""

    def beginnings(items):
        return {item["prompt"][0]["content"].split(item["entity"])[0] for item in items}

    def requests(split):
        return {request.split("{n}")[0] for request in story_requests(split)}

    rng = random.Random(0)
    assert beginnings(story_item(rng) for _ in range(3000)) == requests("train")
    own = {split: requests(split) - requests("train") for split in HELD_OUT_SPLITS}
    assert {split: len(found) for split, found in own.items()} == {"dev": 2, "test": 1}
    assert own["dev"].isdisjoint(own["test"])
    for split in HELD_OUT_SPLITS:
        assert beginnings(held_out_stories(100, split=split)) == requests(split)


def test_every_fact_is_of_one_split_and_the_suites_ask_for_all_of_theirs():
    every = [(relation.name, entity) for relation in load_relations().values() for entity in relation.pairs]
    found = {
        split: [(relation.name, entity) for relation, entity in facts_of(split)]
        for split in ("train", *HELD_OUT_SPLITS)
    }
    assert sorted(fact for facts in found.values() for fact in facts) == sorted(every)
    for split in HELD_OUT_SPLITS:
        suite = [(item["relation"], item["entity"]) for item in held_out_suite("entities", split=split)]
        assert sorted(suite) == sorted(found[split])


@BOTH_SPLITS
def test_instructions_and_stories_have_constraints_that_code_verifies(split):
    for suite in SUITES:
        for item in held_out_suite(suite, split=split):
            assert len(check_constraints(item)) == (suite in ("instructions", "stories")), item["id"]
    assert all(check_constraints(item) for item in held_out_stories(100, split=split))


@BOTH_SPLITS
def test_accepted_replies_obey_their_instruction(split):
    for item in held_out_suite("instructions", split=split):
        for reply in item["accepted"]:
            assert obeys(reply, item) is True, (item["id"], reply)
            assert obeys("", item) is False


@BOTH_SPLITS
def test_other_replies_break_their_instruction(split):
    rules = Counter()
    for item in held_out_suite("instructions", split=split):
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


@BOTH_SPLITS
def test_a_story_about_both_obeys_and_another_one_does_not(split):
    for item in held_out_suite("stories", split=split) + held_out_stories(100, split=split):
        rng = random.Random(item["id"])
        assert obeys(random_story(rng, name=item["entity"], thing=item["thing"]).text, item) is True
        other = random_story(rng, name=item["entity"], thing="ball" if item["thing"] != "ball" else "kite")
        assert obeys(other.text, item) is False, other.text


def test_prompts_to_train_on_have_no_constraints(conversations):
    """A further column would change what a stage is trained on."""
    assert not any("constraints" in row for row in conversations)
    assert "constraints" not in story_item(random.Random(0))


@pytest.mark.parametrize("split", ["train", *HELD_OUT_SPLITS])
def test_fact_conversations_keep_to_their_split(split):
    rows, others = fact_conversations(100, split), fact_conversations(100, split, seed=1)
    assert rows == fact_conversations(100, split) != others
    assert [row["messages"][0] for row in rows] != [row["messages"][0] for row in others]
    leaks = find_leaks(rows)
    assert leaks.fact_rows == 100
    assert len(leaks.held_out_entities) == (0 if split == "train" else len(leaks.entities))


def test_fact_conversations_of_two_splits_have_the_same_manners():
    def manner(row):
        reply = row["messages"][-1]["content"]
        return reply.replace(core_of(reply), "")

    trained, dev = (list(map(manner, fact_conversations(100, split))) for split in ("train", "dev"))
    assert trained == dev
    assert len(set(trained)) > 8
