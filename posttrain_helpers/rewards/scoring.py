"""Ask reward functions for the scores of completions, and add the scores up.

A reward function has the signature of TRL's: `f(prompts, completions, completion_ids, **columns)`, with every
other column of the data set by its name, and returns one number for each completion (None: no opinion, which
counts 0 here).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

RewardFunction = Callable[..., list[float | None]]


def reward_name(function: RewardFunction) -> str:
    """Return the name under which TRL logs a reward function."""
    from trl.trainer.utils import get_callable_name

    return get_callable_name(function)


def checked_rewards(
    name: str, rewards: Any, completions: Sequence[Any], where: str = ""
) -> list[float | None]:
    """Return the rewards that a function gave, as numbers and None.

    Args:
        name: of the function.
        rewards: what it returned.
        where: in which step, for the sentence of an error.

    Raises:
        CourseError: another number of rewards than of completions, or what is no finite number and not None.
    """
    count = len(completions)
    if not hasattr(rewards, "__len__") or len(rewards) != count:
        found = f"{len(rewards)} rewards" if hasattr(rewards, "__len__") else repr(rewards)
        raise CourseError(
            f"the reward function {name!r} returned {found} for {count} replies{where}; return a list with "
            "one number for each."
        )
    for reward, completion in zip(rewards, completions, strict=True):
        if reward is None:
            continue
        try:
            finite = math.isfinite(reward)
        except (TypeError, ValueError, OverflowError) as error:
            raise CourseError(
                f"the reward function {name!r} returned {str(reward)[:60]!r} for a reply{where}; return a "
                "number, or None for no reward."
            ) from error
        if not finite:
            raise CourseError(
                f"the reward function {name!r} returned {float(reward)} for the reply "
                f"{str(completion)[:60]!r}{where}; a reward must be finite, or None for no reward."
            )
    return [None if reward is None else float(reward) for reward in rewards]


def reward_columns(
    rows: Sequence[dict[str, Any]],
    texts: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    trainer_state: Any,
    log_metric: Callable[[str, float], None] = lambda name, value: None,
) -> dict[str, Any]:
    """Return what a reward function is called with, as TRL's trainers call it.

    Args:
        rows: for each completion its row of the data set, with a `prompt`.
        texts: B completions without special tokens.
        completion_ids: their B lists of token ids.
        trainer_state: for rewards that change during the training.
        log_metric: takes name and value of what a function wants to log.
    """
    left_out = ("prompt", "completion", "completion_ids")
    conversational = not isinstance(rows[0]["prompt"], str)
    return {
        **{name: [row[name] for row in rows] for name in rows[0] if name not in left_out},
        "prompts": [row["prompt"] for row in rows],
        "completions": [
            [{"role": "assistant", "content": text}] if conversational else text for text in texts
        ],
        "completion_ids": completion_ids,
        "trainer_state": trainer_state,
        "log_extra": lambda column, values: None,  # of TRL's table of completions, which is not kept
        "log_metric": log_metric,
    }


def score_completions(
    functions: Sequence[RewardFunction],
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    completions: Sequence[Sequence[int]],
    trainer_state: Any,
    log_metric: Callable[[str, float], None],
) -> torch.Tensor:
    """Return the score of each completion by each reward function, shape (functions, completions).

    Args:
        functions: the reward functions, as `guard.guarded` returns them.
        tokenizer: decodes the completions, without special tokens.
        rows, trainer_state, log_metric: as for `reward_columns`.
        completions: B lists of token ids.
    """
    import torch

    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    columns = reward_columns(rows, texts, completions, trainer_state, log_metric)
    scores = []
    for function in functions:
        rewards = function(**columns)
        scores.append(torch.tensor([0.0 if reward is None else reward for reward in rewards]))
    return torch.stack(scores)
