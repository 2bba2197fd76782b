"""What a student is distilled on: prompts, a teacher's replies to them, or these beside its own.

The prompts are word problems: half with larger numbers, which the teacher has practised, half as in
supervised fine-tuning. Nobody looks at the answers; that is what a teacher is for.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from functools import partial

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS
from posttrain_helpers.stages.samples import sample_replies
from posttrain_helpers.tinyworld.tasks import Item, Suites
from posttrain_helpers.tinyworld.training_data.prompts import (
    HELD_OUT_PROBLEMS,
    build_word_problem_data,
    held_out_problems,
)

# Between the seeds of the three kinds of problems.
_SEEDS = 100_000
# Enough for a solution of two steps.
_REPLY_TOKENS = 40


def build_distillation_data(
    n_prompts: int,
    steps: int,
    largest: int,
    seed: int,
    profile: str,
    smallest: int = 3,
    policy: str | None = None,
    student: str | None = None,
    sampling_temperature: float = 1.0,
) -> tuple[list[Item], Mapping[str, list[Item]], Counter[str]]:
    """Draw prompts, and sample replies to them where a policy is named.

    Args:
        steps, largest, smallest: of the harder half, as for `build_word_problem_data`.
        policy: the stage that replies, the teacher; None leaves the prompts without replies.
        student: the stage whose replies are the rejected ones of pairs; None makes conversations.
        n_prompts, seed, profile, sampling_temperature: as for all builders of this room.

    Returns:
        Rows, at most `n_prompts` (a problem that is held out elsewhere is left out): `id`, `task`, `prompt`
        and `answer`; with a policy `messages` in place of these two; with a student `chosen` and `rejected`
        beside them. Suites, of its own "problems" and "larger_problems". What was dropped.
    """
    rows = _prompts(n_prompts, steps, largest, smallest, seed)
    dropped = Counter({"prompt of a held-out item": n_prompts - len(rows)})
    if policy is not None:
        prompts = [row["prompt"] for row in rows]
        options = {"samples": 1, "temperature": sampling_temperature, "max_new_tokens": _REPLY_TOKENS}

        def turns_of(stage: str) -> list[list[dict[str, str]]]:
            drawn = sample_replies(stage, prompts, seed=seed, profile=profile, **options)
            return [[{"role": "assistant", "content": reply.text}] for (reply,) in drawn]

        if student is None:
            rows = [
                {"id": row["id"], "task": row["task"], "messages": row["prompt"] + turn}
                for row, turn in zip(rows, turns_of(policy), strict=True)
            ]
        else:
            pairs = [
                {**row, "chosen": strong, "rejected": weak}
                for row, strong, weak in zip(rows, turns_of(policy), turns_of(student), strict=True)
            ]
            rows = [pair for pair in pairs if pair["chosen"] != pair["rejected"]]
            dropped["identical"] = len(pairs) - len(rows)
    held_out = partial(held_out_problems, steps, largest, HELD_OUT_PROBLEMS, smallest=smallest)
    larger = partial(_larger_problems, steps, largest, smallest)
    return rows, Suites({"problems": held_out, "larger_problems": larger}), +dropped


def _larger_problems(steps: int, largest: int, smallest: int) -> list[Item]:
    """Return held-out problems of a step less, with larger amounts but in those about groups."""
    width = largest - smallest + 1
    items = held_out_problems(max(1, steps - 1), largest + width, HELD_OUT_PROBLEMS, smallest=largest + 1)
    return [{**item, "id": f"larger_{item['id']}"} for item in items]


def _prompts(n: int, steps: int, largest: int, smallest: int, seed: int) -> list[Item]:
    """Draw half harder problems, and half as fine-tuning has them, of one step and of two."""
    held_out = {
        item["prompt"][0]["content"]
        for split in HELD_OUT_SPLITS
        for item in held_out_problems(steps, largest, HELD_OUT_PROBLEMS, split, smallest=smallest)
    }
    half, quarter = n - n // 2, n // 4
    kinds = ((half, steps, largest, smallest), (quarter, 1, 12, 3), (n - half - quarter, 2, 12, 3))
    rows = []
    for place, (number, its_steps, most, least) in enumerate(kinds, start=1):
        # Not the problems that the teacher has practised, and each kind from a seed of its own.
        drawn, _ = build_word_problem_data(number, its_steps, most, seed + place * _SEEDS, least)
        rows += [
            {key: row[key] for key in ("task", "prompt", "answer")}
            for row in drawn
            if row["prompt"][0]["content"] not in held_out
        ]
    random.Random(f"distillation/{seed}").shuffle(rows)
    return [{"id": f"distillation/{number}", **row} for number, row in enumerate(rows)]
