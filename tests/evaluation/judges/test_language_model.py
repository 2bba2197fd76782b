"""Language models as judges of pairs, against one prompt at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from judged_items import FIRST, ITEMS, SECOND, assistant, user
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges import language_model
from posttrain_helpers.evaluation.judges.language_model import LanguageModelJudge
from posttrain_helpers.generation.decoding import Generation

SHORT = "{question} A: {first} B: {second} ?"


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
    """The log-probability of a letter's first token, which is not the prompt's, one prompt at a time."""
    opened = tokenizer.apply_chat_template([user(question)], add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(opened, add_special_tokens=False)["input_ids"]
    answer = tokenizer(letter, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        return model(torch.tensor([prompt])).logits[0, -1].float().log_softmax(-1)[answer[0]].item()


class TestLanguageModelJudge:
    @pytest.mark.parametrize("letters", [("A", "B"), ("A cow", "Paris is"), ("B", "owl can fly")])
    @pytest.mark.parametrize("batch_size", [1, 3, 32])
    def test_it_equals_one_prompt_at_a_time(
        self, model, tokenizer, letters, batch_size: int, monkeypatch
    ) -> None:
        monkeypatch.setattr(language_model, "_BATCH_SIZE", batch_size)
        judge = LanguageModelJudge(model, tokenizer, template=SHORT, letters=letters)
        log_probs = judge.letter_log_probs(ITEMS, FIRST, SECOND)
        expected = [
            [slow_log_prob(model, tokenizer, judge.question(*pair), letter) for letter in letters]
            for pair in zip(ITEMS, FIRST, SECOND, strict=True)
        ]
        np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-4)
        assert np.std(log_probs[:, 0]) > 0.01  # the random model does look at the prompt

    def test_both_orders_are_the_log_odds_of_the_left_reply(self, model, tokenizer) -> None:
        judge = LanguageModelJudge(model, tokenizer, template=SHORT)
        shown_first, shown_second = judge.both_orders(ITEMS, FIRST, SECOND)
        for shown, pair, sign in ((shown_first, (FIRST, SECOND), 1), (shown_second, (SECOND, FIRST), -1)):
            log_probs = judge.letter_log_probs(ITEMS, *pair)
            np.testing.assert_allclose(shown, sign * (log_probs[:, 0] - log_probs[:, 1]))

    def test_a_beginning_that_both_letters_share_counts_for_neither(self, model, tokenizer) -> None:
        letters = ("[[A]]", "[[B]]")
        tokens = [tokenizer(letter)["input_ids"] for letter in letters]
        assert tokens[0][0] == tokens[1][0]
        judge = LanguageModelJudge(model, tokenizer, template=SHORT, letters=letters)
        other = next(place for place, (a, b) in enumerate(zip(*tokens, strict=True)) if a != b)
        row, letters = judge._encode(judge.question(ITEMS[0], FIRST[0], SECOND[0]))
        assert (list(row[-other:]), letters) == (tokens[0][:other], [found[other] for found in tokens])
        with torch.no_grad():
            logits = model(torch.tensor([row])).logits[0, -1].float().log_softmax(-1)
        expected = [logits[letter].item() for letter in letters]
        np.testing.assert_allclose(judge.letter_log_probs(ITEMS, FIRST, SECOND)[0], expected, atol=1e-4)

    def test_a_pair_that_is_asked_twice_is_read_once(self, model, tokenizer) -> None:
        judge = LanguageModelJudge(model, tokenizer, template=SHORT)
        once = judge.letter_log_probs(ITEMS, FIRST, SECOND)
        twice = judge.letter_log_probs([*ITEMS, *ITEMS], [*FIRST, *FIRST], [*SECOND, *SECOND])
        assert (twice == np.concatenate([once, once])).all()

    def test_only_the_logits_of_the_answer_are_made(self, model, tokenizer, monkeypatch) -> None:
        made = []
        forward = model.forward

        def spy(input_ids=None, attention_mask=None, position_ids=None, logits_to_keep=0, use_cache=None):
            outputs = forward(
                input_ids, attention_mask, position_ids, logits_to_keep=logits_to_keep, use_cache=use_cache
            )
            made.append(outputs.logits.shape[:2])
            return outputs

        monkeypatch.setattr(model, "forward", spy)
        monkeypatch.setattr(language_model, "_BATCH_SIZE", 3)
        LanguageModelJudge(model, tokenizer, template=SHORT).letter_log_probs(ITEMS, FIRST, SECOND)
        assert made == [(3, 1), (1, 1)]

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

    def test_half_precision_is_widened_first(self, model, tokenizer) -> None:
        judge = LanguageModelJudge(model.bfloat16(), tokenizer, template=SHORT)
        prompt, letters = judge._encode(judge.question(ITEMS[0], FIRST[0], SECOND[0]))
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)
        found = judge.letter_log_probs(ITEMS[:1], FIRST[:1], SECOND[:1])
        assert found[0].tolist() == pytest.approx([logits[token].item() for token in letters], rel=1e-5)

    def test_dropout_is_off(self, model, tokenizer) -> None:
        judge = LanguageModelJudge(model, tokenizer, template=SHORT)
        expected = judge.letter_log_probs(ITEMS, FIRST, SECOND)
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.9
        model.train()
        np.testing.assert_allclose(judge.letter_log_probs(ITEMS, FIRST, SECOND), expected, atol=1e-4)

    def test_it_gives_the_model_its_mode_back(self, model, tokenizer) -> None:
        model.train()
        LanguageModelJudge(model, tokenizer, template=SHORT).letter_log_probs(ITEMS, FIRST, SECOND)
        assert model.training

    def test_the_question_shows_request_and_replies(self, model, tokenizer) -> None:
        judge = LanguageModelJudge(model, tokenizer, template=SHORT)
        text = judge.question(ITEMS[0], "one {second}", "two {x}")
        assert text == "What is the capital of France? A: one {second} B: two {x} ?"

    def test_a_conversation_is_shown_as_a_whole(self, model, tokenizer) -> None:
        judge = LanguageModelJudge(model, tokenizer, template="{question}|{first}|{second}|{json}")
        text = judge.question(ITEMS[3], "Wings.", "Yes.")
        assert text == "User: Hello.\nAssistant: Hi.\nUser: Can an owl fly?|Wings.|Yes.|{json}"
        assert judge.question(ITEMS[2], "a", "b") == "3 + 4 =|a|b|{json}"

    def test_thinking_is_switched_off(self, model, tokenizer, monkeypatch) -> None:
        asked = []
        render = tokenizer.apply_chat_template
        monkeypatch.setattr(
            tokenizer, "apply_chat_template", lambda m, **k: asked.append(k) or render(m, **k)
        )
        LanguageModelJudge(model, tokenizer, template=SHORT).letter_log_probs(
            ITEMS[:1], FIRST[:1], SECOND[:1]
        )
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
            LanguageModelJudge(reward_model, tokenizer, template=SHORT)

    @pytest.mark.parametrize("field", ["question", "first", "second"])
    def test_a_template_without_a_field(self, model, tokenizer, field: str) -> None:
        template = SHORT.replace(f"{{{field}}}", field)
        with pytest.raises(CourseError, match=rf"the template lacks \{{{field}\}};"):
            LanguageModelJudge(model, tokenizer, template=template)

    @pytest.mark.parametrize("letters", ["AB", ("A",), ("A", "B", "C"), ("A", "")])
    def test_anything_but_two_letters(self, model, tokenizer, letters) -> None:
        with pytest.raises(CourseError, match="letters must be two texts"):
            LanguageModelJudge(model, tokenizer, template=SHORT, letters=letters)

    @pytest.mark.parametrize("letters", [("A", "A"), ("A", "AB"), ("first one", "first")])
    def test_a_letter_that_begins_the_other(self, model, tokenizer, letters) -> None:
        with pytest.raises(CourseError, match="begins with the other"):
            LanguageModelJudge(model, tokenizer, template=SHORT, letters=letters)

    def test_letters_that_the_tokenizer_makes_equal(self, model, tokenizer) -> None:
        from tokenizers.normalizers import Lowercase

        tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
        tokenizer.backend_tokenizer.normalizer = Lowercase()
        judge = LanguageModelJudge(model, tokenizer, template=SHORT, letters=("A", "a"))
        with pytest.raises(CourseError, match="no tokens that tell them apart"):
            judge.letter_log_probs(ITEMS, FIRST, SECOND)

    def test_a_tokenizer_without_chat_template_or_padding(self, model, random_model_dir: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
        tokenizer.pad_token = None
        with pytest.raises(CourseError, match="no padding token"):
            LanguageModelJudge(model, tokenizer, template=SHORT)
        tokenizer.chat_template = None
        with pytest.raises(CourseError, match="no chat template"):
            LanguageModelJudge(model, tokenizer, template=SHORT)

    def test_a_comparison_longer_than_the_model(self, model, tokenizer) -> None:
        judge = LanguageModelJudge(model, tokenizer, template=SHORT)
        long = " moo" * 300
        with pytest.raises(CourseError, match=r"item 'cow' has \d+ tokens, but .* has 256 positions"):
            judge.letter_log_probs(ITEMS, ["a", long, "a", "a"], SECOND)

    @pytest.mark.parametrize(
        ("items", "first", "second"), [([], [], []), (ITEMS, FIRST[:3], SECOND), (ITEMS, FIRST, SECOND[:1])]
    )
    def test_lists_that_do_not_fit(self, model, tokenizer, items, first, second) -> None:
        with pytest.raises(CourseError, match="two replies for each item"):
            LanguageModelJudge(model, tokenizer, template=SHORT).letter_log_probs(items, first, second)

    @pytest.mark.parametrize(
        ("first", "second", "message"),
        [
            ("a", ["b"], r"write \[reply\]"),
            (
                ["a"],
                [Generation("text", (1,), "stop")],
                "a Generation was found for item 'france'; .* its text",
            ),
            ([[assistant("a")]], ["a"], "a list was found for item 'france'"),
        ],
    )
    def test_replies_of_another_form(self, model, tokenizer, first, second, message: str) -> None:
        with pytest.raises(CourseError, match=message):
            LanguageModelJudge(model, tokenizer, template=SHORT).letter_log_probs(ITEMS[:1], first, second)

    @pytest.mark.parametrize("prompt", [None, 3, [], [{"role": "user"}]])
    def test_a_prompt_of_another_form(self, model, tokenizer, prompt) -> None:
        with pytest.raises(CourseError, match="the prompt of item 'odd' must be"):
            LanguageModelJudge(model, tokenizer, template=SHORT).letter_log_probs(
                [{"id": "odd", "prompt": prompt}], ["a"], ["b"]
            )
