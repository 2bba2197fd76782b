"""Training data that a model makes: the best of its own replies, and pairs that it labels itself.

No person sees these replies. Those of `build_best_of_k_data` are chosen by a score, and the labels of
`build_ai_feedback_data` come from the model itself, which reads its principles (`constitution`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain_helpers.data.curation import best_of_each, one_of_each
from posttrain_helpers.errors import CourseError
from posttrain_helpers.metrics import lenient_match
from posttrain_helpers.rewards.verifiers import NO_MODEL
from posttrain_helpers.stages.samples import Sample
from posttrain_helpers.tinyworld.gold import gold_score
from posttrain_helpers.tinyworld.replies import ONE_WORD_REQUEST, POLITE_REQUEST
from posttrain_helpers.tinyworld.tasks import Item, Suites, held_out_stories
from posttrain_helpers.tinyworld.training_data.annotators import preference_row
from posttrain_helpers.tinyworld.training_data.preferences import (
    HELD_OUT_STORIES,
    preference_prompts,
    sampled_replies,
)
from posttrain_helpers.tinyworld.training_data.prompts import (
    HELD_OUT_PROBLEMS,
    build_word_problem_data,
    held_out_problems,
)
from posttrain_helpers.wording import closest, suggestion

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Prompts of another draw than those that the reward model of the same seed was trained on.
FRESH = 50_000
# The written principles, in the words of requests that the SFT model knows, and whether a reply should become
# more or less likely by them. The third one has no request: the plain likelihood of the reply.
LABELLERS = ("constitution", "gold")
PRINCIPLES = {"friendly": (POLITE_REQUEST, 1), "whole sentence": (ONE_WORD_REQUEST, -1), "true": ("", 1)}


def own_replies(
    data: Mapping[str, Any], seed: int, profile: str | None = None
) -> tuple[list[Item], list[list[Sample]]]:
    """Draw prompts and sample a policy's replies to them, or read them if they were sampled before.

    Args:
        data: the data section of a recipe: `n_prompts`, `policy`, `samples`, `sampling_temperature` and
            perhaps `draw`, `steps`, `smallest` and `largest`, as in `build_best_of_k_data`.
        seed, profile: as for all builders of this room.
    """
    draw = FRESH * data.get("draw", 1) + seed
    if data.get("steps") is not None:
        sizes = (data["steps"], data.get("largest", 12), draw, data.get("smallest", 3))
        items, _ = build_word_problem_data(data["n_prompts"], *sizes)
    else:
        items = preference_prompts(data["n_prompts"], draw)
    settings = (data["policy"], data["samples"], data["sampling_temperature"])
    return items, sampled_replies(items, *settings, seed, profile)


def build_best_of_k_data(
    *,
    n_prompts: int,
    policy: str,
    samples: int,
    sampling_temperature: float,
    scorer: str,
    seed: int,
    profile: str,
    draw: int = 1,
    steps: int | None = None,
    smallest: int = 3,
    largest: int = 12,
) -> tuple[list[Item], Mapping[str, list[Item]], Counter[str]]:
    """Sample K replies to each prompt and keep the best one, as conversations.

    Args:
        n_prompts: prompts; each gives one row, but none if the verifier chooses and finds no reply right.
        scorer: what chooses: a reward model's stage, "gold", "verifier" (is the answer right?), or "random",
            the control.
        draw: which prompts; a second round takes others than the first.
        steps, smallest, largest: the prompts are word problems, as for `build_word_problem_data`; without
            `steps` they are facts and stories.
        policy, samples, sampling_temperature, seed, profile: as for all builders of this room.

    Returns:
        Conversations with `id`, `task` and `messages`; suites; and how many prompts the verifier left out.

    Raises:
        CourseError: a scorer that is not there, before anything is sampled.
    """
    _check_scorer(scorer, profile)
    data = {"n_prompts": n_prompts, "policy": policy, "samples": samples, "draw": draw}
    data["sampling_temperature"] = sampling_temperature
    makers = {"new_stories": partial(held_out_stories, HELD_OUT_STORIES)}
    if steps is not None:
        data |= {"steps": steps, "smallest": smallest, "largest": largest}
        makers["problems"] = partial(held_out_problems, steps, largest, HELD_OUT_PROBLEMS, smallest=smallest)
    items, replies = own_replies(data, seed, profile)
    scores = scored(items, replies, scorer, profile)
    asked = len(items)
    if scorer == "verifier":
        items, replies, scores = with_a_right_one(items, replies, scores)
    chosen = one_of_each(scores, seed) if scorer == "random" else best_of_each(scores, seed)
    dropped = Counter({"no right reply": asked - len(items)})
    return conversations(items, replies, chosen), Suites(makers), +dropped


def _check_scorer(scorer: str, profile: str) -> None:
    from posttrain_helpers.rewards.functions import reward_model_function

    try:
        if scorer not in NO_MODEL:
            reward_model_function(scorer, profile)
    except CourseError as error:
        if near := closest(scorer, NO_MODEL):
            raise CourseError(f"the scorer {scorer!r} does not exist; {near.strip()}") from error
        raise


def with_a_right_one(
    items: Sequence[Item], replies: Sequence[Sequence[Sample]], verdicts: Sequence[Sequence[float]]
) -> tuple[list[Item], list[Sequence[Sample]], list[Sequence[float]]]:
    """Return what belongs to those items of which a verifier found a reply right."""
    some = [number for number, found in enumerate(verdicts) if max(found, default=0) > 0]
    return [items[n] for n in some], [replies[n] for n in some], [verdicts[n] for n in some]


def conversations(
    items: Sequence[Item], replies: Sequence[Sequence[Sample]], chosen: Sequence[int]
) -> list[Item]:
    """Return one conversation for each item, with the chosen one of its replies."""
    return [
        {
            "id": f"made/{item['id']}",
            "task": item["task"],
            "messages": [*item["prompt"], {"role": "assistant", "content": group[index].text}],
        }
        for item, group, index in zip(items, replies, chosen, strict=True)
    ]


def scored(
    items: Sequence[Item], replies: Sequence[Sequence[Sample]], scorer: str, profile: str | None = None
) -> list[list[float]]:
    """Return the score of each reply.

    Args:
        items: N items.
        replies: K replies to each.
        scorer: a reward model's stage, "gold", "verifier" (1 if the answer is right; a story has none), or
            "random" (all equal).
        profile: what a stage name refers to.
    """

    def verified(item: Item, reply: Sample) -> float:
        return float(item.get("answer") is not None and bool(lenient_match(reply.text, item)))

    def true_score(item: Item, reply: Sample) -> float:
        return gold_score(item, reply.text, stopped=reply.stopped).total

    formulas = {"verifier": verified, "gold": true_score, "random": lambda item, reply: 0.0}
    if formula := formulas.get(scorer):
        return [[formula(i, reply) for reply in group] for i, group in zip(items, replies, strict=True)]
    from posttrain_helpers.rewards.functions import reward_model_function

    prompts = [item["prompt"] for item, group in zip(items, replies, strict=True) for _ in group]
    texts = [reply.text for group in replies for reply in group]
    values = iter(reward_model_function(scorer, profile)(prompts=prompts, completions=texts))
    return [[float(next(values) or 0.0) for _ in group] for group in replies]


def build_ai_feedback_data(
    *,
    n_prompts: int,
    policy: str,
    samples: int,
    sampling_temperature: float,
    labeller: str,
    n_pairs: int,
    seed: int,
    profile: str,
    draw: int = 0,
) -> tuple[list[Item], Mapping[str, list[Item]], Counter[str]]:
    """Pair two replies to a question about a fact, and let a model say which is better.

    Args:
        n_prompts: prompts of the preference pairs, of which the questions about facts are taken.
        samples: replies for each prompt; two different ones of them make the pair, by lot.
        labeller: "constitution" (the policy reads its principles) or "gold".
        n_pairs: the most pairs.
        draw: which prompts; 0 are those that the preference pairs of people are made of.
        policy, sampling_temperature, seed, profile: as for all builders of this room.

    Returns:
        Rows with `id`, `task`, `prompt`, `chosen`, `rejected`, `gold_chosen` and `gold_rejected`; suites; and
        how many prompts gave no pair.

    Raises:
        CourseError: an unknown labeller, before anything is sampled.
    """
    if labeller not in LABELLERS:
        raise CourseError(
            f"the labeller {labeller!r} does not exist{suggestion(labeller, LABELLERS)}The labellers are "
            f"{' and '.join(LABELLERS)}."
        )
    data = {"n_prompts": n_prompts, "policy": policy, "samples": samples, "n_pairs": n_pairs, "draw": draw}
    items, pairs = own_pairs({**data, "sampling_temperature": sampling_temperature}, seed, profile)
    lead = leads(items, pairs, labeller, policy, profile)
    rows = []
    for item, pair, gold, first in zip(items, pairs, scored(items, pairs, "gold"), lead, strict=True):
        one, other = zip(gold, (reply.text for reply in pair), strict=True)
        rows.append(preference_row(item, *((one, other) if first > 0 else (other, one))))
    dropped = Counter({"a story, no two different replies, or beyond n_pairs": n_prompts - len(rows)})
    return rows, Suites({}), +dropped


def own_pairs(
    data: Mapping[str, Any], seed: int, profile: str | None = None
) -> tuple[list[Item], list[tuple[Sample, Sample]]]:
    """Return questions about facts, and two different replies of a policy to each, in random order.

    Args:
        data: as for `own_replies`, and `n_pairs`, the most pairs. Without a `draw` the replies are those that
            preference pairs of the same settings are made of.
        seed, profile: as for all builders of this room.
    """
    kept, pairs = two_of_each(*own_replies({"draw": 0, **data}, seed, profile), seed)
    return kept[: data["n_pairs"]], pairs[: data["n_pairs"]]


def two_of_each(
    items: Sequence[Item], replies: Sequence[Sequence[Sample]], seed: int
) -> tuple[list[Item], list[tuple[Sample, Sample]]]:
    """Return the items that are facts and have two different replies, and two of them, in random order."""
    kept, pairs = [], []
    for item, group in zip(items, replies, strict=True):
        different = list({reply.text.strip(): reply for reply in group if reply.text.strip()}.values())
        if item["task"] == "facts" and len(different) > 1:
            first, second = random.Random(f"pair/{seed}/{item['id']}").sample(different, 2)
            kept.append(item)
            pairs.append((first, second))
    return kept, pairs


def leads(
    items: Sequence[Item], pairs: Sequence[tuple[Sample, Sample]], labeller: str, policy: str, profile: str
) -> np.ndarray:
    """Return by how much a labeller prefers the first reply of each pair; below 0 it prefers the second."""
    if not items:
        return np.zeros(0)
    if labeller == "gold":
        values = np.array(scored(items, pairs, "gold"))
        return values[:, 0] - values[:, 1]
    from posttrain_helpers.stages.loading import load_model_and_tokenizer

    model, tokenizer = load_model_and_tokenizer(policy, merge=True, profile=profile, verbose=False)
    texts = ([pair[side].text for pair in pairs] for side in (0, 1))
    one, other = (np.stack([*constitution(model, tokenizer, items, side).values()]) for side in texts)
    lead = one - other
    return (lead / np.maximum(lead.std(1, keepdims=True), 1e-6)).sum(0)


def constitution(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], replies: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return how well each reply keeps each principle, by the model's own reading.

    A principle is put into the prompt. What it does to the log-probability of the reply says how much more
    the reply is what the principle asks for.

    Args:
        model: knows the requests of `PRINCIPLES`, as the SFT model does.
        tokenizer: its tokenizer.
        items: N items with a `prompt` of one turn.
        replies: to each of them.

    Returns:
        For each principle N numbers, in nats per token.
    """
    from posttrain_helpers.generation.likelihood import mean_log_probs

    def read(request: str) -> np.ndarray:
        asked = [request.format(question=item["prompt"][-1]["content"]) for item in items]
        prompts = [[{"role": "user", "content": question}] for question in asked]
        return mean_log_probs(model, tokenizer, prompts, list(replies), batch_size=64)

    plain = read("{question}")
    return {
        name: sign * (read(request) - plain) if request else plain
        for name, (request, sign) in PRINCIPLES.items()
    }
