"""A pool of conversations as one finds them: good ones and faulty ones, and it is known which are which."""

from __future__ import annotations

import random
from dataclasses import replace

from posttrain_helpers.errors import CourseError
from posttrain_helpers.tinyworld.facts import Relation
from posttrain_helpers.tinyworld.replies import POLITE_OPENERS, styled_reply
from posttrain_helpers.tinyworld.tasks import Item, fact_item, facts_of, random_training_fact

# Shares of the pool; what is left is good. No manner of a good reply is rude.
FAULTS = {"wrong": 0.15, "rude": 0.15, "off topic": 0.10, "broken": 0.10, "duplicate": 0.10}
# Manners of replies that are not rude.
_MANNERS = ("plain", "plain", "polite", "curt")
# A text that spreads: each is copied so often.
COPIES = 10
_TRIES = 1000


def noisy_pool(n: int, seed: int) -> list[Item]:
    """Draw questions about training facts with replies of which some are faulty.

    Returns:
        Rows in random order with `prompt` (messages), `reply`, `relation`, `entity`, what the gold score
        needs, and `fault`: one of `FAULTS`, or "" for a good one. A wrong reply is a whole sentence with the
        answer of another entity; one that is off topic answers another question; a broken one breaks off,
        stammers or carries mark-up (a reply of one word that breaks off only lacks its full stop, so gold
        still calls it right); a duplicate is a good conversation with another opener at most, which
        stands further up already. No two good rows have the same question and reply.

    Raises:
        CourseError: so many good rows that there are no new ones.
    """
    rng = random.Random(f"pool/{seed}")
    counts = {fault: round(share * n) for fault, share in FAULTS.items()}
    copies = counts.pop("duplicate")
    faults = [fault for fault, count in counts.items() for _ in range(count)]
    faults += [""] * (n - len(faults) - copies)
    taken: set[tuple[str, str]] = set()
    rows = [_new_row(rng, taken) if not fault else _row(fault, rng) for fault in faults]
    good = [row for row in rows if not row["fault"]]
    originals = rng.sample(good, max(1, copies // COPIES)) if good else []
    families = [[row] for row in originals]
    for number in range(copies if originals else 0):
        family = families[number % len(families)]
        family.append(_copy(family[0], rng, taken))
        rows.append(family[-1])
    rng.shuffle(rows)
    # Whoever reads from the top takes the first of a family for the original, so that one is it.
    place = {id(row): number for number, row in enumerate(rows)}
    for family in families:
        first = min(family, key=lambda row: place[id(row)])
        for row in family:
            row["fault"] = "" if row is first else "duplicate"
    return rows


def _new_row(rng: random.Random, taken: set[tuple[str, str]]) -> Item:
    """Return a good row that is not taken, and take it."""
    for _ in range(_TRIES):
        row = _row("", rng)
        if _key(row) not in taken:
            taken.add(_key(row))
            return row
    raise CourseError(f"after {len(taken)} good rows no new one was found; draw a smaller pool.")


def _key(row: Item) -> tuple[str, str]:
    return row["prompt"][-1]["content"], row["reply"]


def _row(fault: str, rng: random.Random) -> Item:
    relation, entity, question = random_training_fact(rng)
    manner = "rude" if fault == "rude" else rng.choice(_MANNERS)
    told, about = relation, entity
    if fault == "off topic":
        while told.name == relation.name:
            told, about = rng.choice(facts_of("train"))
    sentence, short = told.statement(about), told.short_answer(about)
    if fault == "wrong":
        sentence, short = _false(relation, entity, rng)
    reply = styled_reply(sentence, short, manner, rng)
    reply = _broken(reply, rng) if fault == "broken" else reply
    return {**fact_item(relation, entity, question), "reply": reply, "fault": fault}


def _false(relation: Relation, entity: str, rng: random.Random) -> tuple[str, str]:
    """Return a sentence about the entity with the answer of another one, and that answer alone."""
    others = [answer for answer in relation.pairs.values() if answer != relation.pairs[entity]]
    claimed = replace(relation, pairs={entity: rng.choice(others)})
    return claimed.statement(entity), claimed.short_answer(entity)


def _broken(reply: str, rng: random.Random) -> str:
    words = reply.split()
    cut = " ".join(words[: max(1, len(words) // 2)]).rstrip(".")
    return rng.choice((cut, f"{reply} {reply} {reply}", f"<p>{reply}</p>"))


def _copy(row: Item, rng: random.Random, taken: set[tuple[str, str]]) -> Item:
    reply = row["reply"]
    if rng.random() < 0.5 and not any(opener in reply for opener in POLITE_OPENERS):
        reply = f"{rng.choice(POLITE_OPENERS)} {reply}"
    copy = {**row, "reply": reply}
    return {**row} if _key(copy) in taken else copy
