"""Ask reward functions for the scores of completions, and add the scores up.

A reward function has the signature of TRL's: `f(prompts, completions, completion_ids, **columns)`, with every
other column of the data set by its name, and returns one number for each completion (None: no opinion, which
counts 0 here).
"""

from __future__ import annotations

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
        CourseError: a function that returns another number of scores, or a score that is not finite.
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
        if len(values) != len(rows):
            raise CourseError(
                f"the reward function {reward_name(function)!r} returned {len(values)} scores for "
                f"{len(rows)} completions; it must return one for each."
            )
        scores.append(torch.tensor([0.0 if value is None else float(value) for value in values]))
        if not torch.isfinite(scores[-1]).all():
            raise CourseError(
                f"the reward function {reward_name(function)!r} returned {values}, of which not every number "
                "is finite; return None for a completion that it cannot judge."
            )
    return torch.stack(scores)
