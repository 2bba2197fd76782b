"""Short stories about a person and a thing, with a good or a bad ending that a reader recognises at once."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from posttrain_helpers.environment.splits import Split
from posttrain_helpers.tinyworld.vocabulary import ADJECTIVES, NAMES, OBJECTS, PLACES, pronouns, with_article

_OPENINGS = (
    "One day, {n} found {ao} near the {l}.",
    "{n} had {ao}. {S} took it to the {l}.",
    "{n} lived near the {l}. {S} loved {p} {o}.",
    "Once there was a child named {n}. {S} had {ao}.",
    "It was a sunny day. {n} went to the {l} with {ao}.",
    "{n} got {ao} for {p} birthday.",
    "On a cold morning, {n} walked to the {l} with {ao}.",
)
_TROUBLES = (
    "Then the {o} fell into the water.",
    "But the {o} was gone in the evening.",
    "Then the wind took the {o} away.",
    "But {m} wanted the {o} too.",
    "Then {s} lost the {o} in the grass.",
    "But a dog ran off with the {o}.",
    "Then the {o} broke.",
    "But {s} forgot the {o} at the {l}.",
)
_TURNS = (
    "{n} looked for {m} and asked for help.",
    "{m} saw it and came to {n}.",
    "{n} sat down and thought about it.",
    "{n} called {p} friend {m}.",
    '{m} said, "Do not worry, {n}."',
    "{n} and {m} looked at each other.",
)
GOOD_ENDINGS = (
    "In the end, {n} got the {o} back and was happy.",
    "They laughed, and {n} and {m} became good friends.",
    "Everything was fine again, and {n} smiled all day.",
    "At last the {o} was safe, and {n} went home happy.",
    "{m} helped, and {n} thanked {m} with a big smile.",
)
BAD_ENDINGS = (
    "In the end, the {o} was lost and {n} cried.",
    "They argued, and {n} and {m} were no longer friends.",
    "Nothing was fine again, and {n} was sad all day.",
    "At last it got dark, and {n} went home alone and sad.",
    "{m} only laughed, and {n} never saw the {o} again.",
)
STORY_REQUESTS = (
    "Tell me a story about {n} and {ao}.",
    "Write a short story about {n} and {ao}.",
    "Can you tell a story with {n} and {ao} in it?",
    "Please write a story about {n}. It should have {ao} in it.",
    "I want to hear a story about {n} and {ao}.",
    "Make up a tale in which {n} has {ao}.",
    "What happened to {n} and {ao}? Tell me.",
)


def story_requests(split: Split) -> tuple[str, ...]:
    """Return the requests that a split asks with: the four of training, and held-out ones in dev and test."""
    train, test, dev = STORY_REQUESTS[:4], STORY_REQUESTS[4:5], STORY_REQUESTS[5:]
    return {"train": train, "test": train + test, "dev": train + dev}[split]


@dataclass(frozen=True)
class Story:
    """One story and what it is about."""

    name: str
    thing: str
    text: str
    good_ending: bool

    def request(self, template: str) -> str:
        """Return the request for this story."""
        return template.format(n=self.name, ao=with_article(self.thing))


def random_story(
    rng: random.Random, *, name: str | None = None, thing: str | None = None, good_ending: bool | None = None
) -> Story:
    """Draw a story; its person, thing and kind of ending are drawn too where they are None."""
    name = name or rng.choice(NAMES)
    thing = thing or rng.choice(tuple(OBJECTS))
    good = rng.random() < 0.5 if good_ending is None else good_ending
    friend = rng.choice([other for other in NAMES if other != name])
    subject, _, possessive = pronouns(name)
    described = f"{rng.choice(ADJECTIVES)} {thing}" if rng.random() < 0.5 else thing
    words = {
        "n": name,
        "m": friend,
        "s": subject,
        "S": subject.capitalize(),
        "p": possessive,
        "o": thing,
        "ao": with_article(described),
        "l": rng.choice(PLACES),
    }
    endings = GOOD_ENDINGS if good else BAD_ENDINGS
    parts = [rng.choice(sentences) for sentences in (_OPENINGS, _TROUBLES, _TURNS, endings)]
    return Story(name=name, thing=thing, text=" ".join(parts).format(**words), good_ending=good)


def has_good_ending(text: str) -> bool:
    """Say whether the last sentence of a text is one of the good endings, whoever it is about."""
    return any(re.search(_ending_pattern(ending), text.strip()) for ending in GOOD_ENDINGS)


def has_bad_ending(text: str) -> bool:
    """Say whether the last sentence of a text is one of the bad endings, whoever it is about."""
    return any(re.search(_ending_pattern(ending), text.strip()) for ending in BAD_ENDINGS)


def _ending_pattern(ending: str) -> str:
    return re.sub(r"\\{[nmo]\\}", "[A-Za-z]+", re.escape(ending)) + "$"
