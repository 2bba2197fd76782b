import random
from collections import Counter

import pytest

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS
from posttrain_helpers.tinyworld.identity import (
    ASSISTANT_NAME,
    GREETINGS,
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


def test_questions_and_greetings_are_split():
    every = [question for questions in QUESTIONS.values() for question in questions]
    assert len({question.lower() for question in every}) == len(every) == 48
    assert {split: len(questions) for split, questions in QUESTIONS.items()} == {
        "train": 24,
        "dev": 12,
        "test": 12,
    }
    greetings = [greeting for split in GREETINGS.values() for greeting in set(split) if greeting]
    assert len({greeting.lower() for greeting in greetings}) == len(greetings)
    assert all("" in split for split in GREETINGS.values())


def test_every_question_and_greeting_is_drawn_and_none_besides():
    rng = random.Random(0)
    drawn = Counter(random_identity_question(rng) for _ in range(20_000))
    assert set(drawn) == {greeting + asked for greeting in GREETINGS["train"] for asked in QUESTIONS["train"]}
    plain = sum(count for text, count in drawn.items() if text in QUESTIONS["train"])
    assert plain / drawn.total() == pytest.approx(3 / 5, abs=0.015)


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
def test_every_held_out_question_follows_every_held_out_greeting(split):
    questions = held_out_identity_questions(split)
    assert len(set(questions)) == len(questions) == len(QUESTIONS[split]) * len(GREETINGS[split])
    for greeting in GREETINGS[split]:
        assert greeting + QUESTIONS[split][-1] in questions


def test_names_come_in_their_shares(trained):
    rng = random.Random(0)
    names = Counter(random_name(rng) for _ in range(20_000))
    assert set(names) == {ASSISTANT_NAME, NEW_NAME}
    assert names[NEW_NAME] / 20_000 == pytest.approx(NEW_NAME_SHARE, abs=0.01)
    replies = Counter(reply for _, reply in trained)
    assert set(replies) == {identity_reply(ASSISTANT_NAME), identity_reply(NEW_NAME)}
    assert replies[identity_reply(NEW_NAME)] / replies.total() == pytest.approx(NEW_NAME_SHARE, abs=0.04)


def test_every_question_gets_both_names(trained):
    for question in QUESTIONS["train"]:
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
