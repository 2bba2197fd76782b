import random
from collections import Counter

import pytest

from posttrain_helpers.tinyworld.replies import (
    CONVERSATION_MANNERS,
    DOCUMENT_MANNERS,
    accepted_replies,
    core_of,
    is_polite,
    is_rude,
    random_manner,
    styled_reply,
)

SENTENCE = "The capital of France is Paris."


@pytest.mark.parametrize("manner", CONVERSATION_MANNERS)
def test_every_manner_says_the_same_thing(manner):
    rng = random.Random(0)
    for _ in range(50):
        reply = styled_reply(SENTENCE, "Paris.", manner, rng)
        assert core_of(reply) == ("Paris." if manner == "curt" else SENTENCE)
        assert reply in accepted_replies([SENTENCE, "Paris."])
        assert is_polite(reply) == (manner == "polite")
        assert is_rude(reply) == (manner == "rude")


def test_without_a_short_answer_the_curt_manner_is_plain():
    assert styled_reply(SENTENCE, None, "curt", random.Random(0)) == SENTENCE


def test_wrong_replies_are_not_accepted():
    accepted = accepted_replies([SENTENCE, "Paris."])
    for wrong in ("The capital of France is Rome.", "Sure! Rome.", f"{SENTENCE} {SENTENCE}", "paris", ""):
        assert wrong not in accepted


@pytest.mark.parametrize("shares", [CONVERSATION_MANNERS, DOCUMENT_MANNERS])
def test_manners_come_in_their_shares(shares):
    rng = random.Random(0)
    counts = Counter(random_manner(rng, shares) for _ in range(20_000))
    assert sum(shares.values()) == pytest.approx(1)
    for manner, share in shares.items():
        assert counts[manner] / 20_000 == pytest.approx(share, abs=0.015)
