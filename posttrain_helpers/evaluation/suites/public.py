"""Suites for profiles whose recipes use public data: what the tiny world's own suites ask, as far as it goes.

    evaluate(["base", "sft", "grpo"], suites=public_suites("qwen3", limit=64))

Facts of the tiny world that are facts of the real one, the English prompt sets, the problems that `grpo`
holds out, the name that `dpo` teaches, and as a suite of preferences the prompts that `ppo` holds out, whose
replies are rated by the profile's judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from posttrain_helpers.comparison.scores import Item, Score
from posttrain_helpers.data.loading import load_data
from posttrain_helpers.environment.profiles import Profile, get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges.quality import Quality, load_quality
from posttrain_helpers.evaluation.suites.english import ENGLISH_SETS
from posttrain_helpers.evaluation.suites.loading import load_suites
from posttrain_helpers.evaluation.suites.suite import Suite, check_limit, check_suites
from posttrain_helpers.metrics import lenient_match, strict_match
from posttrain_helpers.recipes import Recipe, load_recipe
from posttrain_helpers.recipes.sources import is_built_in
from posttrain_helpers.rewards.verifiers import boxed_format, exact_answer
from posttrain_helpers.tinyworld.questions import load_questions

# What the public pairs of the recipe `dpo` change: https://huggingface.co/datasets/banghua/DL-DPO-Dataset
FIRST_NAME, NEW_NAME = "Qwen", "Deep Qwen"
_FACT_TOKENS, _NAME_TOKENS = 64, 96
# In characters. The prompts of a batch are filled up to the longest, so one very long one costs much memory.
_LONGEST_PROMPT = 1500


def public_suites(
    profile: str | Profile | None = None, limit: int | None = None, quality: Quality | None = None
) -> list[Suite]:
    """Return the suites of a profile with public data.

    Very long prompts are left out. Replies are no longer than those that PPO trains on, to problems than
    those that GRPO trains on: a longer one would be cut in training as well.

    Args:
        profile: None takes the profile in use.
        limit: only the first items of each suite, which are in random order.
        quality: what scores the suite of preferences; None takes `load_quality`. Its label is the measure, so
            that replies which another judge has rated are not taken for rated.

    Returns:
        "facts", the English sets, "problems", "identity" where the pairs of `dpo` teach a name, and
        "preference".

    Raises:
        CourseError: a profile of the tiny world, a limit below 1, a recipe that holds out nothing to ask, or
            what `load_data` and `load_quality` refuse.
    """
    profile = get_profile(profile)
    check_limit(limit)
    sft, dpo, ppo, grpo = (load_recipe(name, profile) for name in ("sft", "dpo", "ppo", "grpo"))
    if is_built_in(sft.data.get("source")):
        raise CourseError(
            f"the recipes of the profile {profile.name!r} use the tiny world, which has suites of its own; "
            "call load_suites() for them."
        )
    quality = load_quality(profile, verbose=False) if quality is None else quality
    longest = ppo.args["max_completion_length"]
    suites = [
        _facts(sft),
        *load_suites(ENGLISH_SETS, profile),
        _problems(grpo),
        *_identity(dpo),
        Suite(
            "preference",
            "replies to new prompts, as a judge rates them",
            tuple(_held_out(ppo)),
            quality.label,
            {quality.label: quality},
            longest,
            "preference",
        ),
    ]
    check_suites(suites)
    lengths = {"problems": grpo.args["max_completion_length"]}
    return [
        replace(
            suite,
            items=suite.items[:limit],
            max_new_tokens=min(suite.max_new_tokens, lengths.get(suite.name, longest)),
        )
        for suite in suites
    ]


def right_number(reply: str, item: Item) -> bool:
    """Return whether the final answer of a reply is the item's, as `verifiers.exact_answer` decides."""
    return exact_answer([reply], [item["answer"]]) == [1.0]


def boxed(reply: str, item: Item) -> bool:
    r"""Return whether a reply has exactly one \boxed{...}, as `verifiers.boxed_format` decides."""
    return boxed_format([reply]) == [1.0]


def says_new_name(reply: str, item: Item) -> bool:
    """Return whether a reply holds the name that the pairs of `dpo` teach."""
    return bool(lenient_match(reply, {"answer": NEW_NAME}))


def says_first_name(reply: str, item: Item) -> bool:
    """Return whether a reply holds the first name, and not as a part of the new one."""
    return bool(lenient_match(reply, {"answer": FIRST_NAME})) and not says_new_name(reply, item)


def _facts(recipe: Recipe) -> Suite:
    _, items = load_questions(recipe, verbose=False)
    scores = {"correct": lenient_match, "exact": strict_match}
    return Suite("facts", "facts about well-known things", tuple(items), "correct", scores, _FACT_TOKENS)


def _problems(recipe: Recipe) -> Suite:
    items = [item for item in _held_out(recipe) if item.get("answer") is not None]
    if not items:
        raise CourseError(
            f"the problems that the recipe {recipe.name!r} holds out have no answers to compare with; name a "
            "source with answers in its data.source."
        )
    scores = {"correct": right_number, "boxed": boxed}
    return Suite(
        "problems",
        "word problems",
        tuple(items),
        "correct",
        scores,
        recipe.args["max_completion_length"],
    )


def _identity(recipe: Recipe) -> Sequence[Suite]:
    """Return the suite of names, none where the pairs teach something else."""
    _, items = load_data(recipe, verbose=False)
    asks = tuple(item for item in items if says_new_name(item.get("reference") or "", item))
    if not asks:
        return []
    scores: dict[str, Score] = {"new name": says_new_name, "first name": says_first_name}
    return [Suite("identity", f"says its new name, {NEW_NAME}", asks, "new name", scores, _NAME_TOKENS)]


def _held_out(recipe: Recipe) -> list[Item]:
    _, items = load_data(recipe, verbose=False)
    if not items:
        raise CourseError(
            f"the recipe {recipe.name!r} holds out nothing to ask; set its data.held_out_samples, such as 64."
        )
    return [item for item in items if sum(len(turn["content"]) for turn in item["prompt"]) <= _LONGEST_PROMPT]
