"""Ratings of single replies by a language model, against one prompt at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.rater import RATING_TEMPLATE, LanguageModelRater

SHORT = "{question} R: {reply} ?"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


ITEMS = [
    {"id": "france", "prompt": [user("What is the capital of France?")]},
    {"id": "sum", "prompt": "3 + 4 ="},
    {
        "id": "owl",
        "prompt": [user("Hello."), {"role": "assistant", "content": "Hi."}, user("Can an owl fly?")],
    },
    {"id": "again", "prompt": "3 + 4 ="},
]
REPLIES = ["The capital of France is Paris.", "7", "An owl can fly {high}.", "7"]


@pytest.fixture(scope="module")
def tokenizer(random_model_dir: Path):
    return AutoTokenizer.from_pretrained(random_model_dir)


@pytest.fixture
def model(uneven_model):
    return uneven_model


@pytest.mark.parametrize("letters", [("A", "B"), ("Yes", "No")])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_rating_is_the_log_odds_of_the_letters(model, tokenizer, letters, batch_size: int) -> None:
    rater = LanguageModelRater(model, tokenizer, template=SHORT, letters=letters, batch_size=batch_size)

    def slow(item: dict, reply: str) -> float:
        message = [user(rater.question(item, reply))]
        opened = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(opened, add_special_tokens=False)["input_ids"]
        sums = []
        for letter in letters:
            answer = tokenizer(letter, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                log_probs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            steps = [log_probs[len(prompt) - 1 + step, token].item() for step, token in enumerate(answer)]
            sums.append(sum(steps))
        return sums[0] - sums[1]

    expected = [slow(item, reply) for item, reply in zip(ITEMS, REPLIES, strict=True)]
    assert max(map(abs, expected)) > 0.1
    assert rater.ratings(ITEMS, REPLIES) == pytest.approx(expected, abs=1e-4)


def test_equal_texts_have_exactly_equal_ratings(model, tokenizer) -> None:
    ratings = LanguageModelRater(model, tokenizer, template=SHORT).ratings(ITEMS, REPLIES)
    assert ratings[1] == ratings[3]
    assert ratings[0] != ratings[1]
    assert LanguageModelRater(model, tokenizer).ratings([], []) == []


def test_the_message_shows_request_and_reply_as_they_are(model, tokenizer) -> None:
    rater = LanguageModelRater(model, tokenizer)
    message = rater.question(ITEMS[2], REPLIES[2])
    assert "User: Hello.\nAssistant: Hi.\nUser: Can an owl fly?" in message
    assert "[Reply]\nAn owl can fly {high}.\n" in message  # braces of a reply are no fields
    assert rater.question(ITEMS[0], [{"role": "assistant", "content": "Paris."}]).count("Paris.") == 1


@pytest.mark.parametrize("field", ["question", "reply"])
def test_a_template_without_a_field_is_refused(model, tokenizer, field: str) -> None:
    template = RATING_TEMPLATE.replace(f"{{{field}}}", "")
    with pytest.raises(CourseError, match=rf"the template lacks \{{{field}\}}; it needs \{{question\}} and"):
        LanguageModelRater(model, tokenizer, template=template)


def test_a_reward_model_and_a_text_beyond_the_context_are_refused(random_model_dir, model, tokenizer) -> None:
    scorer = AutoModelForSequenceClassification.from_pretrained(random_model_dir, num_labels=1)
    with pytest.raises(CourseError, match="has a score head and cannot answer with a letter"):
        LanguageModelRater(scorer, tokenizer)
    with pytest.raises(CourseError, match=r"item 'sum' has \d+ tokens, but the model of the judge 'mine'"):
        LanguageModelRater(model, tokenizer, name="mine", template=SHORT).ratings(ITEMS[1:2], ["moo " * 300])
