"""How good is a reply? The gold score where it is known, and a judge's rating in its place elsewhere.

    quality = load_quality()
    compare_generations(models, items, score=quality).scores["DPO"][quality.name]

In the tiny world the true quality of every reply is known. Outside nobody knows it. There a language model
that no lesson trains rates the replies: the publisher's own assistant of the profile, or the model that the
environment variable `POSTTRAIN_JUDGE` names, the stronger the better. Its ratings are opinions, so a lesson
reports what they say and asserts nothing, and `agreement_with_choices` says how far to trust them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.profiles import JUDGE_VARIABLE, Profile, get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges.base import Item, Reply, last_text
from posttrain_helpers.statistics.paired_tests import mean_interval

if TYPE_CHECKING:
    import torch

    from posttrain_helpers.evaluation.judges.language_model import LanguageModelRater

# Longer replies are rated by their beginning: what counts stands there, and a judge has a limited context.
_LONGEST_REPLY = 4000


@dataclass(frozen=True)
class Quality:
    """A measure of how good a reply is, for every function that takes a score.

    Attributes:
        name: the key of its values in `Comparison.scores`: "gold" or "rating".
        label: what to write at an axis or above a column.
        known: whether it is the truth, as in the tiny world, and no opinion.
        score_all: a function of items and as many replies that returns their scores.
    """

    name: str
    label: str
    known: bool
    score_all: Callable[[Sequence[Item], Sequence[Reply]], list[float]]

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, reply: Reply, item: Item) -> float:
        """Return the quality of one reply; higher is better."""
        return self.many([reply], [item])[0]

    def many(self, replies: Sequence[Reply], items: Sequence[Item]) -> list[float]:
        """Return the quality of many replies, which is faster than one by one.

        Args:
            replies: N texts, or lists of messages of which the last one counts.
            items: the N items that were asked.

        Raises:
            CourseError: lists of different length.
        """
        if len(replies) != len(items):
            raise CourseError(
                f"quality needs one item for each reply; found {len(replies)} replies and {len(items)} items."
            )
        return self.score_all(items, replies)


def load_quality(profile: str | Profile | None = None, verbose: bool = True) -> Quality:
    """Return the measure of quality of a profile.

    Args:
        profile: None takes the profile in use.
        verbose: say in one line what the measure is.

    Returns:
        The gold score under `tiny`; else the ratings of the profile's judge, which is loaded at the first
        rating and leaves the GPU after each.

    Raises:
        CourseError: the profile has no judge.
    """
    profile = get_profile(profile)
    quality = _gold() if profile.name == "tiny" else _rating(profile)
    if verbose:
        nature = (
            "known, because this world is ours" if quality.known else "an opinion that stands in for truth"
        )
        print(f"quality is measured by: {quality.label} ({nature})")
    return quality


def agreement_with_choices(quality: Quality, pairs: Sequence[Item]) -> dict[str, Any]:
    """Return how often a measure of quality prefers the reply that annotators chose; ties count one half.

    Args:
        quality: the measure.
        pairs: items with `prompt`, `chosen` and `rejected` (messages), such as the held-out ones of the
            recipe `reward`.

    Returns:
        `n`, `share`, and its 95 % interval `low`, `high`.

    Raises:
        CourseError: no pairs.
    """
    if not pairs:
        raise CourseError("agreement needs pairs of chosen and rejected replies, but the list is empty.")
    sides = [[last_text(pair, pair[side]) for pair in pairs] for side in ("chosen", "rejected")]
    chosen, rejected = (quality.many(texts, pairs) for texts in sides)
    agreed = [0.5 if a == b else float(a > b) for a, b in zip(chosen, rejected, strict=True)]
    low, high = mean_interval(agreed)
    return {"n": len(pairs), "share": sum(agreed) / len(pairs), "low": low, "high": high}


def _gold() -> Quality:
    from posttrain_helpers.tinyworld.gold import gold

    def score_all(items: Sequence[Item], replies: Sequence[Reply]) -> list[float]:
        return [gold(last_text(item, reply), item) for item, reply in zip(items, replies, strict=True)]

    return Quality("gold", "gold score", True, score_all)


def _rating(profile: Profile) -> Quality:
    name = profile.judge_model
    if name is None:
        raise CourseError(
            f"the profile {profile.name!r} has no judge for the base model {profile.base_model!r}; name one "
            f"in {JUDGE_VARIABLE}: a directory or a Hub id of a model that follows instructions."
        )
    loaded: list[tuple[LanguageModelRater, torch.device]] = []

    def score_all(items: Sequence[Item], replies: Sequence[Reply]) -> list[float]:
        if not loaded:
            loaded.append(_load_rater(name, profile))
        texts = [last_text(item, reply)[:_LONGEST_REPLY] for item, reply in zip(items, replies, strict=True)]
        rater, device = loaded[0]
        with _on_device(rater, device):
            return rater.ratings(items, texts)

    return Quality("rating", f"rating by {_title(name)}", False, score_all)


def _title(model: str) -> str:
    """Return a Hub id as it is, and of a directory its name."""
    return Path(model).name if Path(model).is_dir() else model


def _load_rater(name: str, profile: Profile) -> tuple[LanguageModelRater, torch.device]:
    import torch

    from posttrain_helpers.environment.runtime import preserved_random_state
    from posttrain_helpers.evaluation.judges.language_model import LanguageModelRater
    from posttrain_helpers.stages.loading import load_model_and_tokenizer

    # Nothing is trained, so half the memory will do.
    dtype = "bfloat16" if torch.cuda.is_available() else None
    with preserved_random_state():  # a training that samples replies may be under way
        model, tokenizer = load_model_and_tokenizer(name, dtype=dtype, profile=profile, verbose=False)
    return LanguageModelRater(model, tokenizer, name=name), model.device


@contextmanager
def _on_device(rater: LanguageModelRater, device: torch.device) -> Iterator[None]:
    """Bring the judge's model to the device, and give the memory back to the training afterwards."""
    import torch

    if device.type == "cpu":
        yield
        return
    rater.model.to(device)
    try:
        yield
    finally:
        rater.model.to("cpu")
        torch.cuda.empty_cache()
