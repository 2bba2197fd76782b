"""Does training data touch what is held out? Its questions and the facts that it asks for or states."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from posttrain_helpers.messages import text_key
from posttrain_helpers.tinyworld.facts import load_relations, split_of

# What stands between two marks; a sentence of the world is all of it, or its end, as in "Tell me: ...".
_SENTENCE = re.compile(r"[^.?!]+")
_WORD_START = re.compile(r"(?<!\w)\w")


@dataclass(frozen=True)
class Leaks:
    """What training rows hold of what is held out."""

    rows: int
    fact_rows: int  # those that ask for a fact of the world, or state one
    entities: tuple[str, ...]  # that these facts are about
    held_out_entities: tuple[str, ...]  # those of them that no training row may mention
    held_out_questions: tuple[str, ...]  # the ids of items whose question is a training one, word for word

    @property
    def found(self) -> bool:
        """Whether anything leaked."""
        return bool(self.held_out_entities or self.held_out_questions)

    def __str__(self) -> str:
        named = f" ({', '.join(map(repr, self.held_out_entities[:3]))})" if self.held_out_entities else ""
        return (
            f"{self.fact_rows:,} of {self.rows:,} training rows are about {len(self.entities)} entities, "
            f"{len(self.held_out_entities)} of them held out{named}; held-out questions among the training "
            f"questions: {len(self.held_out_questions)}"
        )

    __repr__ = __str__


def find_leaks(train: Iterable[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]] = ()) -> Leaks:
    """Look for held-out questions and held-out entities in training rows.

    An entity counts as mentioned when a sentence of any turn asks for a fact about it or states one, in any
    wording of the world, in upper or lower case, with other words before it or without its mark.

    Args:
        train: rows with `messages`.
        held_out: items with `id` and `prompt`; their questions must not be asked in training.
    """
    rows = fact_rows = 0
    asked: set[str] = set()
    entities: dict[str, None] = {}
    for row in train:
        rows += 1
        asked.add(text_key(row["messages"][:-1]))
        texts = [message["content"] for message in row["messages"]]
        mentioned = dict.fromkeys(entity for text in texts for entity in entities_in(text))
        fact_rows += bool(mentioned)
        entities |= mentioned
    return Leaks(
        rows,
        fact_rows,
        tuple(entities),
        tuple(entity for entity in entities if split_of(entity) != "train"),
        tuple(str(item["id"]) for item in held_out if text_key(item["prompt"]) in asked),
    )


def entities_in(text: str) -> Iterator[str]:
    """Yield the entities about which a text asks for a fact or states one."""
    for end in sentence_ends(text):
        yield from _entities_by_sentence().get(end, ())


def sentence_ends(text: str) -> Iterator[str]:
    """Yield what each sentence says from each of its words on, as `sentences` writes it."""
    for sentence in sentences(text):
        for start in _WORD_START.finditer(sentence):
            yield sentence[start.start() :]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text without marks, in lower case and with single blanks."""
    return [" ".join(re.findall(r"[^\s\"]+", sentence)) for sentence in _SENTENCE.findall(text.lower())]


@cache
def _entities_by_sentence() -> dict[str, tuple[str, ...]]:
    """Return, for every sentence that asks for a fact or states one, the entities that it may be about."""
    found: dict[str, tuple[str, ...]] = {}
    for relation in load_relations().values():
        for entity in relation.pairs:
            for template in (*relation.questions, *relation.statements):
                for sentence in sentences(relation.render(template, entity)):
                    if entity.lower() in sentence:  # some ask on, as in "How many are there?"
                        found[sentence] = tuple(dict.fromkeys((*found.get(sentence, ()), entity)))
    return found
