"""Before a policy learns from rewards: do its own replies get different ones?

A policy gradient raises what was better than the rest. Where every reply gets the same reward, nothing is
better: the advantage is zero, so is the gradient, and the training ends without an error.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.rewards.guard import callable_without_weights
from posttrain_helpers.rewards.scoring import checked_rewards, reward_columns, reward_name

if TYPE_CHECKING:
    from transformers import Trainer

PROMPTS = 8
# A task that the policy solves once in a hundred replies can be learned, but eight prompts may not show it.
MOST_ROUNDS = 4
_REPLIES_WITHOUT_GROUPS = 8
_MOST_REPLIES_AT_ONCE = 64


@dataclass(frozen=True)
class RewardCheck:
    """What the policy's own replies are worth before it is trained.

    Attributes:
        prompts: N prompts that replies were sampled for.
        replies: replies for each of them.
        means: the mean of each reward function over the replies that it rated, NaN if there is none; of a
            verifier, the rate of success.
        without_spread: the share of the prompts whose replies all got the same reward, so that comparing
            them teaches nothing.
    """

    prompts: int
    replies: int
    means: dict[str, float]
    without_spread: float

    def __str__(self) -> str:
        means = ", ".join(
            f"{name} rated none of them" if math.isnan(mean) else f"{name} {mean:.3f}"
            for name, mean in self.means.items()
        )
        return (
            f"rewards before training ({self.prompts} prompts, {self.replies} replies each): {means}; all "
            f"replies equal for {self.without_spread:.0%} of the prompts"
        )


def check_rewards(trainer: Trainer) -> None:
    """Sample replies to a few training prompts and check that their rewards can teach something.

    Replies are sampled with the trainer's temperature and length, from the whole distribution. The random
    state and the model's mode stay as they are. What the replies are worth is kept as `trainer.reward_check`:
    None if a reward is a model or a coroutine, which only the trainer calls.

    Args:
        trainer: with `reward_funcs`, and in its arguments `temperature`, `max_completion_length` and perhaps
            `num_generations` (replies that are compared with each other) and `reward_weights`.

    Raises:
        CourseError: every reply gets the same reward, or all replies to the same prompt do although the
            trainer compares these; a reward function needs a column that is not there, returns another number
            of rewards than of replies, or one that is not finite.
    """
    from trl.trainer.utils import is_async_callable

    from posttrain_helpers.environment.runtime import preserved_random_state

    trainer.reward_check = None
    if any(not callable_without_weights(f) or is_async_callable(f) for f in trainer.reward_funcs):
        return
    for function in trainer.reward_funcs:
        _check_columns(function, trainer.train_dataset.column_names)
    names = [reward_name(function) for function in trainer.reward_funcs]
    grouped = hasattr(trainer.args, "num_generations")
    groups: list[list[list[float | None]]] = []  # for each prompt and reply the reward of each function
    with preserved_random_state():
        for rows in _rounds(trainer):
            groups += _rewarded_groups(trainer, rows, seed=len(groups))
            combined = [[_combined(trainer, rewards) for rewards in group] for group in groups]
            equal = [len(set(group)) == 1 for group in combined]
            spread = not all(equal) if grouped else len({value for group in combined for value in group}) > 1
            # A function may rate rows of one kind only, which the first prompts need not be.
            if spread and all(_given(groups, column) for column in range(len(names))):
                break
    if not spread:
        _refuse(trainer, groups, combined)
    trainer.reward_check = RewardCheck(
        prompts=len(groups),
        replies=len(groups[0]),
        means={
            name: fmean(given) if (given := _given(groups, column)) else math.nan
            for column, name in enumerate(names)
        },
        without_spread=fmean(equal),
    )


def _rounds(trainer: Trainer) -> list[list[dict[str, Any]]]:
    """Return rows from all over the training set, in rounds; a small set gives fewer."""
    dataset = trainer.train_dataset
    most = min(PROMPTS * MOST_ROUNDS, len(dataset))
    chosen = [number * len(dataset) // most for number in range(most)]
    count = math.ceil(most / PROMPTS)
    # Each round spans the whole set, which may be in an order of its own.
    return [[dataset[index] for index in chosen[start::count]] for start in range(count)]


def _rewarded_groups(
    trainer: Trainer, rows: list[dict[str, Any]], seed: int
) -> list[list[list[float | None]]]:
    from posttrain_helpers.generation.decoding import generate

    args = trainer.args
    size = getattr(args, "num_generations", _REPLIES_WITHOUT_GROUPS)
    replies = generate(
        trainer.accelerator.unwrap_model(trainer.model),
        trainer.processing_class,
        [row["prompt"] for row in rows],
        max_new_tokens=args.max_completion_length,
        temperature=args.temperature,
        seed=seed,
        batch_size=min(
            _MOST_REPLIES_AT_ONCE, args.per_device_train_batch_size * args.gradient_accumulation_steps
        ),
        num_return_sequences=size,
    )
    repeated = [row for row in rows for _ in range(size)]
    flat = [reply for group in replies for reply in (group if isinstance(group, list) else [group])]
    columns = reward_columns(
        repeated, [reply.text for reply in flat], [list(reply.token_ids) for reply in flat], trainer.state
    )
    per_function = [
        checked_rewards(reward_name(function), function(**columns), columns["completions"])
        for function in trainer.reward_funcs
    ]
    per_reply = [list(rewards) for rewards in zip(*per_function, strict=True)]
    return [per_reply[start : start + size] for start in range(0, len(flat), size)]


def _combined(trainer: Trainer, rewards: Sequence[float | None]) -> float:
    """Return the weighted sum of a reply's rewards, as the trainers form it; None counts nothing."""
    weights = trainer.args.reward_weights or [1.0] * len(rewards)
    total = sum(
        weight * reward for weight, reward in zip(weights, rewards, strict=True) if reward is not None
    )
    # A reward model gives one reply in two batches numbers that differ by rounding.
    return round(total, 6)


