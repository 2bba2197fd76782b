"""A reward model as judge: each reply has a score of its own, so no order can sway the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain_helpers.comparison.scores import Item

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RewardModelJudge:
    """Score replies by a reward model; of two the one with the higher reward is better.

    Args:
        model: a reward model, such as the stage "reward_model".
        tokenizer: its tokenizer.

    Raises:
        CourseError: what `rewards.check_scored_token` raises.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        from posttrain_helpers.rewards.reward_model import check_scored_token

        check_scored_token(model, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self._rewards: dict[str, float] = {}

    def scores(self, items: Sequence[Item], replies: Sequence[str]) -> list[float]:
        """Return the reward of each reply.

        Args:
            items: N items whose prompts are messages; one of several turns is read as a whole.
            replies: N texts.

        Raises:
            CourseError: what `rewards.score_replies` raises.
        """
        from posttrain_helpers.rewards.reward_model import score_replies

        asked = [(item["prompt"], reply) for item, reply in zip(items, replies, strict=True)]
        # Each text once, also in later calls: in another batch its reward is rounded otherwise, and equal
        # replies of two models would not tie.
        keys = [json.dumps(pair) for pair in asked]
        new = {key: pair for key, pair in zip(keys, asked, strict=True) if key not in self._rewards}
        if new:
            prompts, texts = map(list, zip(*new.values(), strict=True))
            rewards = score_replies(self.model, self.tokenizer, prompts, texts)
            self._rewards |= zip(new, rewards.tolist(), strict=True)
        return [self._rewards[key] for key in keys]


reward_model_judge = RewardModelJudge
