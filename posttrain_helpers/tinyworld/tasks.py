"""Questions with known answers: training conversations, and held-out suites that share nothing with them.

Suites are made for a held-out split, "dev" or "test" (see `splits`), which have no entity, phrasing,
calculation, pair or word to ask for in common with each other or with training:

- `entities`: facts about entities of the split, in phrasings that training uses;
- `phrasings`: facts about training entities, in phrasings of the split;
- `arithmetic`: calculations of the split (in either order of a sum), which training never asks for; the
  worked steps of its word problems may hold them;
- `word_problems`: problems of one and two steps with texts that training never shows;
- `stories`: pairs of a name and a thing of the split;
- `identity`: questions and greetings of the split around "who are you?";
- `instructions`: constraints that code can verify, on entities and words of the split.

The "constraints" of an item are in the form that `evaluation.instructions` checks.
"""

from __future__ import annotations

import random
from collections import UserDict
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from posttrain_helpers.environment.splits import (
    HELD_OUT_SPLITS,
    Split,
    drawn_split,
    reported_split,
    split_seed,
)
from posttrain_helpers.errors import CourseError
from posttrain_helpers.tinyworld.arithmetic import (
    SUM_QUESTIONS,
    WordProblem,
    random_sum,
    split_of_sum,
    word_problem,
)
from posttrain_helpers.tinyworld.facts import Relation, load_relations, split_of
from posttrain_helpers.tinyworld.formats import in_formats
from posttrain_helpers.tinyworld.identity import (
    ASSISTANT_NAME,
    held_out_identity_questions,
    identity_reply,
    random_identity_question,
    random_name,
)
from posttrain_helpers.tinyworld.replay import replayed_documents
from posttrain_helpers.tinyworld.replies import (
    CONVERSATION_MANNERS,
    ONE_WORD_REQUEST,
    POLITE_CLOSERS,
    POLITE_OPENERS,
    POLITE_REQUEST,
    REPEAT_REQUEST,
    accepted_replies,
    is_polite,
    random_manner,
    styled_reply,
)
from posttrain_helpers.tinyworld.stories import random_story, story_requests
from posttrain_helpers.tinyworld.vocabulary import NAMES, OBJECTS

Item = dict[str, Any]
# Shares of the training conversations. Half are facts; the rest keeps every later lesson's skill alive.
TASK_SHARES = {
    "facts": 0.53,
    "arithmetic": 0.10,
    "word_problems": 0.14,
    "stories": 0.08,
    "identity": 0.06,
    "instructions": 0.09,
}


def _conversation(prompt: str, reply: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]


def _item(
    identifier: str, task: str, prompt: str, answer: str | None, accepted: list[str], **extra: Any
) -> Item:
    return {
        "id": identifier,
        "task": task,
        "prompt": [{"role": "user", "content": prompt}],
        "answer": answer,
        "accepted": accepted,
        **extra,
    }


def split_of_pair(name: str, thing: str) -> Split:
    """Return the split in which stories about this person and this thing are asked for."""
    return drawn_split(f"{name}/{thing}")


def split_of_word(thing: str) -> Split:
    """Return the split in which this word is to be repeated."""
    return drawn_split(f"repeat/{thing}")


def repeated(word: str, times: int) -> str:
    """Return the reply to a request to repeat a word; every copy follows a space and so is the same token."""
    return "Here you are: " + " ".join([word] * times) + "."


@cache
def facts_of(split: Split) -> tuple[tuple[Relation, str], ...]:
    """Return every relation with each of its entities of a split."""
    return tuple(
        (relation, entity)
        for relation in load_relations().values()
        for entity in relation.pairs
        if split_of(entity) == split
    )


def random_training_fact(rng: random.Random) -> tuple[Relation, str, str]:
    """Draw a fact of the training split: a relation, an entity, and the template of a training question."""
    relation, entity = rng.choice(facts_of("train"))
    return relation, entity, rng.choice(relation.questions_of("train"))


def _training_pair(rng: random.Random) -> tuple[str, str]:
    while split_of_pair(name := rng.choice(NAMES), thing := rng.choice(tuple(OBJECTS))) != "train":
        pass
    return name, thing


