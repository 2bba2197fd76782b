"""Judges by a score, by a reward model and by a language model; the latter against one prompt at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain_helpers import divergence
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges import (
    DEFAULT_TEMPLATE,
    Choice,
    LanguageModelJudge,
    ScoreJudge,
    gold_judge,
    reward_model_judge,
)
from posttrain_helpers.generation import Generation
from posttrain_helpers.rewards import score_replies

SHORT = "{question} A: {first} B: {second} ?"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ITEMS = [
    {"id": "france", "prompt": [user("What is the capital of France?")]},
    {"id": "cow", "prompt": [{"role": "system", "content": "Be brief."}, user("What says a cow?")]},
    {"id": "sum", "prompt": "3 + 4 ="},
    {"id": "owl", "prompt": [user("Hello."), assistant("Hi."), user("Can an owl fly?")]},
]
FIRST = ["The capital of France is Paris.", "moo", "7", "An owl can fly."]
SECOND = ["Paris", "A cow says moo moo moo moo moo moo.", "3 + 4 = 8", "no"]


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


def slow_log_prob(model, tokenizer, question: str, letter: str) -> float:
    """The log-probability of a letter that shares no token with the prompt, one prompt at a time."""
    opened = tokenizer.apply_chat_template([user(question)], add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(opened, add_special_tokens=False)["input_ids"]
    answer = tokenizer(letter, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0].float().log_softmax(-1)
    return sum(logits[len(prompt) - 1 + step, token].item() for step, token in enumerate(answer))


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

    def test_a_score_for_many_replies_is_asked_once(self) -> None:
        asked = []

        class Lengths:
            def many(self, replies: list[str], items: list[dict]) -> list[float]:
                asked.append([item["id"] for item in items])
                return [float(len(reply)) for reply in replies]

        choices = ScoreJudge("length", Lengths()).compare(ITEMS, FIRST, SECOND)
        assert [choice.first_share for choice in choices] == [1, 0, 0, 1]
        assert asked == [[item["id"] for item in ITEMS] * 2]

    def test_close_scores_tie(self) -> None:
        pairs = (ITEMS[:3], ["aaa", "aaaa", "a"], ["aa", "aa", "aa"])
        assert [c.verdict for c in ScoreJudge("length", length, tie=1).compare(*pairs)] == [
            "tie",
            "first",
            "tie",
        ]
        assert [c.verdict for c in ScoreJudge("length", length).compare(*pairs)] == [
            "first",
            "first",
            "second",
        ]

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

    @pytest.mark.parametrize("tie", [-1, float("nan")])
    def test_a_tie_below_zero_is_refused(self, tie: float) -> None:
        with pytest.raises(CourseError, match="tie must be 0 or a positive"):
            ScoreJudge("length", length, tie=tie)

    def test_the_gold_judge_knows_the_truth(self) -> None:
        item = {"id": "x", "task": "facts", "prompt": [user("q")], "answer": "Paris", "accepted": ["Paris"]}
        judge = gold_judge()
        assert judge.name == "gold"
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
        judge = reward_model_judge(reward_model, tokenizer, batch_size=2)
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
        reward_model_judge(reward_model, tokenizer, batch_size=8).compare(ITEMS, FIRST, SECOND)
        assert len(calls) == 1

    def test_equal_replies_tie_although_rewards_are_rounded(
        self, reward_model, tokenizer, monkeypatch
    ) -> None:
        def rounded(model, tokenizer, prompts, replies, batch_size) -> np.ndarray:
            return np.array([len(reply) for reply in replies]) + 1e-6 * np.arange(len(replies))

        judge = reward_model_judge(reward_model, tokenizer)
        monkeypatch.setattr("posttrain_helpers.rewards.score_replies", rounded)
        choices = judge.compare([ITEMS[0], *ITEMS], ["Paris", *FIRST], ["Paris", *SECOND])
        assert [choice.verdict for choice in choices] == ["tie", "first", "second", "second", "first"]

    def test_a_language_model_is_refused(self, model, tokenizer) -> None:
        with pytest.raises(CourseError, match="no score head"):
            reward_model_judge(model, tokenizer)


class TestLanguageModelJudge:
    @pytest.mark.parametrize("letters", [("A", "B"), ("A cow", "Paris is"), ("B", "owl can fly")])
    @pytest.mark.parametrize("batch_size", [1, 3, 32])
    def test_it_equals_one_prompt_at_a_time(self, model, tokenizer, letters, batch_size: int) -> None:
        judge = LanguageModelJudge(model, tokenizer, template=SHORT, letters=letters, batch_size=batch_size)
        log_probs = judge.letter_log_probs(ITEMS, FIRST, SECOND)
        expected = [
            [slow_log_prob(model, tokenizer, judge.question(*pair), letter) for letter in letters]
            for pair in zip(ITEMS, FIRST, SECOND, strict=True)
        ]
        np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-4)
        assert np.std(log_probs[:, 0]) > 0.01  # the random model does look at the prompt
        odds = np.exp(expected)
        shares = [choice.first_share for choice in judge.compare(ITEMS, FIRST, SECOND)]
        np.testing.assert_allclose(shares, odds[:, 0] / odds.sum(1), atol=1e-4)

    def test_a_beginning_that_both_letters_share_counts_for_neither(self, model, tokenizer) -> None:
        letters = ("[[A]]", "[[B]]")
        tokens = [tokenizer(letter)["input_ids"] for letter in letters]
        assert tokens[0][0] == tokens[1][0]
        judge = LanguageModelJudge(model, tokenizer, template=SHORT, letters=letters)
        questions = [judge.question(*pair) for pair in zip(ITEMS, FIRST, SECOND, strict=True)]
        whole = [[slow_log_prob(model, tokenizer, text, letter) for letter in letters] for text in questions]
        ours = judge.letter_log_probs(ITEMS, FIRST, SECOND)
        np.testing.assert_allclose(np.diff(ours), np.diff(whole), atol=1e-4)
        assert (ours > whole).all()

    def test_memory_bounds_the_batches(self, model, tokenizer, monkeypatch) -> None:
        expected = LanguageModelJudge(model, tokenizer, template=SHORT).letter_log_probs(ITEMS, FIRST, SECOND)
        sizes = []
        forward = model.forward

        def spy(*args, logits_to_keep=0, **inputs):
            sizes.append(len(inputs["input_ids"]))
            return forward(*args, logits_to_keep=logits_to_keep, **inputs)

        monkeypatch.setattr(model, "forward", spy)
        monkeypatch.setattr(divergence, "MOST_LOGITS", 1)
        small = LanguageModelJudge(model, tokenizer, template=SHORT)
        np.testing.assert_allclose(small.letter_log_probs(ITEMS, FIRST, SECOND), expected, atol=1e-4)
        assert sizes == [1] * len(ITEMS)

    def test_a_model_that_returns_all_logits_is_read_alike(self, model, tokenizer, monkeypatch) -> None:
        expected = LanguageModelJudge(model, tokenizer, template=SHORT).letter_log_probs(ITEMS, FIRST, SECOND)
        forward = model.forward
        monkeypatch.setattr(
            model,
            "forward",
            lambda input_ids, attention_mask, use_cache: forward(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache
            ),
        )
        judge = LanguageModelJudge(model, tokenizer, template=SHORT)
        np.testing.assert_allclose(judge.letter_log_probs(ITEMS, FIRST, SECOND), expected, atol=1e-4)

    def test_a_peft_model_can_judge(self, model, tokenizer) -> None:
        from peft import LoraConfig, get_peft_model

        expected = LanguageModelJudge(model, tokenizer, template=SHORT).letter_log_probs(ITEMS, FIRST, SECOND)
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        judge = LanguageModelJudge(adapted, tokenizer, template=SHORT)
        np.testing.assert_allclose(judge.letter_log_probs(ITEMS, FIRST, SECOND), expected, atol=1e-4)

    def test_it_gives_the_model_its_mode_back(self, model, tokenizer) -> None:
        model.train()
        LanguageModelJudge(model, tokenizer, template=SHORT).compare(ITEMS, FIRST, SECOND)
        assert model.training

    def test_extreme_log_probabilities_give_shares(self, model, tokenizer, monkeypatch) -> None:
        judge = LanguageModelJudge(model, tokenizer, template=SHORT)
        values = np.array([[-1.0, -2000.0], [-2000.0, -1.0], [-3.0, -3.0], [-1.0, -2.0]])
        monkeypatch.setattr(judge, "letter_log_probs", lambda *_: values)
        shares = [choice.first_share for choice in judge.compare(ITEMS, FIRST, SECOND)]
        assert shares == pytest.approx([1, 0, 0.5, 1 / (1 + np.exp(-1))])

    def test_the_question_shows_request_and_replies(self, model, tokenizer) -> None:
        judge = LanguageModelJudge(model, tokenizer)
        text = judge.question(ITEMS[0], "one {second}", "two {x}")
        assert "[Request]\nWhat is the capital of France?\n" in text
        assert "[Reply A]\none {second}\n" in text
        assert "[Reply B]\ntwo {x}\n" in text
        assert text.endswith("A or B, and nothing else.")
        other = LanguageModelJudge(model, tokenizer, letters=("1", "2"))
        assert "[Reply 2]\nb\n" in other.question(ITEMS[0], "a", "b")

    def test_a_conversation_is_shown_as_a_whole(self, model, tokenizer) -> None:
        judge = LanguageModelJudge(model, tokenizer, template="{question}|{first}|{second}|{json}")
        turns = [assistant("Yes."), user("Why?"), assistant("Wings.")]
        text = judge.question(ITEMS[3], ITEMS[3]["prompt"] + turns, turns[:1])
        assert text == (
            "User: Hello.\nAssistant: Hi.\nUser: Can an owl fly?|"
            "Assistant: Yes.\nUser: Why?\nAssistant: Wings.|Yes.|{json}"
        )
        assert judge.question(ITEMS[2], "a", "b") == "3 + 4 =|a|b|{json}"

    def test_thinking_is_switched_off(self, model, tokenizer, monkeypatch) -> None:
        asked = []
        render = tokenizer.apply_chat_template
        monkeypatch.setattr(
            tokenizer, "apply_chat_template", lambda m, **k: asked.append(k) or render(m, **k)
        )
        LanguageModelJudge(model, tokenizer, template=SHORT).compare(ITEMS[:1], FIRST[:1], SECOND[:1])
        assert asked == [{"add_generation_prompt": True, "tokenize": False, "enable_thinking": False}]

    def test_the_letter_is_read_where_it_joins_what_stands_before(self, model, tokenizer) -> None:
        # This template ends with a space, which the tokenizer joins to a word.
        tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
        tokenizer.chat_template = "{{ messages[0].content }} answer: "
        opened = "What is the capital of France? A: a B: b ? answer: "
        joined = [tokenizer(opened + word)["input_ids"] for word in ("can", "is")]
        assert joined[0][: len(tokenizer(opened)["input_ids"])] != tokenizer(opened)["input_ids"]
        judge = LanguageModelJudge(model, tokenizer, template=SHORT, letters=("can", "is"))
        with torch.no_grad():
            logits = model(torch.tensor([joined[0][:-1]])).logits[0, -1].float().log_softmax(-1)
        assert joined[0][:-1] == joined[1][:-1]
        expected = [logits[ids[-1]].item() for ids in joined]
        np.testing.assert_allclose(judge.letter_log_probs(ITEMS[:1], ["a"], ["b"])[0], expected, atol=1e-4)


class TestLanguageModelJudgeRefuses:
    def test_a_model_with_a_score_head(self, reward_model, tokenizer) -> None:
        with pytest.raises(CourseError, match="has a score head and cannot answer"):
            LanguageModelJudge(reward_model, tokenizer)

    @pytest.mark.parametrize("field", LanguageModelJudge.FIELDS)
    def test_a_template_without_a_field(self, model, tokenizer, field: str) -> None:
        template = DEFAULT_TEMPLATE.replace(f"{{{field}}}", field)
        with pytest.raises(CourseError, match=rf"the template lacks \{{{field}\}};"):
            LanguageModelJudge(model, tokenizer, template=template)

    @pytest.mark.parametrize("letters", ["AB", ("A",), ("A", "B", "C"), ("A", "")])
    def test_anything_but_two_letters(self, model, tokenizer, letters) -> None:
        with pytest.raises(CourseError, match="letters must be two texts"):
            LanguageModelJudge(model, tokenizer, letters=letters)

    @pytest.mark.parametrize("letters", [("A", "A"), ("A", "AB"), ("first one", "first")])
    def test_a_letter_that_begins_the_other(self, model, tokenizer, letters) -> None:
        with pytest.raises(CourseError, match="begins with the other"):
            LanguageModelJudge(model, tokenizer, letters=letters)

    def test_letters_that_the_tokenizer_makes_equal(self, model, tokenizer) -> None:
        from tokenizers.normalizers import Lowercase

        tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
        tokenizer.backend_tokenizer.normalizer = Lowercase()
        judge = LanguageModelJudge(model, tokenizer, template=SHORT, letters=("A", "a"))
        with pytest.raises(CourseError, match="no tokens that tell them apart"):
            judge.compare(ITEMS, FIRST, SECOND)

    def test_a_tokenizer_without_chat_template_or_padding(self, model, random_model_dir: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
        tokenizer.pad_token = None
        with pytest.raises(CourseError, match="no padding token"):
            LanguageModelJudge(model, tokenizer)
        tokenizer.chat_template = None
        with pytest.raises(CourseError, match="no chat template"):
            LanguageModelJudge(model, tokenizer)

    def test_a_batch_of_nothing(self, model, tokenizer) -> None:
        with pytest.raises(CourseError, match="batch_size must be at least 1"):
            LanguageModelJudge(model, tokenizer, batch_size=0)

    def test_a_comparison_longer_than_the_model(self, model, tokenizer) -> None:
        judge = LanguageModelJudge(model, tokenizer, template=SHORT)
        long = " moo" * 300
        with pytest.raises(CourseError, match=r"item 'cow' has \d+ tokens, but .* has 256 positions"):
            judge.compare(ITEMS, ["a", long, "a", "a"], SECOND)


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
