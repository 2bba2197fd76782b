"""Comparisons of the tiny world as conversations: what a language model learns judging from.

A user shows a question with two replies, A and B, and asks which is better; the assistant says one letter.
The letters come from annotators who know the gold score and err (see `annotators`), and who, like people and
like large models, lean to the reply that they read first. A model that learns from them learns the leaning
too, so that a lesson can measure it and take it out again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from posttrain_helpers.environment.splits import reported_split
from posttrain_helpers.stages.samples import Sample
from posttrain_helpers.tinyworld.gold import gold_score
from posttrain_helpers.tinyworld.tasks import Item, Suites
from posttrain_helpers.tinyworld.training_data.annotators import TIE, preference_probability
from posttrain_helpers.tinyworld.training_data.preferences import (
    HELD_OUT_SEEDS,
    held_out_prompts,
    preference_prompts,
    sampled_replies,
)

JUDGE_TEMPLATE = "{question}\nA: {first}\nB: {second}\nWhich reply is better?"
LETTERS = ("A", "B")


def build_judgement_data(
    *,
    n_prompts: int,
    comparisons: int,
    position_bias: float,
    label_temperature: float,
    policy: str,
    samples: int,
    sampling_temperature: float,
    seed: int,
    profile: str,
) -> tuple[list[Item], Mapping[str, list[Item]], Counter[str]]:
    """Sample replies and let annotators say which of two is better.

    Args:
        n_prompts: prompts of facts and stories, those of the preference pairs of the same seed.
        comparisons: the most pairs of replies to one prompt.
        position_bias: how much the annotators lean to the reply shown first, in nats: between two equally
            good replies they choose it with probability sigmoid(position_bias).
        label_temperature, policy, samples, sampling_temperature, seed, profile: as for all builders of this
            room.

    Returns:
        Conversations with `id`, `task` and `messages`; suites, of its own "judgements", one comparison for
        each held-out prompt with the truly better letter as the answer; and what was dropped.
    """

    def drawn(items: list[Item], seed: int) -> list[list[Sample]]:
        return sampled_replies(items, policy, samples, sampling_temperature, seed, profile)

    prompts = preference_prompts(n_prompts, seed)
    rows: list[Item] = []
    dropped: Counter[str] = Counter()
    for item, replies in zip(prompts, drawn(prompts, seed), strict=True):
        rng = random.Random(f"judgement/{seed}/{item['id']}")
        pairs = _pairs(item, replies, comparisons, rng)
        dropped["tie"] += not pairs
        for number, ((first_gold, first), (second_gold, second)) in enumerate(pairs):
            leaning = position_bias * label_temperature
            probability = preference_probability(first_gold - second_gold + leaning, label_temperature)
            letter = LETTERS[rng.random() >= probability]
            question = judge_prompt(item, first, second)
            rows.append(
                {
                    "id": f"judgements/{item['id']}/{number}",
                    "task": "judgements",
                    "messages": [*question, {"role": "assistant", "content": letter}],
                }
            )
    random.Random(f"order/{seed}").shuffle(rows)
    suites = Suites({"judgements": lambda: _held_out(drawn)})
    return rows, suites, +dropped


def judge_prompt(item: Item, first: str, second: str) -> list[dict[str, str]]:
    """Return the message that asks which of two replies to an item's prompt is better."""
    question = item["prompt"][-1]["content"]
    filled = JUDGE_TEMPLATE.format(question=question, first=first.strip(), second=second.strip())
    return [{"role": "user", "content": filled}]


def _held_out(drawn: Callable[[list[Item], int], list[list[Sample]]]) -> list[Item]:
    items = held_out_prompts()
    found = []
    for item, replies in zip(items, drawn(items, HELD_OUT_SEEDS[reported_split()]), strict=True):
        rng = random.Random(f"judgement/held out/{item['id']}")
        for (first_gold, first), (second_gold, second) in _pairs(item, replies, 1, rng):
            letter = LETTERS[second_gold > first_gold]
            found.append(
                {
                    "id": f"judgements/{item['id']}",
                    "task": "judgements",
                    "prompt": judge_prompt(item, first, second),
                    "answer": letter,
                    "accepted": [letter],
                }
            )
    return found


def _pairs(
    item: Item, replies: Sequence[Sample], most: int, rng: random.Random
) -> list[tuple[tuple[float, str], tuple[float, str]]]:
    """Return at most `most` random pairs of (gold score, reply) that are no tie, each in random order."""
    scored = [
        (gold_score(item, reply.text, stopped=reply.stopped).total, reply.text)
        for reply in replies
        if reply.text.strip()
    ]
    pairs = [pair for pair in combinations(scored, 2) if abs(pair[0][0] - pair[1][0]) >= TIE]
    rng.shuffle(pairs)
    return [pair if rng.random() < 0.5 else pair[::-1] for pair in pairs[:most]]
