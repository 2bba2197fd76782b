"""From the names in a recipe to the functions that rate replies: verifiers, and reward models.

functions = reward_functions(["exact_answer", "reward_model"])
functions[0](completions=["19"], answer=["19"])
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.profiles import Profile, get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.rewards.reward_model import as_reward_function
from posttrain_helpers.rewards.scoring import RewardFunction
from posttrain_helpers.rewards.verifiers import VERIFIERS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def reward_functions(names: Iterable[str], profile: str | Profile | None = None) -> list[RewardFunction]:
    """Return the function of each name, in the signature of TRL's reward functions.

    Args:
        names: functions of `rewards.verifiers`, and stages or directories of reward models.
        profile: what stage names refer to; None takes the profile in use.

    Returns:
        Functions `f(prompts, completions, **columns)` that give one number per completion; the metrics of a
        trainer carry their `__name__`.
    """
    return [VERIFIERS.get(name) or reward_model_function(name, profile) for name in names]


def reward_model_function(model: str | Path, profile: str | Profile | None = None) -> RewardFunction:
    """Return a function that scores replies with a reward model, at the token that it was trained to score.

    The model is loaded at the first call and kept.

    Args:
        model: a stage that is there (`load_stage` builds it), a directory, or a Hub id.
        profile: what a stage name refers to; None takes the profile in use.

    Returns:
        A function `f(prompts, completions, **columns)` of the model's name; prompts are lists of messages,
        completions texts or lists of messages. It raises CourseError where `model` is no reward model.

    Raises:
        CourseError: a stage that is not there.
    """
    profile = get_profile(profile)
    place = _place(str(model), profile)

    @cache
    def loaded() -> RewardFunction:
        return as_reward_function(*_load(place, profile, str(model)))

    def score(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float]:
        return loaded()(prompts=prompts, completions=completions)

    score.__name__ = score.__qualname__ = Path(model).name
    return score


def load_reward_model(model: str | Path, profile: str | Profile | None = None) -> PreTrainedModel:
    """Load a reward model, such as the one that a critic starts as a copy of.

    Args:
        model, profile: as for `reward_model_function`.

    Raises:
        CourseError: a stage that is not there, or no reward model.
    """
    profile = get_profile(profile)
    return _load(_place(str(model), profile), profile, str(model))[0]


def _place(model: str, profile: Profile) -> str:
    from posttrain_helpers.models.manifest import STAGE_NAME, location

    place = location(model, profile)
    if STAGE_NAME.fullmatch(place) and not Path(place).is_dir():
        raise CourseError(
            f"the reward model {model!r} is not there yet; load_stage({model!r}) finds or builds a stage."
        )
    return place


def _load(place: str, profile: Profile, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from posttrain_helpers.environment.runtime import current_runtime, preserved_random_state
    from posttrain_helpers.models.loading import has_score_head, load_repaired

    with preserved_random_state():  # a trainer that samples replies may be under way
        reward_model, tokenizer, _ = load_repaired(place, current_runtime(profile).device, profile=profile)
    if not has_score_head(reward_model):
        raise CourseError(
            f"{name!r} cannot rate replies: a {type(reward_model).__name__} has no score head; name a stage "
            "or directory of a reward model."
        )
    return reward_model, tokenizer