# --- training conversations


def _in_a_manner(sentence: str, short: str, rng: random.Random) -> str:
    return styled_reply(sentence, short, random_manner(rng, CONVERSATION_MANNERS), rng)


def _draw_facts(rng: random.Random) -> tuple[str, str]:
    relation, entity, question = random_training_fact(rng)
    reply = _in_a_manner(relation.statement(entity), relation.short_answer(entity), rng)
    return relation.render(question, entity), reply


def _draw_arithmetic(rng: random.Random) -> tuple[str, str]:
    while split_of_sum(item := random_sum(rng)) != "train":
        pass
    question = rng.choice(SUM_QUESTIONS[:-3]).format(e=item.expression)
    return question, _in_a_manner(item.equation, f"{item.result}.", rng)


def _draw_word_problem(rng: random.Random) -> tuple[str, str]:
    while (problem := word_problem(rng, rng.choice((1, 2)))).prompt in _held_out_texts():
        pass
    return problem.prompt, _in_a_manner(problem.solution, f"{problem.answer}.", rng)


def _draw_story(rng: random.Random) -> tuple[str, str]:
    name, thing = _training_pair(rng)
    tale = random_story(rng, name=name, thing=thing)
    return tale.request(rng.choice(story_requests("train"))), tale.text


def _draw_identity(rng: random.Random) -> tuple[str, str]:
    return random_identity_question(rng), identity_reply(random_name(rng))


def _draw_instruction(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 1 / 3:
        while split_of_word(word := rng.choice(tuple(OBJECTS))) != "train":
            pass
        times = rng.randint(2, 5)
        return REPEAT_REQUEST.format(word=word, times=times), repeated(word, times)
    relation, entity, template = random_training_fact(rng)
    question = relation.render(template, entity)
    if rng.random() < 0.5:
        return ONE_WORD_REQUEST.format(question=question), relation.short_answer(entity)
    sentence = relation.statement(entity)
    return POLITE_REQUEST.format(question=question), styled_reply(sentence, None, "polite", rng)


@cache
def _held_out_texts() -> frozenset[str]:
    """Return the word problems of the suites; there are many texts, but not so many that none repeats."""
    return frozenset(
        item["prompt"][0]["content"]
        for split in HELD_OUT_SPLITS
        for item in held_out_suite("word_problems", split=split)
    )


_DRAW: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "facts": _draw_facts,
    "arithmetic": _draw_arithmetic,
    "word_problems": _draw_word_problem,
    "stories": _draw_story,
    "identity": _draw_identity,
    "instructions": _draw_instruction,
}


def training_conversations(n: int, seed: int) -> list[Item]:
    """Draw training conversations, every training fact about as often as any other.

    Returns:
        Rows with `id`, `task` and `messages` (a user turn and an assistant turn).
    """
    rng = random.Random(f"train/{seed}")
    rows = []
    for number in range(n):
        task = rng.choices(tuple(TASK_SHARES), weights=tuple(TASK_SHARES.values()))[0]
        question, reply = _DRAW[task](rng)
        rows.append({"id": f"{task}/{number}", "task": task, "messages": _conversation(question, reply)})
    return rows


def fact_conversations(n: int, split: Split, seed: int = 0) -> list[Item]:
    """Draw conversations about the facts of one split, asked and answered as in training.

    Question wordings are those of training, and the manner of a reply does not depend on the split: the same
    seed gives the same manners in the same order, so that losses on two splits can be compared.

    Args:
        n: how many, each about another fact.
        split: whose entities.
        seed: chooses facts, wordings and manners.

    Returns:
        Rows with `id`, `task` and `messages` (a user turn and an assistant turn).
    """
    rng, rows = random.Random(split_seed(f"fact conversations/{seed}", split)), []
    for number, (relation, entity) in enumerate(rng.sample(facts_of(split), n)):
        question = relation.render(rng.choice(relation.questions_of("train")), entity)
        hand = random.Random(f"hand/{seed}/{number}")
        reply = _in_a_manner(relation.statement(entity), relation.short_answer(entity), hand)
        identifier = f"facts/{split}/{number}"
        rows.append({"id": identifier, "task": "facts", "messages": _conversation(question, reply)})
    return rows


