"""Judges: which of two replies to a prompt is better, by a score, a reward model or a language model.

Every judge has a name and `compare(items, first_replies, second_replies)`, which returns one `Choice` for
each item. "First" is the reply that is shown first, whichever model wrote it. A judge may lean towards a
position, so `judging.judge_pairs` decides who is shown first, and records it.

A judge is an instrument and has to be measured itself: `Judgements.position_bias`, `Judgements.consistency`
and `judging.kappa` do that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges.base import (
    Choice,
    Item,
    Judge,
    Reply,
    after_prompt,
    check_pairs,
    last_text,
    prompt_messages,
)
from posttrain_helpers.evaluation.judges.language_model import DEFAULT_TEMPLATE, LanguageModelJudge
from posttrain_helpers.statistics.wins import TIE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from posttrain_helpers.comparison.scores import Score

__all__ = [
    "DEFAULT_TEMPLATE",
    "Choice",
    "Judge",
    "LanguageModelJudge",
    "ScoreJudge",
    "reward_model_judge",
]


class ScoreJudge:
    """Prefer the reply with the higher score; blind to the order, because each reply is scored by itself.

    Args:
        name: what to call the judge in tables.
        score: a function of reply text and item, as for `compare_generations`. Of a reply of several turns
            it sees the last assistant message.
    """

    def __init__(self, name: str, score: Score) -> None:
        self.name = name
        self.score = score

    def compare(
        self, items: Sequence[Item], first_replies: Sequence[Reply], second_replies: Sequence[Reply]
    ) -> list[Choice]:
        """Return one choice for each item: 1, 0.5 (scores that differ by rounding only) or 0.

        Args:
            items: N items.
            first_replies: N replies, each a text, or the messages after the prompt.
            second_replies: N replies to the same prompts.

        Raises:
            CourseError: lists of different length, no items, a reply of an unknown form, or a score that is
                not a finite number.
        """
        check_pairs(items, first_replies, second_replies)
        scores = self.scores([*items, *items], [*first_replies, *second_replies])
        choices = []
        for first, second in zip(scores[: len(items)], scores[len(items) :], strict=True):
            difference = first - second
            choices.append(Choice(0.5 if abs(difference) <= TIE else float(difference > 0)))
        return choices

    def scores(self, items: Sequence[Item], replies: Sequence[Reply]) -> list[float]:
        """Return the score of each reply.

        Raises:
            CourseError: a reply of an unknown form, or a score that is not a finite number.
        """
        values = []
        for item, reply in zip(items, replies, strict=True):
            value = self.score(last_text(item, reply), item)
            if value is None or not math.isfinite(value):
                raise CourseError(
                    f"the judge {self.name!r} needs a finite score of every reply, but {value} was found for "
                    f"item {item.get('id')!r}; leave out the items that it cannot score."
                )
            values.append(float(value))
        return values


class _RewardModelJudge(ScoreJudge):
    """Prefer the reply with the higher reward; see `reward_model_judge`."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__("reward model", lambda reply, item: self.scores([item], [reply])[0])
        self.model = model
        self.tokenizer = tokenizer
        self._rewards: dict[str, float] = {}

    def scores(self, items: Sequence[Item], replies: Sequence[Reply]) -> list[float]:
        """Return the reward of each reply; replies of several turns are scored as a whole."""
        from posttrain_helpers.rewards.reward_model import score_replies

        prompts = [prompt_messages(item) for item in items]
        turns = [after_prompt(item, reply) for item, reply in zip(items, replies, strict=True)]
        # Each text once, also in later calls: in another batch its reward is rounded otherwise, and equal
        # replies of two models would not tie.
        keys = [json.dumps([prompt, reply]) for prompt, reply in zip(prompts, turns, strict=True)]
        new = {key: place for place, key in enumerate(keys) if key not in self._rewards}
        if new:
            asked = [[column[place] for place in new.values()] for column in (prompts, turns)]
            rewards = score_replies(self.model, self.tokenizer, *asked)
            self._rewards |= zip(new, rewards.tolist(), strict=True)
        return [self._rewards[key] for key in keys]


def reward_model_judge(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ScoreJudge:
    """Return the judge that prefers the reply with the higher reward.

    Args:
        model: a reward model, such as the stage "reward_model".
        tokenizer: its tokenizer.

    Raises:
        CourseError: what `rewards.check_scored_token` raises; later, what `rewards.score_replies` raises.
    """
    from posttrain_helpers.rewards.reward_model import check_scored_token

    check_scored_token(model, tokenizer)
    return _RewardModelJudge(model, tokenizer)
