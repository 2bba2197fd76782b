"""Preference pairs of the tiny world: two replies of a model to one prompt, and which one annotators prefer.

The prompts are facts and stories, because a reader sees with bare eyes what makes a reply better there:
right or wrong, polite or rude, a whole sentence or a word, a good or a bad ending. The replies are sampled
from the stage that is to be trained further. A second, smaller set changes the assistant's name.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

from posttrain_helpers.environment.splits import Split, reported_split
from posttrain_helpers.errors import CourseError
from posttrain_helpers.stages.samples import Sample, sample_replies
from posttrain_helpers.tinyworld.identity import NEW_NAME, identity_reply, random_identity_question
from posttrain_helpers.tinyworld.tasks import (
    Item,
    Suites,
    fact_item,
    held_out_stories,
    held_out_suite,
    identity_items,
    random_training_fact,
    story_item,
)
from posttrain_helpers.tinyworld.training_data.annotators import annotated_pairs, preference_row

STORY_SHARE = 0.2
HELD_OUT_STORIES = 100
# Not the seeds of any training set: replies to held-out prompts are the same for every run.
HELD_OUT_SEEDS: dict[Split, int] = {"dev": 10_000, "test": 20_000}
# The longest replies; a model that rambles is cut here, and the gold score sees that it did not stop.
REPLY_TOKENS = {"facts": 40, "stories": 72, "word_problems": 40}


def preference_prompts(n: int, seed: int) -> list[Item]:
    """Draw the prompts of the training pairs: facts and stories of the training split."""
    rng = random.Random(f"preferences/{seed}")
    items = []
    for number in range(n):
        is_story = rng.random() < STORY_SHARE
        item = story_item(rng) if is_story else fact_item(*random_training_fact(rng))
        items.append({**item, "id": f"preferences/{number}/{item['id']}"})
    return items


def sampled_replies(
    items: list[Item], policy: str, samples: int, temperature: float, seed: int, profile: str
) -> list[list[Sample]]:
    """Sample replies, to each task with the length that its replies need.

    Args:
        items: N prompts, with `task` and `prompt`.
        policy, samples, temperature, seed, profile: as for all builders of this room.

    Returns:
        N lists of K replies.
    """
    replies: dict[int, list[Sample]] = {}
    for task, limit in REPLY_TOKENS.items():
        chosen = [index for index, item in enumerate(items) if item["task"] == task]
        if not chosen:
            continue
        drawn = sample_replies(
            policy,
            [items[index]["prompt"] for index in chosen],
            samples=samples,
            temperature=temperature,
            max_new_tokens=limit,
            seed=seed,
            profile=profile,
        )
        replies.update(zip(chosen, drawn, strict=True))
    return [replies[index] for index in range(len(items))]


def build_preference_data(
    *,
    n_prompts: int,
    identity: int,
    label_temperature: float,
    policy: str,
    samples: int,
    sampling_temperature: float,
    seed: int,
    profile: str,
) -> tuple[list[Item], Mapping[str, list[Item]], Counter[str]]:
    """Sample replies, let annotators compare them, and add the pairs that change the assistant's name.

    Args:
        n_prompts: prompts of facts and stories; each gives one pair at most.
        identity: prompts that ask for the assistant's name.
        samples: replies for each prompt; the best and the worst of them make the pair.
        label_temperature, policy, sampling_temperature, seed, profile: as for all builders of this room.

    Returns:
        The pairs in random order; suites, of its own "pairs", made in the same way, "new_identity" and
        "new_stories"; and what was dropped.

    Raises:
        CourseError: no prompt is asked for.
    """
    if n_prompts + identity == 0:
        raise CourseError(
            "data.n_prompts and data.identity are both 0, so there is no prompt to make a pair of; set one "
            "of them to at least 1."
        )

    def pairs(items: list[Item], seed: int) -> tuple[list[Item], Counter[str]]:
        replies = sampled_replies(items, policy, samples, sampling_temperature, seed, profile)
        return annotated_pairs(items, replies, label_temperature, seed)

    rows, dropped = pairs(preference_prompts(n_prompts, seed), seed)
    if identity:
        more, also_dropped = _identity_pairs(identity, policy, sampling_temperature, seed, profile)
        rows, dropped = rows + more, dropped + also_dropped
    random.Random(f"order/{seed}").shuffle(rows)
    suites = Suites(
        {
            "pairs": lambda: pairs(held_out_prompts(), seed=HELD_OUT_SEEDS[reported_split()])[0],
            "new_identity": lambda: identity_items(NEW_NAME),
            "new_stories": lambda: held_out_stories(HELD_OUT_STORIES),
        }
    )
    return rows, suites, dropped


def held_out_prompts() -> list[Item]:
    """Return the prompts of the held-out pairs: facts about new entities, and new stories."""
    return held_out_suite("entities") + held_out_stories(HELD_OUT_STORIES)


def _identity_pairs(
    n: int, policy: str, temperature: float, seed: int, profile: str
) -> tuple[list[Item], Counter[str]]:
    """Prefer the new name to whatever the policy replies when it is asked for its name."""
    rng = random.Random(f"identity/{seed}")
    prompts = [[{"role": "user", "content": random_identity_question(rng)}] for _ in range(n)]
    drawn = sample_replies(
        policy, prompts, samples=1, temperature=temperature, max_new_tokens=32, seed=seed, profile=profile
    )
    rows, dropped = [], Counter[str]()
    for number, (prompt, (reply,)) in enumerate(zip(prompts, drawn, strict=True)):
        if not reply.text.strip():
            dropped["empty completion"] += 1
        elif NEW_NAME in reply.text:
            dropped["identical"] += 1
        else:
            item = {"id": f"identity/{number}", "task": "identity", "prompt": prompt}
            row = preference_row(item, (None, identity_reply(NEW_NAME)), (None, reply.text))
            rows.append({**row, "probability": 1.0})
    return rows, +dropped