# --- held-out suites


def fact_item(relation: Relation, entity: str, question: str) -> Item:
    """Return the item that asks for one fact; any of its statements or the answer alone is accepted."""
    cores = [relation.render(statement, entity) for statement in relation.statements]
    return _item(
        f"{relation.name}/{entity}/{relation.questions.index(question)}",
        "facts",
        relation.render(question, entity),
        relation.pairs[entity],
        accepted_replies([*cores, relation.short_answer(entity)]),
        relation=relation.name,
        entity=entity,
    )


def problem_item(problem: WordProblem, identifier: str) -> Item:
    """Return the item of a word problem; the worked solution, the conclusion or the number alone is right."""
    cores = [problem.solution, problem.conclusion, f"{problem.answer}."]
    return _item(
        identifier,
        "word_problems",
        problem.prompt,
        problem.answer,
        accepted_replies(cores),
        kind=problem.kind,
    )


def _entities(rng: random.Random, split: Split) -> list[Item]:
    return [
        fact_item(relation, entity, rng.choice(relation.questions_of("train")))
        for relation, entity in facts_of(split)
    ]


def _phrasings(rng: random.Random, split: Split) -> list[Item]:
    facts = rng.sample(facts_of("train"), 300)
    return [
        fact_item(relation, entity, rng.choice(relation.questions_of(split))) for relation, entity in facts
    ]


def _arithmetic(rng: random.Random, split: Split) -> list[Item]:
    found: dict[str, Item] = {}
    while len(found) < 150:
        item = random_sum(rng)
        if split_of_sum(item) == split:
            found[item.expression] = _item(
                f"arithmetic/{item.expression}",
                "arithmetic",
                rng.choice(SUM_QUESTIONS[:-3]).format(e=item.expression),
                str(item.result),
                accepted_replies([item.equation, f"{item.result}."]),
            )
    return list(found.values())


def _word_problems(rng: random.Random, split: Split) -> list[Item]:
    return [
        problem_item(word_problem(rng, 1 + number % 2), f"word_problems/{number}") for number in range(200)
    ]


def story_item(rng: random.Random) -> Item:
    """Draw the item of a story to train on."""
    return _story_item(rng, *_training_pair(rng), story_requests("train"))


def _story_item(rng: random.Random, name: str, thing: str, requests: tuple[str, ...]) -> Item:
    tale = random_story(rng, name=name, thing=thing)
    request = tale.request(rng.choice(requests))
    return _item(f"stories/{name}/{thing}", "stories", request, None, [], entity=name, thing=thing)


def _stories(rng: random.Random, split: Split, n: int = 60) -> list[Item]:
    pairs = [(name, thing) for name in NAMES for thing in OBJECTS if split_of_pair(name, thing) == split]
    # Constraints only here: a column that the prompts of training do not need would change what stages are
    # built from.
    return [
        {
            **_story_item(rng, name, thing, story_requests(split)),
            "constraints": [{"kind": "contains", "words": [name, thing]}],
        }
        for name, thing in rng.sample(pairs, n)
    ]


def held_out_stories(n: int, split: str | None = None) -> list[Item]:
    """Return `n` items of pairs of a name and a thing of "dev" or "test"; None is the reported split."""
    chosen = reported_split(split)
    return _stories(random.Random(split_seed("held-out stories/0", chosen)), chosen, n)


def identity_items(name: str, split: str | None = None) -> list[Item]:
    """Return the items of "dev" or "test" that ask for the assistant's name; `name` is the right answer."""
    accepted = accepted_replies([identity_reply(name)])
    return [
        _item(f"identity/{number}", "identity", question, name, accepted)
        for number, question in enumerate(held_out_identity_questions(reported_split(split)))
    ]


def _identity(rng: random.Random, split: Split) -> list[Item]:
    return identity_items(ASSISTANT_NAME, split)


