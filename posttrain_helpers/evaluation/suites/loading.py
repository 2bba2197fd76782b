"""Suites: held-out prompts with the functions that score their replies.

    suites = load_suites(["entities", "arithmetic"], limit=50)
    suites = load_suites("my_questions.jsonl")

The tiny world has suites of its own; the English ones suit any model; a file of rows is a suite as well.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from posttrain_helpers.comparison.scores import Item, Score
from posttrain_helpers.data.public.files import is_file_name
from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.environment.profiles import Profile, get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.suites.english import declines_rightly, english_items
from posttrain_helpers.evaluation.suites.instructions import obeyed_share, obeys
from posttrain_helpers.evaluation.suites.suite import LONG_REPLY, Suite, check_limit, check_suites
from posttrain_helpers.metrics import lenient_match, strict_match
from posttrain_helpers.wording import suggestion

_MARKDOWN_WORDS = 40
_DOCUMENT_WORDS = 64


def load_suites(
    names: str | Sequence[str] | None = None,
    profile: str | Profile | None = None,
    limit: int | None = None,
) -> list[Suite]:
    """Return suites by name.

    Args:
        names: of `SUITE_NAMES`, or files (see `data.public.readers`): rows with "prompt" (a text is
            the user's message) and one or more of "answer" (the reply must hold it), "accepted" (complete
            replies) and "constraints" (see `instructions`); "id" and "follow_ups" are optional. None takes
            every suite of the tiny world.
        profile: None takes the profile in use.
        limit: only the first items of each suite, which are in random order.

    Returns:
        The suites in the order of the names.

    Raises:
        CourseError: an unknown name, a name twice, a limit below 1, a file that is missing, empty, no JSON
            or called like a suite of the course, or a row without a prompt or with nothing to score.
    """
    from posttrain_helpers.evaluation.suites.files import own_suite

    profile = get_profile(profile)
    check_limit(limit)
    if names is None:
        names = list(_TINY)
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise CourseError(f"no suite is named; choose from {', '.join(SUITE_NAMES)}, or pass a .jsonl file.")
    suites = [
        own_suite(Path(name), LONG_REPLY if profile.name == "tiny" else 256)
        if is_file_name(name)
        else _named(name)
        for name in names
    ]
    for name, suite in zip(names, suites, strict=True):
        if suite.name in SUITE_NAMES and name != suite.name:
            raise CourseError(f"{name} has the name of the course's suite {suite.name!r}; rename the file.")
    check_suites(suites)
    return suites if limit is None else [replace(suite, items=suite.items[:limit]) for suite in suites]


def retention_texts(profile: str | Profile | None = None, n: int = 100) -> list[str]:
    """Return texts that a base model of the profile predicts well and that no training of the course uses.

    A rise of the loss on them shows what training has cost. In the tiny world they are documents of every
    kind that pre-training has (chat debris included), from a seed of their own and of at most 64 words; for
    other profiles they are the paragraphs of this course's notebooks of at least 40 words.

    Args:
        profile: None takes the profile in use.
        n: the most texts.

    Returns:
        The texts; none where the notebooks are not installed beside the package.
    """
    if get_profile(profile).name == "tiny":
        from posttrain_helpers.environment.splits import reported_split, split_seed
        from posttrain_helpers.tinyworld.documents import documents

        short = (
            text
            for text in documents(split_seed("evaluation", reported_split()))
            if 2 <= len(text.split()) <= _DOCUMENT_WORDS
        )
        return list(islice(short, n))
    return list(islice(_notebook_prose(), n))


def retention_documents(profile: str | Profile | None = None, n: int = 16) -> dict[str, list[str]]:
    """Return texts as `retention_texts` does, by their kind, and without chat debris.

    How the base model goes on in chats is what fine-tuning is to change, so it is no skill to be kept.

    Args:
        profile: None takes the profile in use.
        n: of texts of each kind.

    Returns:
        For each kind, such as "story" and "fact list", its texts; for other profiles than `tiny` three times
        as many of one kind, "prose".
    """
    if get_profile(profile).name != "tiny":
        return {"prose": retention_texts(profile, 3 * n)}
    from posttrain_helpers.environment.splits import reported_split, split_seed
    from posttrain_helpers.tinyworld.documents import DOCUMENT_SHARES, chat_debris

    found: dict[str, list[str]] = {}
    for kind in DOCUMENT_SHARES:
        if kind is chat_debris:
            continue
        name = kind.__name__.replace("_", " ")
        rng, texts = random.Random(f"{split_seed('evaluation', reported_split())}/{name}"), []
        while len(texts) < n:
            if len((text := kind(rng)).split()) <= _DOCUMENT_WORDS:
                texts.append(text)
        found[name] = texts
    return found


def _notebook_prose() -> Iterator[str]:
    for path in sorted((repository_root() / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                text = "".join(cell["source"]).strip()
                if len(text.split()) >= _MARKDOWN_WORDS:
                    yield text


# --- suites of the tiny world


def says_name(constant: str, reply: str, item: Item) -> bool:
    """Return whether the reply gives the name that a constant of `tinyworld.identity` holds."""
    from posttrain_helpers.tinyworld import identity

    return bool(lenient_match(reply, {**item, "answer": getattr(identity, constant)}))


def gold(reply: str, item: Item) -> float:
    """Return the gold score of a reply, which counts it when the model did not stop by itself."""
    from posttrain_helpers.tinyworld.gold import gold_score

    return gold_score(item, reply, stopped=item.get("stopped", True)).total


def _harder_problems() -> list[Item]:
    from posttrain_helpers.recipes import load_recipe
    from posttrain_helpers.tinyworld.training_data.prompts import HELD_OUT_PROBLEMS, held_out_problems

    sizes = load_recipe("grpo", "tiny").data
    return held_out_problems(sizes["steps"], sizes["largest"], HELD_OUT_PROBLEMS, smallest=sizes["smallest"])


def _preference() -> list[Item]:
    from posttrain_helpers.tinyworld.tasks import held_out_stories, held_out_suite
    from posttrain_helpers.tinyworld.training_data.preferences import HELD_OUT_STORIES

    # Fact, story, fact, ...: any first part of the suite is a fair one.
    pairs = zip(held_out_suite("entities"), held_out_stories(HELD_OUT_STORIES), strict=False)
    return list(chain.from_iterable(islice(pairs, 100)))


# Suites of the tiny world that `tasks` does not have as they are.
_MIXED: dict[str, Callable[[], list[Item]]] = {
    "harder_problems": _harder_problems,
    "preference": _preference,
}
_MATCHES: dict[str, Score] = {"correct": lenient_match, "exact": strict_match}
_CORRECT: dict[str, Any] = {"measure": "correct", "scores": _MATCHES}
# All of a suite but its items, which are made when it is loaded.
_TINY: dict[str, dict[str, Any]] = {
    "entities": {
        "skill": "facts about new entities",
        "measure": "correct",
        "scores": {**_MATCHES, "gold": gold},
    },
    "phrasings": {"skill": "facts in new phrasings", **_CORRECT},
    "arithmetic": {"skill": "new calculations", **_CORRECT},
    "word_problems": {"skill": "new word problems", **_CORRECT},
    "harder_problems": {"skill": "word problems with larger numbers", **_CORRECT},
    "instructions": {
        "skill": "constraints that a program checks",
        "measure": "obeyed",
        "scores": {"obeyed": obeys, "obeyed share": obeyed_share, "exact": strict_match},
    },
    "identity": {
        "skill": "says its first name",
        "measure": "original name",
        # A stage may change the name on purpose.
        "scores": {
            "original name": partial(says_name, "ASSISTANT_NAME"),
            "new name": partial(says_name, "NEW_NAME"),
        },
    },
    "stories": {
        "skill": "stories on request",
        "measure": "gold",
        "scores": {"gold": gold, "obeyed": obeys},
        "max_new_tokens": LONG_REPLY,
        "kind": "preference",
    },
    "preference": {
        "skill": "what readers prefer, facts and stories",
        "measure": "gold",
        "scores": {"gold": gold},
        "max_new_tokens": LONG_REPLY,
        "kind": "preference",
    },
}
# Suites in English, for any model.
_ENGLISH: dict[str, dict[str, Any]] = {
    "instructions_en": {
        "skill": "constraints that a program checks",
        "measure": "obeyed",
        "scores": {"obeyed": obeys, "obeyed share": obeyed_share},
        "max_new_tokens": 256,
    },
    "dialogues_en": {
        "skill": "a second question about the first reply",
        "measure": "correct",
        "scores": {"correct": lenient_match},
        "max_new_tokens": 256,
    },
    "refusals_en": {
        "skill": "declines what it should and nothing else",
        "measure": "declined rightly",
        "scores": {"declined rightly": declines_rightly},
        "max_new_tokens": 128,
    },
}
ENGLISH_SETS = tuple(_ENGLISH)
SUITE_NAMES = (*_TINY, *_ENGLISH)


def _named(name: str) -> Suite:
    suites = {**_TINY, **_ENGLISH}
    if name not in suites:
        raise CourseError(
            f"the suite {name!r} does not exist{suggestion(name, suites)}The suites are {', '.join(suites)}, "
            "and a file of rows is one if its name ends like one, as in questions.jsonl."
        )
    if name in _ENGLISH:
        items = english_items(name)
    elif name in _MIXED:
        items = _MIXED[name]()
    else:
        from posttrain_helpers.tinyworld.tasks import held_out_suite

        items = held_out_suite(name)
    return Suite(name, items=tuple(items), **suites[name])
