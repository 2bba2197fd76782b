"""Reward functions that stop a training when what they return is no reward.

TRL and PPO would go on: a NaN makes every weight NaN, and a reply that no function rates counts as a 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.rewards.scoring import checked_rewards, reward_name

_MARK = "stops_at_what_is_no_reward"


def guarded(functions: Sequence[Any]) -> list[Any]:
    """Return reward functions that look at what they return; reward models stay as they are.

    Args:
        functions: as for `trl.GRPOTrainer`, called with keywords only; coroutines among them, too.

    Returns:
        Functions of the same names. They raise CourseError, naming the function and the step, for a result of
        the wrong length, for what is no finite number, and for None where no other function rates the reply.
    """
    if all(hasattr(function, _MARK) for function in functions):
        return list(functions)
    guard = _Guard(functions)
    return [guard.wrapped(index, function) for index, function in enumerate(functions)]


class _Guard:
    """What the functions of one trainer returned for the same replies."""

    def __init__(self, functions: Sequence[Any]) -> None:
        self.names = [reward_name(function) for function in functions]
        self._returned: dict[int, list[float | None]] = {}

    def wrapped(self, index: int, function: Any) -> Any:
        from trl.trainer.utils import is_async_callable

        if not callable_without_weights(function):
            return function
        if is_async_callable(function):

            @wraps(function)
            async def rewards_of(**columns: Any) -> list[float | None]:
                return self._checked(index, await function(**columns), columns)

        else:

            @wraps(function)
            def rewards_of(**columns: Any) -> list[float | None]:
                return self._checked(index, function(**columns), columns)

        rewards_of.__name__ = self.names[index]
        setattr(rewards_of, _MARK, True)
        return rewards_of

    def _checked(self, index: int, rewards: Any, columns: dict[str, Any]) -> list[float | None]:
        state, completions = columns.get("trainer_state"), columns["completions"]
        # Before a training begins, it has no number of steps.
        where = f" in step {state.global_step + 1}" if state is not None and state.max_steps else ""
        checked = checked_rewards(self.names[index], rewards, completions, where)
        if index in self._returned:  # a round that did not come to its end
            self._returned.clear()
        self._returned[index] = checked
        # A model among the rewards reports nothing here, but rates every reply.
        if len(self._returned) == len(self.names):
            self._check_each_reply_is_rated(completions, where)
            self._returned.clear()
        return checked

    def _check_each_reply_is_rated(self, completions: Sequence[Any], where: str) -> None:
        rated = [
            any(reward is not None for reward in rewards)
            for rewards in zip(*self._returned.values(), strict=True)
        ]
        if all(rated):
            return
        names = ", ".join(map(repr, self.names))
        functions = (
            f"the reward function {names}"
            if len(self.names) == 1
            else f"each of the reward functions {names}"
        )
        count = len(rated)
        if not any(rated):
            raise CourseError(
                f"{functions} returned None for all of {count} replies{where}, so it teaches nothing; check "
                "the column that it reads."
            )
        text = str(completions[rated.index(False)])[:60]
        raise CourseError(
            f"{functions} returned None for {count - sum(rated)} of {count} replies{where}, the first is "
            f"{text!r}; return a number for each reply that no other function rates."
        )


def callable_without_weights(function: Any) -> bool:
    """Say whether a reward is a function, and no model or name of one."""
    from torch.nn import Module

    return callable(function) and not isinstance(function, Module)
