"""Reward models as judges: their rewards, and equal ones for equal replies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from judged_items import FIRST, ITEMS, SECOND, user
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges.by_score import reward_model_judge
from posttrain_helpers.rewards.reward_model import score_replies

# A reward model reads conversations.
ASKED = [{**item, "prompt": [user(item["prompt"])]} for item in ITEMS if isinstance(item["prompt"], str)]
ASKED = [*ASKED, *(item for item in ITEMS if not isinstance(item["prompt"], str))]


@pytest.fixture(scope="module")
def tokenizer(random_model_dir: Path):
    return AutoTokenizer.from_pretrained(random_model_dir)


@pytest.fixture
def model(uneven_model):
    return uneven_model


@pytest.fixture
def reward_model(random_model_dir: Path):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(random_model_dir, num_labels=1)
    return model.eval()


class TestRewardModelJudge:
    def test_it_gives_the_rewards_of_the_reward_model(self, reward_model, tokenizer) -> None:
        items, replies = ([column[i] for i in (0, 1, 3)] for column in (ITEMS, FIRST))
        expected = score_replies(reward_model, tokenizer, [item["prompt"] for item in items], replies)
        assert reward_model_judge(reward_model, tokenizer).scores(items, replies) == pytest.approx(expected)

    def test_many_replies_are_few_batches(self, reward_model, tokenizer, monkeypatch) -> None:
        calls = []
        forward = reward_model.forward
        monkeypatch.setattr(reward_model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
        reward_model_judge(reward_model, tokenizer).scores([*ASKED, *ASKED], [*FIRST, *SECOND])
        assert len(calls) == 1

    def test_equal_replies_tie_although_rewards_are_rounded(
        self, reward_model, tokenizer, monkeypatch
    ) -> None:
        def rounded(model, tokenizer, prompts, replies) -> np.ndarray:
            return np.array([len(reply) for reply in replies]) + 1e-6 * np.arange(len(replies))

        judge = reward_model_judge(reward_model, tokenizer)
        monkeypatch.setattr("posttrain_helpers.rewards.reward_model.score_replies", rounded)
        first, other, second = judge.scores([ITEMS[0]] * 3, ["Paris", "It is Paris", "Paris"])
        assert first == second < other

    def test_a_reply_has_one_reward_in_every_call(self, reward_model, tokenizer, monkeypatch) -> None:
        def rounded(model, tokenizer, prompts, replies) -> np.ndarray:
            return np.array([len(reply) + 1e-6 * len(replies) for reply in replies])

        judge = reward_model_judge(reward_model, tokenizer)
        monkeypatch.setattr("posttrain_helpers.rewards.reward_model.score_replies", rounded)
        alone = judge.scores(ASKED[:1], FIRST[:1])
        assert judge.scores([*ASKED[::-1], ASKED[0]], [*SECOND[::-1], FIRST[0]])[-1:] == alone
        assert judge.scores(ITEMS[:1], FIRST[:1]) == alone

    def test_a_language_model_is_refused(self, model, tokenizer) -> None:
        with pytest.raises(CourseError, match="no score head"):
            reward_model_judge(model, tokenizer)