def _refuse(trainer: Trainer, groups: list[list[list[float | None]]], combined: list[list[float]]) -> None:
    """Say why the rewards of all replies teach nothing."""
    number, size = len(groups), len(groups[0])
    values = {value for group in combined for value in group}
    names = [reward_name(function) for function in trainer.reward_funcs]
    temperature = trainer.args.temperature
    if len(values) > 1:
        raise CourseError(
            f"all {size} replies to a prompt get the same reward, for each of {number} prompts: the trainer "
            "compares replies to one prompt only, so every advantage is zero and there is no gradient. The "
            f"replies may be too alike (temperature {temperature:g}: raise it), or the reward "
            f"({', '.join(names)}) depends on the prompt alone."
        )
    found = []
    for column, name in enumerate(names):
        own = set(_given(groups, column))
        what = "varies" if len(own) > 1 else f"is {own.pop():g}" if own else "rated none"
        found.append(f"{name} {what}")
    weights = trainer.args.reward_weights
    weighted = f" (reward_weights {weights})" if weights else ""
    raise CourseError(
        f"all {number * size} replies to {number} prompts get the same reward, {', '.join(found)}{weighted}: "
        "every advantage is zero and there is no gradient. Look at some replies: the reward function may not "
        "understand their form, or the answer column may not hold what it expects; if the policy really "
        f"always fails, give it easier problems or a higher temperature than {temperature:g}, and if it "
        "always succeeds, harder ones."
    )


def _check_columns(function: Any, columns: Sequence[str]) -> None:
    name = reward_name(function)
    given = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", *columns}
    parameters = inspect.signature(function).parameters.values()
    accepts_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    if not accepts_all and not given - {"prompt"} <= {parameter.name for parameter in parameters}:
        raise CourseError(
            f"the reward function {name!r} must accept every column of the training set; add "
            "**kwargs to its parameters."
        )
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name not in given
    ]
    if missing:
        raise CourseError(
            f"the reward function {name!r} reads the column {missing[0]!r}, but the training set "
            f"has {', '.join(sorted(columns))}; add the column or choose another reward."
        )


def _given(groups: list[list[list[float | None]]], column: int) -> list[float]:
    """Return the rewards that one function gave, without None."""
    return [rewards[column] for group in groups for rewards in group if rewards[column] is not None]
