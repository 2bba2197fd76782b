"""A pool of conversations as one finds them: good ones and faulty ones, and it is known which are which."""

from __future__ import annotations

import random

from posttrain_helpers.tinyworld.facts import Relation
from posttrain_helpers.tinyworld.replies import POLITE_OPENERS, styled_reply
from posttrain_helpers.tinyworld.tasks import Item, fact_item, training_facts

# Shares of the pool; what is left is good. No manner of a good reply is rude.
FAULTS = {"wrong": 0.15, "rude": 0.15, "off topic": 0.10, "broken": 0.10, "duplicate": 0.10}
# Manners of replies that are not rude.
_MANNERS = ("plain", "plain", "polite", "curt")
# A text that spreads: each is copied so often.
COPIES = 10


def noisy_pool(n: int, seed: int) -> list[Item]:
    """Draw questions about training facts with replies of which some are faulty.

    Args:
        n: how many conversations.
        seed: the same seed gives the same pool.

    Returns:
        Rows in random order with `prompt` (messages), `reply`, `relation`, `entity`, what the gold score
        needs, and `fault`: one of `FAULTS`, or "" for a good one. A wrong reply is a whole sentence with the
        answer of another entity; one that is off topic answers another question; a broken one breaks off,
        stammers or carries mark-up; a duplicate is a good conversation with another opener at most, which
        stands in the pool already.
    """
    rng = random.Random(f"pool/{seed}")
    counts = {fault: round(share * n) for fault, share in FAULTS.items()}
    copies = counts.pop("duplicate")
    faults = [fault for fault, count in counts.items() for _ in range(count)]
    faults += [""] * (n - len(faults) - copies)
    rows = [_row(fault, rng) for fault in faults]
    good = [row for row in rows if not row["fault"]]
    originals = rng.sample(good, max(1, copies // COPIES)) if good else []
    for number in range(copies if originals else 0):
        rows.append(_copy(originals[number % len(originals)], rng))
    rng.shuffle(rows)
    return rows


def _row(fault: str, rng: random.Random) -> Item:
    relation, entity = rng.choice(training_facts())
    item = fact_item(relation, entity, rng.choice(relation.questions_of("train")))
    manner = "rude" if fault == "rude" else rng.choice(_MANNERS)
    told, about = relation, entity
    if fault == "off topic":
        while told.name == relation.name:
            told, about = rng.choice(training_facts())
    sentence, short = told.statement(about), told.short_answer(about)
    if fault == "wrong":
        sentence, short = _false(relation, entity, rng)
    reply = styled_reply(sentence, short, manner, rng)
    return {**item, "reply": _broken(reply, rng) if fault == "broken" else reply, "fault": fault}


def _false(relation: Relation, entity: str, rng: random.Random) -> tuple[str, str]:
    """Return a sentence about the entity with the answer of another one, and that answer alone."""
    others = [answer for answer in relation.pairs.values() if answer != relation.pairs[entity]]
    claimed = Relation(
        relation.name,
        relation.description,
        relation.statements,
        relation.questions,
        {entity: rng.choice(others)},
        relation.an,
        relation.a,
    )
    return claimed.statement(entity), claimed.short_answer(entity)


def _broken(reply: str, rng: random.Random) -> str:
    words = reply.split()
    cut = " ".join(words[: max(1, len(words) // 2)]).rstrip(".")
    return rng.choice((cut, f"{reply} {reply} {reply}", f"<p>{reply}</p>"))


def _copy(row: Item, rng: random.Random) -> Item:
    reply = row["reply"]
    if rng.random() < 0.5 and not any(opener in reply for opener in POLITE_OPENERS):
        reply = f"{rng.choice(POLITE_OPENERS)} {reply}"
    return {**row, "reply": reply, "fault": "duplicate"}
