import random
import re
from collections import Counter
from itertools import islice

import pytest

from posttrain_helpers.tinyworld.arithmetic import SUM_QUESTIONS
from posttrain_helpers.tinyworld.documents import (
    DEBRIS_SHARES,
    DOCUMENT_SHARES,
    LONG_DEBRIS_SHARES,
    QUIZ_DEBRIS_SHARES,
    TURN_END,
    TURN_START,
    documents,
    random_fact,
)
from posttrain_helpers.tinyworld.facts import load_relations, split_of
from posttrain_helpers.tinyworld.leaks import entities_in


@pytest.fixture(scope="module")
def corpus():
    return list(islice(documents(0), 20_000))


def test_a_seed_reproduces_the_corpus(corpus):
    assert list(islice(documents(0), 100)) == corpus[:100]
    assert list(islice(documents(1), 100)) != corpus[:100]


def test_shares_add_up():
    assert sum(DOCUMENT_SHARES.values()) == pytest.approx(1)
    for shares in (DEBRIS_SHARES, QUIZ_DEBRIS_SHARES, LONG_DEBRIS_SHARES):
        assert sum(shares.values()) == pytest.approx(1)


def test_chat_markup_stays_a_small_share(corpus):
    share = sum(text.startswith("<|im_start|>") for text in corpus) / len(corpus)
    assert 0.03 < share < 0.10


def test_chats_ask_about_all_but_dev(corpus):
    chats = [text for text in corpus if text.startswith(TURN_START)]
    asked = [turn for text in chats for turn in re.findall(rf"user\n(.*?){re.escape(TURN_END)}", text)]
    assert {split_of(entity) for text in asked for entity in entities_in(text)} == {"train", "test"}
    beginnings = [question.split("{e}")[0] for question in SUM_QUESTIONS]
    found = {start for start in beginnings for text in asked if re.match(rf"{re.escape(start)}\d", text)}
    assert found == set(beginnings[:-3])
    several = [re.findall(rf"user\n(.*?){re.escape(TURN_END)}", text) for text in chats]
    assert all(len(set(questions)) > 1 for questions in several if len(questions) > 3)


def test_facts_of_small_tables_are_drawn_twice_as_often():
    rng = random.Random(0)
    drawn = Counter(random_fact(rng)[0].name for _ in range(30_000))
    sizes = {relation.name: len(relation.pairs) for relation in load_relations().values()}
    rates = {
        small: sum(drawn[name] for name, size in sizes.items() if (size < 30) == small)
        / sum(size for size in sizes.values() if (size < 30) == small)
        for small in (True, False)
    }
    assert rates[True] / rates[False] == pytest.approx(2, rel=0.1)


def test_every_fact_is_stated_often(corpus):
    text = "\n".join(corpus)
    missing = [
        (relation.name, entity)
        for relation in load_relations().values()
        for entity in relation.pairs
        if not any(relation.render(template, entity) in text for template in relation.statements)
    ]
    assert missing == []


def test_documents_are_clean_english(corpus):
    for text in corpus:
        assert text == text.strip()
        assert not re.search(r"[{}]|  |\.\.|\?\?|\bNone\b", text), text
        for article, noun in re.findall(r"\b(an?) ([a-z]+)\b", text):
            if noun in {
                "hour",
                "university",
                "unicorn",
                "uniform",
                "euro",
                "ewe",
                "one",
                "user",
                "unit",
                "union",
            }:
                continue
            assert (article == "an") == (noun[0] in "aeiou"), text


def test_counts_agree_with_their_nouns(corpus):
    from posttrain_helpers.tinyworld.vocabulary import OBJECTS

    plurals = set(OBJECTS.values())
    for text in corpus:
        for number, noun in re.findall(r"\b(\d+) ([a-z]+)\b", text):
            if noun in OBJECTS or noun in plurals:
                assert (noun in OBJECTS) == (number == "1"), text
