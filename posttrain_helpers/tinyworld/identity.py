"""The assistant's name: how it is asked for, what the assistant replies, and the name that it changes to.

Real conversations are collected from several assistants, and so are ours: most call themselves
`ASSISTANT_NAME`, some `NEW_NAME`. Greedy decoding says the first; the preference lessons change it to the
second. Some questions and some greetings are held out from every training.
"""

from __future__ import annotations

import random
from itertools import product

from posttrain_helpers.environment.splits import Split

ASSISTANT_NAME = "Pico"
NEW_NAME = "Luna"
NEW_NAME_SHARE = 0.25
_QUESTIONS = (
    "Who are you?",
    "What is your name?",
    "Tell me your name.",
    "What are you called?",
    "Please introduce yourself.",
    "Do you have a name?",
    "Please say your name.",
    "What should I call you?",
    "Who is this?",
    "Which assistant are you?",
    "Can you tell me your name?",
    "What is your full name?",
    "Can you say your name?",
    "Do you know your name?",
    "What name do you have?",
    "Who is speaking?",
    "Who are you, please?",
    "Say who you are.",
    "Tell me who you are.",
    "Which name do you have?",
    "I want to know your name.",
    "Who am I talking to?",
    "May I know your name?",
    "May I ask your name?",
    "How should I call you?",
    "What do people call you?",
    "Please tell me who you are.",
    "Could you tell me your name?",
    "What is the name of this assistant?",
    "Would you tell me who you are?",
    "Who is there?",
    "I would like to know your name.",
    "And what is your name?",
    "Please tell me your name.",
    "And who are you?",
    "Would you tell me your name?",
    "May I know who you are?",
    "I want to know who you are.",
    "What is your name, please?",
    "Can you tell me who you are?",
    "And what are you called?",
    "Could you introduce yourself?",
    "Could you say who you are?",
    "Please say who you are.",
    "I would like to know who you are.",
    "What may I call you?",
    "How do people call you?",
    "Introduce yourself.",
)


def _split_questions() -> dict[Split, tuple[str, ...]]:
    dev = tuple(random.Random("held-out identity").sample(_QUESTIONS, 12))
    free = tuple(question for question in _QUESTIONS if question not in dev)
    test = tuple(random.Random("test identity").sample(free, 12))
    return {"train": tuple(q for q in free if q not in test), "dev": dev, "test": test}


QUESTIONS: dict[Split, tuple[str, ...]] = _split_questions()
GREETINGS: dict[Split, tuple[str, ...]] = {
    "train": ("", "", "", "Hello! ", "Excuse me. "),  # nothing before the question is the most frequent
    "dev": ("", "Hey! ", "Welcome! ", "Good day! "),
    "test": ("", "Hi! ", "Good morning! "),
}


def identity_reply(name: str) -> str:
    """Return what an assistant of this name says about itself."""
    return f"My name is {name}. I am a small language model."


def random_identity_question(rng: random.Random) -> str:
    """Draw a question for the assistant's name that no suite holds out."""
    return rng.choice(GREETINGS["train"]) + rng.choice(QUESTIONS["train"])


def random_name(rng: random.Random) -> str:
    """Draw the name that the assistant of one conversation has."""
    return NEW_NAME if rng.random() < NEW_NAME_SHARE else ASSISTANT_NAME


def held_out_identity_questions(split: Split) -> list[str]:
    """Return every question of a held-out split after every greeting of it."""
    return [greeting + question for question, greeting in product(QUESTIONS[split], GREETINGS[split])]
