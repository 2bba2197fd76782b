"""Judges by a score and by a reward model, and what every judge refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from judged_items import FIRST, ITEMS, SECOND, assistant, user
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges.by_score import (
    Choice,
    LanguageModelJudge,
    ScoreJudge,
    reward_model_judge,
)
from posttrain_helpers.generation.decoding import Generation
from posttrain_helpers.rewards.reward_model import score_replies
from posttrain_helpers.tinyworld.gold import gold


def length(reply: str, item: dict) -> float:
    return len(reply)


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


class TestChoice:
    @pytest.mark.parametrize(("share", "verdict"), [(0.51, "first"), (0.5, "tie"), (0.49, "second")])
    def test_the_verdict_is_the_larger_share(self, share: float, verdict: str) -> None:
        assert Choice(share).verdict == verdict

    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
    def test_anything_but_a_share_is_refused(self, share: float) -> None:
        with pytest.raises(CourseError, match="a choice is a share from 0"):
            Choice(share)


class TestScoreJudge:
    def test_the_higher_score_wins_whichever_is_first(self) -> None:
        judge = ScoreJudge("length", length)
        assert [choice.first_share for choice in judge.compare(ITEMS, FIRST, SECOND)] == [1, 0, 0, 1]
        assert [choice.first_share for choice in judge.compare(ITEMS, SECOND, FIRST)] == [0, 1, 1, 0]

    def test_scores_that_differ_by_rounding_tie(self) -> None:
        judge = ScoreJudge("length", lambda reply, item: 0.1 * len(reply) + (1e-12 if "b" in reply else 0))
        choices = judge.compare(ITEMS[:3], ["aaa", "aab", "a"], ["aab", "aaaa", "aa"])
        assert [choice.verdict for choice in choices] == ["tie", "second", "second"]

    def test_the_score_sees_the_item_and_the_last_turn(self) -> None:
        seen = []

        def score(reply: str, item: dict) -> float:
            seen.append((reply, item["id"]))
            return 0.0

        turns = [assistant("one"), user("more"), assistant("two")]
        ScoreJudge("spy", score).compare(ITEMS[:1], [turns], [ITEMS[0]["prompt"] + turns])
        assert seen == [("two", "france")] * 2

    @pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
    def test_a_reply_without_a_score_is_refused(self, value: float | None) -> None:
        with pytest.raises(CourseError, match=r"'odd' needs a finite score .* item 'france'"):
            ScoreJudge("odd", lambda reply, item: value).compare(ITEMS, FIRST, SECOND)

    def test_the_gold_score_makes_a_judge_that_knows_the_truth(self) -> None:
        item = {"id": "x", "task": "facts", "prompt": [user("q")], "answer": "Paris", "accepted": ["Paris"]}
        judge = ScoreJudge("gold", gold)
        right, wrong = "The capital is Paris.", "The capital is Rome."
        choices = judge.compare([item] * 3, [right, wrong, right], [wrong, right, right])
        assert [choice.verdict for choice in choices] == ["first", "second", "tie"]


class TestRewardModelJudge:
    def test_it_compares_the_scores_of_the_reward_model(self, reward_model, tokenizer) -> None:
        items = [ITEMS[0], ITEMS[1], ITEMS[3]]
        first, second = ([replies[i] for i in (0, 1, 3)] for replies in (FIRST, SECOND))
        prompts = [item["prompt"] for item in items]
        better = score_replies(reward_model, tokenizer, prompts, first) > score_replies(
            reward_model, tokenizer, prompts, second
        )
        judge = reward_model_judge(reward_model, tokenizer)
        assert judge.name == "reward model"
        assert [c.first_share for c in judge.compare(items, first, second)] == better.astype(float).tolist()
        assert [c.first_share for c in judge.compare(items, second, first)] == (1.0 - better).tolist()
        assert [c.verdict for c in judge.compare(items, first, first)] == ["tie"] * 3
        assert judge.score(first[0], items[0]) == pytest.approx(judge.scores(items, first)[0])

    def test_a_transcript_is_scored_without_its_prompt_twice(self, reward_model, tokenizer) -> None:
        turns = [assistant("Paris."), user("Sure?"), assistant("Yes.")]
        judge = reward_model_judge(reward_model, tokenizer)
        whole, tail = judge.scores([ITEMS[0]] * 2, [ITEMS[0]["prompt"] + turns, turns])
        assert whole == tail
        assert tail == pytest.approx(score_replies(reward_model, tokenizer, [ITEMS[0]["prompt"]], [turns])[0])

    def test_many_replies_are_few_batches(self, reward_model, tokenizer, monkeypatch) -> None:
        calls = []
        forward = reward_model.forward
        monkeypatch.setattr(reward_model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
        reward_model_judge(reward_model, tokenizer).compare(ITEMS, FIRST, SECOND)
        assert len(calls) == 1

    def test_equal_replies_tie_although_rewards_are_rounded(
        self, reward_model, tokenizer, monkeypatch
    ) -> None:
        def rounded(model, tokenizer, prompts, replies) -> np.ndarray:
            return np.array([len(reply) for reply in replies]) + 1e-6 * np.arange(len(replies))

        judge = reward_model_judge(reward_model, tokenizer)
        monkeypatch.setattr("posttrain_helpers.rewards.reward_model.score_replies", rounded)
        choices = judge.compare([ITEMS[0], *ITEMS], ["Paris", *FIRST], ["Paris", *SECOND])
        assert [choice.verdict for choice in choices] == ["tie", "first", "second", "second", "first"]

    def test_a_reply_has_one_reward_in_every_call(self, reward_model, tokenizer, monkeypatch) -> None:
        def rounded(model, tokenizer, prompts, replies) -> np.ndarray:
            return np.array([len(reply) + 1e-6 * len(replies) for reply in replies])

        judge = reward_model_judge(reward_model, tokenizer)
        monkeypatch.setattr("posttrain_helpers.rewards.reward_model.score_replies", rounded)
        alone = judge.scores(ITEMS[:1], FIRST[:1])
        assert judge.scores([*ITEMS[::-1], ITEMS[0]], [*SECOND[::-1], FIRST[0]])[-1:] == alone
        assert judge.scores(ITEMS[:1], FIRST[:1]) == alone

    def test_a_language_model_is_refused(self, model, tokenizer) -> None:
        with pytest.raises(CourseError, match="no score head"):
            reward_model_judge(model, tokenizer)


class TestPairs:
    @pytest.mark.parametrize(
        ("items", "first", "second"), [([], [], []), (ITEMS, FIRST[:3], SECOND), (ITEMS, FIRST, SECOND[:1])]
    )
    def test_lists_that_do_not_fit_are_refused(self, items, first, second) -> None:
        with pytest.raises(CourseError, match="two replies for each item"):
            ScoreJudge("length", length).compare(items, first, second)

    def test_one_string_is_refused(self) -> None:
        with pytest.raises(CourseError, match=r"write \[reply\]"):
            ScoreJudge("length", length).compare(ITEMS[:1], "a", ["b"])

    def test_a_generation_is_refused(self) -> None:
        generation = Generation("text", (1,), "stop")
        with pytest.raises(CourseError, match=r"a Generation was found for item 'france'; .* pass its text"):
            ScoreJudge("length", length).compare(ITEMS[:1], ["a"], [generation])

    def test_a_reply_that_ends_with_the_user_is_refused(self) -> None:
        with pytest.raises(CourseError, match="must end with the assistant's"):
            ScoreJudge("length", length).compare(ITEMS[:1], [[assistant("a"), user("b")]], ["a"])
        with pytest.raises(CourseError, match="must end with the assistant's"):
            ScoreJudge("length", length).compare(ITEMS[:1], [ITEMS[0]["prompt"]], ["a"])

    @pytest.mark.parametrize("prompt", [None, 3, [], [{"role": "user"}]])
    def test_a_prompt_of_another_form_is_refused(self, model, tokenizer, prompt) -> None:
        judge = LanguageModelJudge(model, tokenizer)
        with pytest.raises(CourseError, match="the prompt of item 'odd' must be"):
            judge.compare([{"id": "odd", "prompt": prompt}], ["a"], ["b"])
