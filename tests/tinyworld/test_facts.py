import re
from collections import defaultdict

import pytest

from posttrain_helpers.tinyworld.facts import (
    DEV_ENTITY_SHARE,
    TEST_ENTITY_SHARE,
    facts_by_entity,
    load_relations,
    split_of,
)


def every_sentence():
    for relation in load_relations().values():
        for entity in relation.pairs:
            for template in relation.statements + relation.questions:
                yield relation, relation.render(template, entity)


def test_world_is_as_large_as_promised():
    relations = load_relations()
    assert len(relations) >= 12
    assert sum(len(relation.pairs) for relation in relations.values()) >= 600


def test_known_facts_are_right():
    pairs = {name: relation.pairs for name, relation in load_relations().items()}
    assert pairs["capital"]["France"] == "Paris"
    assert pairs["animal_young"]["cow"] == "calf"
    assert pairs["animal_legs"]["spider"] == "eight"
    assert pairs["past_tense"]["go"] == "went"
    assert pairs["plural"]["child"] == "children"
    assert pairs["chemical_symbol"]["gold"] == "Au"
    assert pairs["next_month"]["December"] == "January"
    assert pairs["number_word"]["7"] == "seven"


def test_facts_agree_with_independent_sources():
    import calendar

    pairs = {name: relation.pairs for name, relation in load_relations().items()}
    months = list(calendar.month_name)[1:]
    assert pairs["next_month"] == {m: months[(i + 1) % 12] for i, m in enumerate(months)}
    days = list(calendar.day_name)
    assert pairs["next_day"] == {d: days[(i + 1) % 7] for i, d in enumerate(days)}
    assert {m: int(d) for m, d in pairs["month_days"].items()} == {
        month: calendar.monthrange(2023, number)[1]
        for number, month in enumerate(months, 1)
        if month in pairs["month_days"]
    }
    legs = {"insect": "six", "bird": "two"}
    for animal, kind in pairs["animal_class"].items():
        if kind in legs and animal in pairs["animal_legs"]:
            assert pairs["animal_legs"][animal] == legs[kind], animal


def test_articles_agree_with_the_sound():
    # Vowel letters that do not sound like one, and the reverse, are listed: anything else must follow the
    # letter.
    an_despite_letter = {
        "hour",
        "honest",
        "heir",
        "SFT",
        "LLM",
        "MLP",
        "LR",
        "NLP",
        "LM",
        "RL",
        "RLHF",
        "RM",
        "FSDP",
        "LoRA",
    }
    a_despite_letter = {
        "unicorn",
        "uniform",
        "university",
        "union",
        "unit",
        "euro",
        "ewe",
        "one",
        "user",
        "useful",
    }
    for _, sentence in every_sentence():
        for article, word in re.findall(r"\b([Aa]n?) ([A-Za-z]+)", sentence):
            if article == "A" and word in {"is", "or", "and"}:
                continue
            vowel = word[0].lower() in "aeiou"
            if word in an_despite_letter or (word.isupper() and word[0] in "FHLMNRSX"):
                vowel = True
            if word in a_despite_letter or (word.isupper() and word[0] == "U"):
                vowel = False
            assert (article.lower() == "an") == vowel, sentence


def test_sentences_are_well_formed():
    for _, sentence in every_sentence():
        assert not re.search(r"[{}]|  ", sentence), sentence
        assert sentence[0].isupper() or sentence[0].isdigit(), sentence
        assert sentence[-1] in ".?!", sentence
        assert sentence.isascii(), sentence
        assert not re.search(r"\b(a|an|the) (a|an|the)\b", sentence, re.IGNORECASE), sentence


def test_one_question_has_one_answer():
    answers = defaultdict(set)
    for relation in load_relations().values():
        for entity, answer in relation.pairs.items():
            for question in relation.questions:
                answers[relation.render(question, entity)].add(answer)
    assert {question: found for question, found in answers.items() if len(found) > 1} == {}


def test_questions_do_not_give_the_answer_away():
    class_names = {"animal_class"}  # a choice among all classes names the right one too
    for relation in load_relations().values():
        if relation.name in class_names:
            continue
        for template in relation.questions:
            assert "{y}" not in template
            assert "{a_y}" not in template


@pytest.mark.parametrize(("split", "promised"), [("dev", DEV_ENTITY_SHARE), ("test", TEST_ENTITY_SHARE)])
def test_entity_split_is_of_the_promised_size_in_every_relation(split, promised):
    relations = load_relations().values()
    facts = [(relation, entity) for relation in relations for entity in relation.pairs]
    share = sum(split_of(entity) == split for _, entity in facts) / len(facts)
    assert share == pytest.approx(promised, abs=0.03)
    for relation in relations:
        assert {split_of(entity) for entity in relation.pairs} == {"train", "dev", "test"}, relation.name


def test_entity_split_is_by_entity_however_it_is_spelled():
    for entity in facts_by_entity():
        assert split_of(entity) == split_of(entity.upper()) == split_of(entity.lower())
    assert split_of("Atlantis") == "train"


def test_phrasing_split_leaves_three_sides():
    for relation in load_relations().values():
        train, dev, test = (relation.questions_of(split) for split in ("train", "dev", "test"))
        assert (len(train), len(dev), len(test)) == (3, 3, 2)
        assert sorted(train + dev + test) == sorted(set(relation.questions))
        assert relation.debris_questions == train + test
