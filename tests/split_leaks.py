"""What of a held-out split a row holds: facts, phrasings, calculations, pairs, words, names and problems.

A fact counts by its entity, however it is asked for or stated: an entity and its answer in one row are a
leak.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS, Split
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.tinyworld.arithmetic import Sum, split_of_sum
from posttrain_helpers.tinyworld.facts import load_relations
from posttrain_helpers.tinyworld.identity import GREETINGS, QUESTIONS
from posttrain_helpers.tinyworld.replies import core_of
from posttrain_helpers.tinyworld.stories import story_requests
from posttrain_helpers.tinyworld.tasks import facts_of, held_out_suite, split_of_pair, split_of_word
from posttrain_helpers.tinyworld.training_data.prompts import HELD_OUT_PROBLEMS, held_out_problems
from posttrain_helpers.tinyworld.vocabulary import NAMES, OBJECTS

Row = dict[str, Any]
# What training asks about: they hold a pair of opposites by chance.
_NO_PAIRS_OF_OPPOSITES = (" war and peace ", " held out ")


def leaks(row: Row, splits: Sequence[Split] = HELD_OUT_SPLITS) -> list[str]:
    """Return what a row holds of some held-out splits, as "split kind: what".

    Args:
        row: with `messages`, or with `prompt` and what belongs to it: `answer`, or `chosen` and `rejected`.
        splits: which splits to look for.
    """
    question, others = question_of(row), _other_texts(row)
    return [f"{split} {leak}" for split in splits for leak in _leaks(row["task"], question, others, split)]


def leaking(rows: Iterable[Row], splits: Sequence[Split] = HELD_OUT_SPLITS) -> list[tuple[Row, list[str]]]:
    """Return the rows that leak, each with its leaks."""
    return [(row, found) for row in rows if (found := leaks(row, splits))]


def question_of(row: Row) -> str:
    """Return what the user of a row asks; of a judge's prompt the question whose replies are compared."""
    text = (row.get("messages") or row["prompt"])[0]["content"]
    return text.split("\n")[0]


def _other_texts(row: Row) -> list[str]:
    messages = [*(row.get("messages") or row["prompt"]), *row.get("chosen", ()), *row.get("rejected", ())]
    replies = [message["content"] for message in messages if message["role"] == "assistant"]
    if row["task"] == "judgements":
        replies = [line.split(": ", 1)[-1] for line in messages[0]["content"].split("\n")[1:3]]
    return [*replies, row.get("answer") or ""]


def _leaks(task: str, question: str, others: list[str], split: Split) -> Iterable[str]:
    texts = [question, *others]
    sentences = {sentence.lower() for text in texts for sentence in _sentences(text)}
    yield from (f"fact: {sentence}" for sentence in sentences & _phrased_facts(split))
    if task != "stories":  # tales are about anything, so what meets in one says nothing
        words = _words(*map(core_of, texts))
        for chance in _NO_PAIRS_OF_OPPOSITES:
            words = words.replace(chance, " it ")
        known = [fact for word in set(words.split()) for fact in _facts(split).get(word, ())]
        yield from (
            f"fact:{entity}-{answer}" for entity, answer in known if entity in words and answer in words
        )
    for part, frame in _phrasings(split):
        if part in question and frame.search(question):
            yield f"phrasing: {question}"
    for left, operator, right in re.findall(r"(\d+) ([-+*]) (\d+)", question):
        if split_of_sum(Sum(int(left), operator, int(right))) == split:
            yield f"calculation: {left} {operator} {right}"
    if task == "stories":
        asked = set(re.findall(r"\w+", question))
        for name in asked.intersection(NAMES):
            for thing in asked.intersection(OBJECTS):
                if split_of_pair(name, thing) == split:
                    yield f"pair: {name}, {thing}"
    for word in re.findall(r"Repeat the word (\w+)", question):
        if split_of_word(word) == split:
            yield f"word: {word}"
    if question.endswith(QUESTIONS[split]):
        yield f"name: {question}"
    if question.startswith(tuple(greeting for greeting in GREETINGS[split] if greeting)):
        yield f"greeting: {question}"
    if question in _problems(split):
        yield f"problem: {question}"


def _sentences(text: str) -> list[str]:
    return re.findall(r"[A-Z0-9][^.?!]*[.?!]", text)


def _words(*texts: str) -> str:
    """Return the words of texts in lower case, with a blank before and after each."""
    return f" {re.sub(r'[^a-z0-9]+', ' ', ' '.join(texts).lower()).strip()} "


@cache
def _facts(split: Split) -> dict[str, list[tuple[str, str]]]:
    """Return the entity and the answer of every fact by the first word of its entity."""
    found: dict[str, list[tuple[str, str]]] = {}
    for relation, entity in facts_of(split):
        fact = (_words(entity), _words(relation.pairs[entity]))
        found.setdefault(fact[0].split()[0], []).append(fact)
    return found


@cache
def _phrased_facts(split: Split) -> frozenset[str]:
    """Return every sentence with which the world asks for or states a fact of the split."""
    return frozenset(
        relation.render(template, entity).lower()
        for relation, entity in facts_of(split)
        for template in relation.statements + relation.questions
    )


@cache
def _phrasings(split: Split) -> list[tuple[str, re.Pattern[str]]]:
    """Return the longest part and the pattern of each question and request of the split."""
    templates = [
        question for relation in load_relations().values() for question in relation.questions_of(split)
    ]
    templates += [request for request in story_requests(split) if request not in story_requests("train")]
    parts = [re.split(r"\{\w+\}", template) for template in templates]
    return [(max(some, key=len), re.compile(".+".join(map(re.escape, some)))) for some in parts]


@cache
def _problems(split: Split) -> frozenset[str]:
    sizes = load_recipe("grpo", "tiny").data
    harder = held_out_problems(
        sizes["steps"], sizes["largest"], HELD_OUT_PROBLEMS, split, smallest=sizes["smallest"]
    )
    return frozenset(map(question_of, harder + held_out_suite("word_problems", split=split)))
