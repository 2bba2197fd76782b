"""What is true in the tiny world: relations between entities and answers, read from `facts/*.yaml`.

A table holds paraphrased statements, questions and pairs. The last three questions of each relation are held
out from every lesson's training data, and so are three in ten entities: an entity is held out in all its
relations at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from posttrain_helpers.tinyworld.vocabulary import capitalise, with_article

HELD_OUT_QUESTIONS = 3
HELD_OUT_ENTITY_SHARE = 0.3
_SPLIT_SEED = 2026


@dataclass(frozen=True)
class Relation:
    """One table of facts.

    Args:
        name: the relation, such as "capital".
        description: what it says, for readers.
        statements: templates that state a fact; the first is the canonical answer sentence.
        questions: templates that ask for it; the last three are held out.
        pairs: entity -> answer.
        an: words of this table that take "an" against the spelling rule.
        a: words of this table that take "a" against the spelling rule.
    """

    name: str
    description: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    pairs: dict[str, str]
    an: frozenset[str] = frozenset()
    a: frozenset[str] = frozenset()

    @property
    def training_questions(self) -> tuple[str, ...]:
        """The phrasings that lessons may train on."""
        return self.questions[:-HELD_OUT_QUESTIONS]

    @property
    def held_out_questions(self) -> tuple[str, ...]:
        """The phrasings that no lesson trains on."""
        return self.questions[-HELD_OUT_QUESTIONS:]

    def render(self, template: str, entity: str) -> str:
        """Fill a statement or question template for an entity."""
        answer = self.pairs[entity]
        text = template
        for placeholder, word in (("x", entity), ("y", answer)):
            article = with_article(word, self.an, self.a)
            text = text.replace(f"{{{placeholder}}}", word).replace(f"{{a_{placeholder}}}", article)
            text = text.replace(f"{{{placeholder.upper()}}}", capitalise(word))
            text = text.replace(f"{{A_{placeholder}}}", capitalise(article))
        return text

    def statement(self, entity: str, index: int = 0) -> str:
        """Return the fact as a sentence; index 0 is the canonical one."""
        return self.render(self.statements[index], entity)

    def short_answer(self, entity: str) -> str:
        """Return the answer alone as a sentence, such as "Paris."."""
        return capitalise(self.pairs[entity]) + "."


@lru_cache(maxsize=1)
def load_relations() -> dict[str, Relation]:
    """Read every table, in alphabetical order."""
    relations = {}
    for path in sorted((Path(__file__).parent / "facts").glob("*.yaml")):
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        relations[path.stem] = Relation(
            name=path.stem,
            description=table["description"],
            statements=tuple(table["statements"]),
            questions=tuple(table["questions"]),
            pairs=dict(table["pairs"]),
            an=frozenset(table.get("an", ())),
            a=frozenset(table.get("a", ())),
        )
    return relations


@lru_cache(maxsize=1)
def held_out_entities() -> frozenset[str]:
    """Return the entities that no lesson trains on, three in ten of each relation.

    An entity of several relations is decided once, in the first of them, so that nothing about it is trained
    on.
    """
    decided: dict[str, bool] = {}
    for relation in load_relations().values():
        rng = random.Random(f"{_SPLIT_SEED}/{relation.name}")
        undecided = [entity for entity in relation.pairs if entity.lower() not in decided]
        rng.shuffle(undecided)
        cut = round(HELD_OUT_ENTITY_SHARE * len(undecided))
        decided.update({entity.lower(): position < cut for position, entity in enumerate(undecided)})
    return frozenset(entity for entity, is_held_out in decided.items() if is_held_out)


def is_held_out(entity: str) -> bool:
    """Say whether an entity is held out from every lesson's training data."""
    return entity.lower() in held_out_entities()


@lru_cache(maxsize=1)
def facts_by_entity() -> dict[str, tuple[tuple[Relation, str], ...]]:
    """Return, for each entity, the relations that know something about it."""
    index: dict[str, list[tuple[Relation, str]]] = {}
    for relation in load_relations().values():
        for entity in relation.pairs:
            index.setdefault(entity, []).append((relation, entity))
    return {entity: tuple(known) for entity, known in index.items()}
