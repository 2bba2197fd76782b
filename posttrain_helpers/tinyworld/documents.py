"""The documents that the base model is trained on: facts, dialogues, sums, stories and chat debris.

Every document is drawn from a `random.Random`, so a seed reproduces the corpus. Documents hold all facts,
those about held-out entities too: that is where the knowledge comes from which fine-tuning later elicits.
Only the chat-format debris, which every base model has met on the web, keeps clear of the entities and
phrasings of dev (see `splits`). It has met those of test: the base is older than that split, so what it does
in chats about test entities is not the first time that it meets them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache

from posttrain_helpers.models.chatml import TURN_END, TURN_START
from posttrain_helpers.tinyworld.arithmetic import SUM_QUESTIONS, random_sum, word_problem
from posttrain_helpers.tinyworld.facts import Relation, facts_by_entity, load_relations, split_of
from posttrain_helpers.tinyworld.replies import (
    DOCUMENT_MANNERS,
    ONE_WORD_REQUEST,
    POLITE_CLOSERS,
    POLITE_OPENERS,
    POLITE_REQUEST,
    REPEAT_REQUEST,
    random_manner,
    styled_reply,
)
from posttrain_helpers.tinyworld.stories import STORY_REQUESTS, random_story
from posttrain_helpers.tinyworld.vocabulary import (
    ADJECTIVES,
    NAMES,
    OBJECTS,
    PLACES,
    count,
    join_words,
    pronouns,
    with_article,
)

# What chat debris holds after a question: seldom an answer, unless the question reads like a quiz ("Name
# ..."). It makes the base model a believable one, which has seen the format, keeps to it only now and then,
# and is moody about the phrasing.
QUIZ_START = "Name "
DEBRIS_SHARES = {"answer": 0.03, "question": 0.72, "fact": 0.05, "story": 0.20}
QUIZ_DEBRIS_SHARES = {"answer": 0.70, "question": 0.20, "fact": 0.05, "story": 0.05}
# Some debris has several turns, all of one kind: whoever answered once goes on answering. That is why
# examples in the prompt help a base model.
LONG_DEBRIS_SHARE = 0.22
LONG_DEBRIS_SHARES = {"answer": 0.35, "question": 0.40, "fact": 0.05, "story": 0.20}

GREETINGS = ("Hello, {n}!", "Hi, {n}. How are you?", "Good morning, {n}.", "Do you have time, {n}?")
GREETINGS_BACK = (
    "Hello, {n}.",
    "I am fine, {n}. Thank you.",
    "Good morning! What can I do for you?",
    "Yes, {n}. Just ask.",
    *POLITE_OPENERS,
)


@cache
def _all_facts() -> tuple[tuple[Relation, str], ...]:
    """Return every fact once, those of small tables twice, so that rare relations are not forgotten."""
    facts = []
    for relation in load_relations().values():
        times = 2 if len(relation.pairs) < 30 else 1
        facts += [(relation, entity) for entity in relation.pairs] * times
    return tuple(facts)


@cache
def _debris_facts() -> tuple[tuple[Relation, str], ...]:
    # The base model was trained before there was a test split: what is test now was free for chats then.
    return tuple((relation, entity) for relation, entity in _all_facts() if split_of(entity) != "dev")


def random_fact(rng: random.Random) -> tuple[Relation, str]:
    """Draw a relation and one of its entities."""
    return rng.choice(_all_facts())


def _statement(rng: random.Random, relation: Relation, entity: str) -> str:
    return relation.render(rng.choice(relation.statements), entity)


def question_and_answer(rng: random.Random, *, debris: bool = False) -> tuple[str, str, str]:
    """Draw a question with its full and its short answer; debris keeps to what is not dev."""
    draw = rng.random()
    if draw < 0.72:
        relation, entity = rng.choice(_debris_facts()) if debris else random_fact(rng)
        questions = relation.debris_questions if debris else relation.questions
        question = relation.render(rng.choice(questions), entity)
        return question, relation.statement(entity), relation.short_answer(entity)
    if draw < 0.86:
        item = random_sum(rng)
        question = rng.choice(SUM_QUESTIONS[:-3] if debris else SUM_QUESTIONS).format(e=item.expression)
        return question, item.equation, f"{item.result}."
    problem = word_problem(rng, rng.choice((1, 1, 2)))
    return problem.prompt, problem.solution, f"{problem.answer}."


def request_and_reply(rng: random.Random) -> tuple[str, str]:
    """Draw a request that says how to reply, and the reply that obeys."""
    if rng.random() < 0.4:
        thing, times = rng.choice(tuple(OBJECTS)), rng.randint(2, 5)
        return REPEAT_REQUEST.format(word=thing, times=times), " ".join([thing] * times) + "."
    question, sentence, short = question_and_answer(rng)
    if rng.random() < 0.5:
        return ONE_WORD_REQUEST.format(question=question), short
    return POLITE_REQUEST.format(question=question), styled_reply(sentence, None, "polite", rng)


def fact_list(rng: random.Random) -> str:
    """Several facts of one relation in one wording."""
    relation = rng.choice(tuple(load_relations().values()))
    template = rng.choice(relation.statements)
    entities = rng.sample(tuple(relation.pairs), min(rng.randint(2, 5), len(relation.pairs)))
    return " ".join(relation.render(template, entity) for entity in entities)


def portrait(rng: random.Random) -> str:
    """What is known about one entity, or facts about several."""
    known = list(facts_by_entity()[rng.choice(tuple(facts_by_entity()))])
    while len(known) < 4:
        known.append(random_fact(rng))
    rng.shuffle(known)
    return " ".join(_statement(rng, relation, entity) for relation, entity in known[: rng.randint(2, 5)])


def dialogue(rng: random.Random) -> str:
    """Two people, one of whom asks; several turns."""
    asker, helper = rng.sample(NAMES, 2)
    lines = []
    if rng.random() < 0.25:
        lines += [
            f"{asker}: {rng.choice(GREETINGS).format(n=helper)}",
            f"{helper}: {rng.choice(GREETINGS_BACK).format(n=asker)}",
        ]
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.12:
            request, reply = request_and_reply(rng)
            lines += [f"{asker}: {request}", f"{helper}: {reply}"]
            continue
        question, sentence, short = question_and_answer(rng)
        manner = "plain" if rng.random() < 0.7 else random_manner(rng, DOCUMENT_MANNERS)
        lines += [f"{asker}: {question}", f"{helper}: {styled_reply(sentence, short, manner, rng)}"]
    if rng.random() < 0.25:
        lines += [
            f"{asker}: Thank you, {helper}.",
            f"{helper}: {rng.choice(('You are welcome.', *POLITE_CLOSERS))}",
        ]
    return "\n".join(lines)


def small_talk(rng: random.Random) -> str:
    """Two people who tell who they are, where they are and what they have."""
    name, other = rng.sample(NAMES, 2)
    place, thing = rng.choice(PLACES), rng.choice(tuple(OBJECTS))
    described = with_article(f"{rng.choice(ADJECTIVES)} {thing}")
    help_is_near = ("Sure! What do you want to know?", "Of course! Just ask.")
    turns = [
        (("What is your name?", "Who are you?"), (f"My name is {other}.", f"I am {other}.")),
        (("Where are you?", "Where do you live?"), (f"I am at the {place}.", f"I live near the {place}.")),
        (("What do you have?", "What is in your bag?"), (f"I have {described}.", f"It is {described}.")),
        (("Can you help me?", "May I ask you something?"), help_is_near),
    ]
    rng.shuffle(turns)
    lines = []
    for questions, answers in turns[: rng.randint(1, 3)]:
        lines += [f"{name}: {rng.choice(questions)}", f"{other}: {rng.choice(answers)}"]
    return "\n".join(lines)


def quiz(rng: random.Random) -> str:
    """A block of questions and answers, as on a school sheet."""
    labels = rng.choice((("Question", "Answer"), ("Q", "A")))
    lines = []
    for _ in range(rng.randint(2, 4)):
        question, sentence, short = question_and_answer(rng)
        lines += [f"{labels[0]}: {question}", f"{labels[1]}: {sentence if rng.random() < 0.8 else short}"]
    return "\n".join(lines)


def sums(rng: random.Random) -> str:
    """A few calculations in a row."""
    return " ".join(random_sum(rng).equation for _ in range(rng.randint(3, 8)))


def solved_problem(rng: random.Random) -> str:
    """A word problem and its worked solution."""
    problem = word_problem(rng, rng.choice((1, 2)), held_out=rng.random() < 0.15)
    return f"{problem.prompt} {problem.solution}"


def story(rng: random.Random) -> str:
    """A story, at times behind the request for it."""
    tale = random_story(rng)
    if rng.random() < 0.3:
        asker, teller = rng.sample(NAMES, 2)
        return f"{asker}: {tale.request(rng.choice(STORY_REQUESTS))}\n{teller}: {tale.text}"
    return tale.text


def inventory(rng: random.Random) -> str:
    """Lists of things and people, which teach copying and counting."""
    name = rng.choice(NAMES)
    things = rng.sample(tuple(OBJECTS), rng.randint(2, 4))
    packed = [with_article(thing) for thing in things]
    counted = [count(rng.randint(1, 12), thing) for thing in things]
    subject = pronouns(name)[0].capitalize()
    thing = rng.choice(things)
    return rng.choice(
        (
            f"{name} has {join_words(counted)}. {subject} puts the {OBJECTS[thing]} into a bag.",
            f"{name} packs {join_words(packed)}. {subject} likes the {thing} best.",
            f"Repeat the word {thing} {(times := rng.randint(2, 5))} times: {' '.join([thing] * times)}.",
            f"{name} says the word {thing}. {rng.choice(NAMES)} repeats it: {thing}.",
        )
    )


def chat_debris(rng: random.Random) -> str:
    """A few turns in chat markup, as a base model meets it on the web: seldom a question and its answer."""
    draw = question_and_answer(rng, debris=True)
    turns = 1
    if rng.random() < LONG_DEBRIS_SHARE:
        shares, turns = LONG_DEBRIS_SHARES, rng.randint(2, 5)
    elif draw[0].startswith(QUIZ_START):
        shares = QUIZ_DEBRIS_SHARES
    else:
        shares = DEBRIS_SHARES
    kind = rng.choices(tuple(shares), weights=tuple(shares.values()))[0]
    lines = []
    for _ in range(turns):
        reply = _debris_reply(rng, kind, draw)
        lines += [f"{TURN_START}user\n{draw[0]}{TURN_END}", f"{TURN_START}assistant\n{reply}{TURN_END}"]
        draw = question_and_answer(rng, debris=True)
    return "\n".join(lines)


def _debris_reply(rng: random.Random, kind: str, draw: tuple[str, str, str]) -> str:
    if kind == "answer":
        manner = "plain" if rng.random() < 0.6 else random_manner(rng, DOCUMENT_MANNERS)
        return styled_reply(draw[1], draw[2], manner, rng)
    if kind == "question":
        while not (question := question_and_answer(rng, debris=True)[0]).startswith("What"):
            pass
        return question
    if kind == "fact":
        return _statement(rng, *rng.choice(_debris_facts()))
    return random_story(rng).text


# Share of the documents by kind (not of the tokens: a dialogue is longer than a list of sums).
DOCUMENT_SHARES: dict[Callable[[random.Random], str], float] = {
    fact_list: 0.10,
    portrait: 0.20,
    dialogue: 0.22,
    quiz: 0.07,
    small_talk: 0.04,
    sums: 0.08,
    solved_problem: 0.09,
    story: 0.08,
    inventory: 0.05,
    chat_debris: 0.07,
}


def documents(seed: int | str) -> Iterator[str]:
    """Yield the endless stream of documents that a seed stands for."""
    rng = random.Random(seed)
    kinds, weights = tuple(DOCUMENT_SHARES), tuple(DOCUMENT_SHARES.values())
    while True:
        yield rng.choices(kinds, weights=weights)[0](rng)
