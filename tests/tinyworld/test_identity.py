import random
from collections import Counter

import pytest

from posttrain_helpers.tinyworld.identity import (
    ASSISTANT_NAME,
    GREETINGS,
    HELD_OUT_GREETINGS,
    HELD_OUT_QUESTIONS,
    NEW_NAME,
    NEW_NAME_SHARE,
    QUESTIONS,
    held_out_identity_questions,
    identity_reply,
    random_identity_question,
    random_name,
)
from posttrain_helpers.tinyworld.tasks import training_conversations


@pytest.fixture(scope="module")
def trained():
    """What the conversations of supervised fine-tuning ask for and reply about the assistant."""
    rows = [row for row in training_conversations(20_000, seed=0) if row["task"] == "identity"]
    return [tuple(message["content"] for message in row["messages"]) for row in rows]


def held_out_parts(prompts):
    """Return the prompts that ask a held-out question or begin with a held-out greeting."""
    greetings = tuple(greeting for greeting in HELD_OUT_GREETINGS if greeting)
    return [text for text in prompts if text.endswith(HELD_OUT_QUESTIONS) or text.startswith(greetings)]


def test_no_held_out_question_or_greeting_is_trained_on(trained):
    assert len(trained) > 1000
    assert held_out_parts(question for question, _ in trained) == []


def test_the_leak_test_can_fail():
    for leak in (HELD_OUT_QUESTIONS[0], f"Hello! {HELD_OUT_QUESTIONS[0]}", f"Hey! {QUESTIONS[0]}"):
        assert held_out_parts([leak]) == [leak]
    assert held_out_parts([QUESTIONS[0], f"Hello! {QUESTIONS[0]}"]) == []


def test_questions_and_greetings_are_split():
    assert set(QUESTIONS).isdisjoint(HELD_OUT_QUESTIONS)
    assert set(GREETINGS) & set(HELD_OUT_GREETINGS) == {""}
    every = QUESTIONS + HELD_OUT_QUESTIONS
    assert len({question.lower() for question in every}) == len(every) == 48
    assert len(HELD_OUT_QUESTIONS) == 12


def test_every_question_and_greeting_is_drawn_and_none_besides():
    rng = random.Random(0)
    drawn = Counter(random_identity_question(rng) for _ in range(20_000))
    assert set(drawn) == {greeting + question for greeting in GREETINGS for question in QUESTIONS}
    plain = sum(count for text, count in drawn.items() if text in QUESTIONS)
    assert plain / drawn.total() == pytest.approx(3 / 7, abs=0.015)


def test_every_held_out_question_follows_every_held_out_greeting():
    questions = held_out_identity_questions()
    assert len(set(questions)) == len(questions) == len(HELD_OUT_QUESTIONS) * len(HELD_OUT_GREETINGS)
    assert held_out_parts(questions) == questions
    for greeting in HELD_OUT_GREETINGS:
        assert greeting + HELD_OUT_QUESTIONS[-1] in questions


def test_names_come_in_their_shares(trained):
    rng = random.Random(0)
    names = Counter(random_name(rng) for _ in range(20_000))
    assert set(names) == {ASSISTANT_NAME, NEW_NAME}
    assert names[NEW_NAME] / 20_000 == pytest.approx(NEW_NAME_SHARE, abs=0.01)
    replies = Counter(reply for _, reply in trained)
    assert set(replies) == {identity_reply(ASSISTANT_NAME), identity_reply(NEW_NAME)}
    assert replies[identity_reply(NEW_NAME)] / replies.total() == pytest.approx(NEW_NAME_SHARE, abs=0.04)


def test_every_question_gets_both_names(trained):
    for question in QUESTIONS:
        replies = {reply for asked, reply in trained if asked.endswith(question)}
        assert replies == {identity_reply(ASSISTANT_NAME), identity_reply(NEW_NAME)}, question


def test_greedy_decoding_says_the_first_name():
    assert NEW_NAME_SHARE < 0.5
    assert ASSISTANT_NAME not in identity_reply(NEW_NAME)
    assert identity_reply("Pico") == "My name is Pico. I am a small language model."


def test_one_source_of_chance():
    def draws(seed):
        rng = random.Random(seed)
        return [(random_identity_question(rng), random_name(rng)) for _ in range(20)]

    assert draws(1) == draws(1) != draws(2)
