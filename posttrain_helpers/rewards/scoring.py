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
    """Return the name under which a reward function is logged."""
    return getattr(function, "__name__", type(function).__name__)


def checked_rewards(
    name: str, rewards: Any, completions: Sequence[Any], where: str = ""
) -> list[float | None]:
    """Return the rewards that a function gave, as numbers and None.

    Args:
        name: of the function.
        rewards: what it returned.
        completions: what it rated.
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


def score_completions(
    functions: Sequence[RewardFunction],
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    completions: Sequence[Sequence[int]],
    trainer_state: Any = None,
) -> torch.Tensor:
    """Return the score of each completion by each reward function, shape (functions, completions).

    Args:
        functions: the reward functions.
        tokenizer: decodes the completions, without special tokens.
        rows: for each completion its row of the data set, with a `prompt`.
        completions: B lists of token ids.
        trainer_state: passed on, for rewards that change during the training.

    Raises:
        CourseError: as `checked_rewards`.
    """
    import torch

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    prompts = columns.pop("prompt")
    texts: list[Any] = tokenizer.batch_decode(completions, skip_special_tokens=True)
    if not isinstance(prompts[0], str):
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    scores = []
    for function in functions:
        values = function(
            prompts=prompts,
            completions=texts,
            completion_ids=completions,
            trainer_state=trainer_state,
            **columns,
        )
        rewards = checked_rewards(reward_name(function), values, texts)
        scores.append(torch.tensor([0.0 if reward is None else reward for reward in rewards]))
    return torch.stack(scores)
