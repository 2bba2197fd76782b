"""Documents of the base model's own kind to mix into fine-tuning, so that it goes on practising them.

The base was trained on documents about everything. These state no held-out fact or calculation and ask no
held-out question, so that what they do for a fine-tuned model is not that they tell it the answers of the
suites once more. Nor are they chat debris: how the base goes on in chats is what fine-tuning shall change.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from functools import cache

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS
from posttrain_helpers.messages import Row
from posttrain_helpers.tinyworld.arithmetic import Sum, split_of_sum
from posttrain_helpers.tinyworld.documents import DOCUMENT_SHARES, chat_debris
from posttrain_helpers.tinyworld.facts import load_relations, split_of
from posttrain_helpers.tinyworld.leaks import entities_in, sentence_ends, sentences

_SUM = re.compile(r"(\d+) ([-+*]) (\d+)")


def replayed_documents(n: int, seed: int, prompts: Iterable[str]) -> list[Row]:
    """Draw documents of every kind but chat debris, in the shares that pre-training has.

    Args:
        n: how many.
        seed: of the draw.
        prompts: of held-out items, which no document asks.

    Returns:
        Rows with `id`, `task` ("documents") and `text`.
    """
    rng = random.Random(f"replay/{seed}")
    shares = {kind: share for kind, share in DOCUMENT_SHARES.items() if kind is not chat_debris}
    questions = longest_sentences(prompts)
    rows = []
    for number in range(n):
        kind = rng.choices(tuple(shares), weights=tuple(shares.values()))[0]
        while holds_held_out(text := kind(rng), questions):
            pass  # the same kind again, so that the shares stay
        rows.append({"id": f"documents/{number}", "task": "documents", "text": text})
    return rows


def longest_sentences(texts: Iterable[str]) -> frozenset[str]:
    """Return of each text its longest sentence, by which `holds_held_out` knows it again."""
    return frozenset(max(sentences(text), key=len) for text in texts)


def holds_held_out(text: str, questions: frozenset[str]) -> bool:
    """Say whether a text states a held-out fact or calculation, or asks a held-out question.

    Args:
        text: of a document.
        questions: of held-out items, as `longest_sentences` returns them. Those that ask for a fact in
            held-out words are known here.
    """
    ends = set(sentence_ends(text))
    sums = (Sum(int(left), operator, int(right)) for left, operator, right in _SUM.findall(text))
    return (
        any(split_of_sum(item) != "train" for item in sums)
        or any(split_of(entity) != "train" for entity in entities_in(text))
        or not (questions.isdisjoint(ends) and _held_out_wordings().isdisjoint(ends))
    )


@cache
def _held_out_wordings() -> frozenset[str]:
    """Return the longest sentence of every question that asks for a fact in held-out words."""
    return longest_sentences(
        relation.render(template, entity)
        for relation in load_relations().values()
        for split in HELD_OUT_SPLITS
        for template in relation.questions_of(split)
        for entity in relation.pairs
    )
