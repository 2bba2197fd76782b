"""What is true in the tiny world: relations between entities and answers, read from `facts/*.yaml`.

A table holds paraphrased statements, questions and pairs. Questions and entities belong to one split each
(see `splits`): lessons train on the first three questions of a relation, the next two are test, the last
three dev; three in ten entities are dev, one in four is test, in all their relations at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from posttrain_helpers.environment.splits import Split, split_seed
from posttrain_helpers.tinyworld.vocabulary import capitalise, with_article

DEV_QUESTIONS = 3
TEST_QUESTIONS = 2
DEV_ENTITY_SHARE = 0.3
TEST_ENTITY_SHARE = 0.25
_SPLIT_SEED = 2026


@dataclass(frozen=True)
class Relation:
    """One table of facts."""

    name: str
    statements: tuple[str, ...]  # templates; the first is the canonical answer sentence
    questions: tuple[str, ...]  # templates
    pairs: dict[str, str]  # entity -> answer
    an: frozenset[str] = frozenset()  # words that take "an" against the spelling rule
    a: frozenset[str] = frozenset()  # words that take "a" against it

    def questions_of(self, split: Split) -> tuple[str, ...]:
        """Return the phrasings of a split."""
        dev, test = -DEV_QUESTIONS, -DEV_QUESTIONS - TEST_QUESTIONS
        return {
            "train": self.questions[:test],
            "test": self.questions[test:dev],
            "dev": self.questions[dev:],
        }[split]

    @property
    def debris_questions(self) -> tuple[str, ...]:
        """The phrasings that the base model has met in chats: those of train and test."""
        return self.questions[:-DEV_QUESTIONS]

    def render(self, template: str, entity: str) -> str:
        """Fill a statement or question template for an entity."""
        words = {}
        for placeholder, word in (("x", entity), ("y", self.pairs[entity])):
            article = with_article(word, self.an, self.a)
            words |= {placeholder: word, placeholder.upper(): capitalise(word)}
            words |= {f"a_{placeholder}": article, f"A_{placeholder}": capitalise(article)}
        return template.format(**words)

    def statement(self, entity: str) -> str:
        """Return the fact as a sentence, in its canonical wording."""
        return self.render(self.statements[0], entity)

    def short_answer(self, entity: str) -> str:
        """Return the answer alone as a sentence, such as "Paris."."""
        return capitalise(self.pairs[entity]) + "."


@cache
def load_relations() -> dict[str, Relation]:
    """Read every table, in alphabetical order."""
    relations = {}
    for path in sorted((Path(__file__).parent / "facts").glob("*.yaml")):
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        relations[path.stem] = Relation(
            name=path.stem,
            statements=tuple(table["statements"]),
            questions=tuple(table["questions"]),
            pairs=dict(table["pairs"]),
            an=frozenset(table.get("an", ())),
            a=frozenset(table.get("a", ())),
        )
    return relations


@cache
def _split_of_entities() -> dict[str, Split]:
    """Return the split of every entity, in lower case.

    An entity of several relations is decided once, in the first of them, so that nothing about it is trained
    on. The test entities were drawn after the base model was trained, from what had been training entities.
    """
    decided: dict[str, Split] = {}
    for split, share in (("dev", DEV_ENTITY_SHARE), ("test", TEST_ENTITY_SHARE)):
        seen: set[str] = set()
        for relation in load_relations().values():
            seed = f"{_SPLIT_SEED}/{relation.name}"
            rng = random.Random(split_seed(seed, split))
            new = [entity for entity in relation.pairs if entity.lower() not in seen]
            seen.update(entity.lower() for entity in new)
            free = [entity for entity in new if entity.lower() not in decided]
            rng.shuffle(free)
            decided.update({entity.lower(): split for entity in free[: round(share * len(new))]})
    return {entity.lower(): "train" for entity in facts_by_entity()} | decided


def split_of(entity: str) -> Split:
    """Return the split of an entity, "train" for one that no relation knows."""
    return _split_of_entities().get(entity.lower(), "train")


@cache
def facts_by_entity() -> dict[str, tuple[tuple[Relation, str], ...]]:
    """Return, for each entity, the relations that know something about it."""
    index: dict[str, tuple[tuple[Relation, str], ...]] = {}
    for relation in load_relations().values():
        for entity in relation.pairs:
            index[entity] = (*index.get(entity, ()), (relation, entity))
    return index