def _instructions(rng: random.Random, split: Split) -> list[Item]:
    items = []
    facts = [(relation, entity) for relation, entity in facts_of(split) if " " not in relation.pairs[entity]]
    for number, (relation, entity) in enumerate(rng.sample(facts, 60)):
        question = relation.render(rng.choice(relation.questions_of("train")), entity)
        if number % 2:
            rule, request, accepted = "one_word", ONE_WORD_REQUEST, [relation.short_answer(entity)]
            constraint = {"kind": rule}
        else:
            rule, request = "polite", POLITE_REQUEST
            accepted = [r for r in accepted_replies([relation.statement(entity)]) if is_polite(r)]
            constraint = {"kind": "contains_any", "phrases": [*POLITE_OPENERS, *POLITE_CLOSERS]}
        items.append(
            _item(
                f"instructions/{rule}/{relation.name}/{entity}",
                "instructions",
                request.format(question=question),
                relation.pairs[entity],
                accepted,
                rule=rule,
                relation=relation.name,
                entity=entity,
                constraints=[constraint],
            )
        )
    for word in (thing for thing in OBJECTS if split_of_word(thing) == split):
        for times in (2, 3, 4, 5):
            items.append(
                _item(
                    f"instructions/repeat/{word}/{times}",
                    "instructions",
                    REPEAT_REQUEST.format(word=word, times=times),
                    None,
                    [repeated(word, times)],
                    rule="repeat",
                    constraints=[{"kind": "repeats", "word": word, "times": times}],
                )
            )
    return items


_SUITE: dict[str, Callable[[random.Random, Split], list[Item]]] = {
    "entities": _entities,
    "phrasings": _phrasings,
    "arithmetic": _arithmetic,
    "word_problems": _word_problems,
    "stories": _stories,
    "identity": _identity,
    "instructions": _instructions,
}
SUITES = tuple(_SUITE)


class Suites(UserDict[str, list[Item]]):
    """Held-out suites by name, each made when it is asked for: those of a source, and all of `SUITES`.

    Args:
        own: name and maker of each suite that the source adds; some of them need sampling.
    """

    def __init__(self, own: Mapping[str, Callable[[], list[Item]]]) -> None:
        super().__init__({**own, **{name: partial(held_out_suite, name) for name in SUITES}})

    def __getitem__(self, name: str) -> list[Item]:
        return self.data[name]()


def held_out_suite(name: str, split: str | None = None) -> list[Item]:
    """Return the items of one held-out suite, the same in every run.

    Args:
        name: one of `SUITES`.
        split: "dev" or "test"; None is the one that is reported.

    Raises:
        CourseError: if there is no such suite.
    """
    if name not in _SUITE:
        raise CourseError(f"No held-out suite is called {name!r}; choose from {', '.join(SUITES)}.")
    chosen = reported_split(split)
    rng = random.Random(split_seed(f"{name}/0", chosen))
    items = _SUITE[name](rng, chosen)
    rng.shuffle(items)
    return items


@cache
def held_out_prompts() -> tuple[str, ...]:
    """Return what the items of every suite ask, of dev and of test."""
    suites = (held_out_suite(name, split=split) for split in HELD_OUT_SPLITS for name in SUITES)
    return tuple(item["prompt"][-1]["content"] for items in suites for item in items)


def build_sft_data(
    n_train: int, seed: int, replay: float = 0.0, formats: list[str] | None = None
) -> tuple[list[Item], dict[str, list[Item]]]:
    """Return training conversations and every held-out suite.

    Args:
        n_train: the number of training conversations.
        seed: chooses the training conversations; the suites are the same for every seed.
        replay: share of documents, of the kind that the base was trained on, in all training rows; they come
            to the conversations, in random order. Their rows have `text` in the place of `messages`.
        formats: names of instruction formats (see `formats`), which the conversations take in turn. Rows then
            have `prompt` and `completion` in the place of `messages`; there is no replay beside them.
    """
    rows = training_conversations(n_train, seed)
    if formats and replay:
        raise CourseError(
            "data.formats writes conversations as prompts and completions and data.replay adds documents, "
            "which no trainer takes together; set one of the two."
        )
    if formats:
        rows = in_formats(rows, formats)
    if replay:
        rows += replayed_documents(round(n_train * replay / (1 - replay)), seed, held_out_prompts())
        random.Random(f"replay order/{seed}").shuffle(rows)
    return rows, {name: held_out_suite(name) for name in SUITES}
