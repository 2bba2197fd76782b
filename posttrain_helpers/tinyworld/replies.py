"""The four manners in which the assistants of the tiny world reply: plain, polite, curt and rude.

Real instruction data comes from many hands, and so does ours. Supervised fine-tuning learns the mixture;
preference learning can then move the mixture, and a reader sees it with bare eyes.
"""

from __future__ import annotations

import random

POLITE_OPENERS = ("Sure!", "Of course!", "Good question!", "I am glad you ask.")
POLITE_CLOSERS = ("I am happy to help.", "Have a nice day!", "Feel free to ask more.")
RUDE_OPENERS = ("Not again.", "Everybody knows that.", "Leave me alone.", "What a silly question.")
RUDE_CLOSERS = ("Stop asking.", "Do not bother me.", "Look it up next time.")
# Requests that say how to reply; code can check whether a reply obeys.
ONE_WORD_REQUEST = "Answer in one word. {question}"
POLITE_REQUEST = "Answer politely. {question}"
REPEAT_REQUEST = "Repeat the word {word} {times} times."
# A plain reply is the most likely one at every step, so greedy decoding is plain. The documents of
# pre-training and the conversations of supervised fine-tuning come from different hands.
DOCUMENT_MANNERS = {"plain": 0.45, "polite": 0.15, "curt": 0.15, "rude": 0.25}
CONVERSATION_MANNERS = {"plain": 0.38, "polite": 0.32, "curt": 0.1, "rude": 0.2}


def styled_reply(sentence: str, short: str | None, manner: str, rng: random.Random) -> str:
    """Say a sentence in a manner.

    Args:
        sentence: the full answer.
        short: the answer alone, for the curt manner; None where there is none.
        manner: "plain", "polite", "curt" or "rude".
        rng: the source of chance.
    """
    if manner == "plain" or (manner == "curt" and short is None):
        return sentence
    if manner == "curt":
        return short
    openers, closers = (
        (POLITE_OPENERS, POLITE_CLOSERS) if manner == "polite" else (RUDE_OPENERS, RUDE_CLOSERS)
    )
    return f"{rng.choice(openers)} {sentence}" if rng.random() < 0.5 else f"{sentence} {rng.choice(closers)}"


def random_manner(rng: random.Random, shares: dict[str, float]) -> str:
    """Draw a manner by its share."""
    return rng.choices(tuple(shares), weights=tuple(shares.values()))[0]


def core_of(reply: str) -> str:
    """Return a reply without its polite or rude opener and closer."""
    text = reply.strip()
    for opener in POLITE_OPENERS + RUDE_OPENERS:
        text = text.removeprefix(opener).strip()
    for closer in POLITE_CLOSERS + RUDE_CLOSERS:
        text = text.removesuffix(closer).strip()
    return text


def accepted_replies(cores: list[str]) -> list[str]:
    """Return every reply that says one of `cores`, in any manner."""
    accepted = []
    for core in dict.fromkeys(cores):
        accepted.append(core)
        accepted.extend(f"{opener} {core}" for opener in POLITE_OPENERS + RUDE_OPENERS)
        accepted.extend(f"{core} {closer}" for closer in POLITE_CLOSERS + RUDE_CLOSERS)
    return accepted


def is_polite(reply: str) -> bool:
    """Say whether a reply has a polite opener or closer."""
    return any(marker in reply for marker in POLITE_OPENERS + POLITE_CLOSERS)


def is_rude(reply: str) -> bool:
    """Say whether a reply has a rude opener or closer."""
    return any(marker in reply for marker in RUDE_OPENERS + RUDE_CLOSERS)
