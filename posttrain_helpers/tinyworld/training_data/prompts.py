"""Prompts of the tiny world without replies: what reinforcement learning starts from.

Word problems have an answer that a program can check. Facts and stories have none that counts here: a reward
model scores their replies.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS, reported_split, split_seed
from posttrain_helpers.errors import CourseError
from posttrain_helpers.tinyworld.arithmetic import word_problem
from posttrain_helpers.tinyworld.tasks import Item, Suites, held_out_stories, held_out_suite, problem_item
from posttrain_helpers.tinyworld.training_data.preferences import HELD_OUT_STORIES, preference_prompts

HELD_OUT_PROBLEMS = 300
# So many draws in a row that bring no new problem mean that there are hardly any left.
_MOST_DRAWS_WITHOUT_A_NEW_PROBLEM = 1000


def build_word_problem_data(
    n_train: int, steps: int, largest: int, seed: int, smallest: int = 3
) -> tuple[list[Item], Mapping[str, list[Item]]]:
    """Draw word problems to practise on.

    Args:
        n_train: how many.
        steps: calculations in each problem; 1 and 2 are what supervised fine-tuning has seen.
        largest: the largest number in a text of two steps or more, at least 3; fine-tuning has seen 12.
        seed: chooses the problems; the suites are the same for every seed.
        smallest: the smallest amount that a problem begins with, unless it is about groups (`word_problem`).

    Returns:
        Different problems, none of them held out: rows with `id`, `task`, `prompt` (messages), `answer` and
        `kind`; and suites, of its own "problems" of the same kind as the rows.

    Raises:
        CourseError: `largest` is below `smallest`, or there are fewer different problems of this kind than
            asked for.
    """
    seen = {
        item["prompt"][0]["content"]
        for split in HELD_OUT_SPLITS
        for item in [
            *held_out_problems(steps, largest, HELD_OUT_PROBLEMS, split, smallest=smallest),
            *held_out_suite("word_problems", split=split),
        ]
    }
    drawn = _different_problems(random.Random(f"problems/{seed}"), n_train, steps, largest, smallest, seen)
    rows = [
        {"id": f"problems/{number}", **{key: item[key] for key in ("task", "prompt", "answer", "kind")}}
        for number, item in enumerate(drawn)
    ]
    held_out = partial(held_out_problems, steps, largest, HELD_OUT_PROBLEMS, smallest=smallest)
    return rows, Suites({"problems": held_out})


def held_out_problems(
    steps: int, largest: int, n: int, split: str | None = None, *, smallest: int = 3
) -> list[Item]:
    """Return `n` different word problems that `build_word_problem_data` never trains on, always the same.

    Args:
        steps, largest, smallest: as for `build_word_problem_data`.
        n: how many, at most `HELD_OUT_PROBLEMS`.
        split: "dev" or "test"; None is the one that is reported.
    """
    chosen = reported_split(split)
    # What is asked in dev is not asked again in test.
    seen = set()
    if chosen == "test":
        dev = held_out_problems(steps, largest, HELD_OUT_PROBLEMS, "dev", smallest=smallest)
        seen = {item["prompt"][0]["content"] for item in dev}
    # No training seed is a word, so no training set begins with these problems.
    rng = random.Random(split_seed("problems/held out", chosen))
    return _different_problems(rng, n, steps, largest, smallest, seen)


def build_prompt_data(n_prompts: int, seed: int) -> tuple[list[Item], Mapping[str, list[Item]]]:
    """Draw the prompts that preference pairs are made of: facts and stories.

    Returns:
        Items with `id`, `task`, `prompt` (messages) and further keys that depend on the task, the same as of
        the preference pairs of that seed; and suites, of its own "new_stories".
    """
    suites = Suites({"new_stories": lambda: held_out_stories(HELD_OUT_STORIES)})
    return preference_prompts(n_prompts, seed), suites


def _different_problems(
    rng: random.Random, n: int, steps: int, largest: int, smallest: int, seen: set[str]
) -> list[Item]:
    """Draw problems whose text is not in `seen`, which grows."""
    if largest < smallest:
        raise CourseError(
            f"data.largest is {largest}, but problems begin with data.smallest={smallest} at least; raise "
            "data.largest or lower data.smallest."
        )
    items: list[Item] = []
    failures = 0
    while len(items) < n:
        problem = word_problem(rng, steps, smallest=smallest, largest=largest)
        if problem.prompt not in seen:
            failures = 0
            seen.add(problem.prompt)
            items.append(problem_item(problem, f"problems/held out/{len(items)}"))
            continue
        failures += 1
        if failures == _MOST_DRAWS_WITHOUT_A_NEW_PROBLEM:
            raise CourseError(
                f"only {len(items):,} different word problems with steps={steps} and largest={largest} "
                f"were found, but {n:,} are asked for; ask for fewer, or raise steps or largest."
            )
    return items
