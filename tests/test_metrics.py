"""Verifiers against the traps of substring and string equality; losses against the model's own loss."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.likelihood import text_losses
from posttrain_helpers.metrics import (
    distinct_n,
    last_number,
    lenient_match,
    numbers_equal,
    repetition_rate,
    strict_match,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 72.", "72"),
        ("72.0", "72"),
        ("It costs $72", "72"),
        ("It costs $1,000.50.", "1000.5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("= -3", "-3"),
        ("\u22129", "-9"),
        ("10-3", "3"),
        ("(7 + 5)-3", "3"),
        ("50%-3", "3"),
        ("5-7", "7"),
        ("10 - 3 = 7", "7"),
        ("is .5", "0.5"),
        ("1,2,3", "3"),
        ("1,234,567", "1234567"),
        ("1,0005", "5"),
        ("1e3", "1000"),
        ("72%", "72"),
        ("72 kg", "72"),
        ("72kg", "72"),
        (r"\boxed{72}", "72"),
        ("**72**", "72"),
        ("Said 3.Then 4", "4"),
        ("first 72, then 19", "19"),
        ("9" * 6000, "9" * 6000),
    ],
)
def test_last_number(text: str, number: str) -> None:
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "H2O", "gpt2", "-", "$", "."])
def test_no_number(text: str) -> None:
    assert last_number(text) is None


@pytest.mark.parametrize("text", ["72", "72.0", "72.", "$72", " 72 ", "72%", "072", 72, 72.0])
def test_the_same_number_in_many_forms(text: object) -> None:
    assert numbers_equal(text, 72)
    assert numbers_equal("72.00", text)


@pytest.mark.parametrize(
    "text", ["720", "7.2", "-72", "72 apples", "seventy-two", "", "nan", math.nan, "72 73"]
)
def test_not_the_same_number(text: object) -> None:
    assert not numbers_equal(text, 72)
    assert not numbers_equal(72, text)


def test_large_numbers_are_compared_exactly() -> None:
    assert not numbers_equal("10000000000000001", "10000000000000000")


@pytest.mark.parametrize("reply", ["9", "It is 9.", "4 + 5 = 9", "$9", "9.0", "9 legs", "Nine, that is 9!"])
def test_lenient_number_accepts(reply: str) -> None:
    for answer in ("9", 9, "9.0"):
        assert lenient_match(reply, {"answer": answer}) is True


@pytest.mark.parametrize(
    "reply", ["19", "It is 19.", "90", "9 or 10", "-9", "0.9", "nine", "", "9.5", "1,009"]
)
def test_lenient_number_refuses(reply: str) -> None:
    assert lenient_match(reply, {"answer": "9"}) is False


@pytest.mark.parametrize("reply", ["72.0", "72.", "$72", "The answer is 72", "#### 72", "-> 72.00"])
def test_the_forms_that_string_equality_rejects(reply: str) -> None:
    assert lenient_match(reply, {"answer": "72"})


@pytest.mark.parametrize(
    ("reply", "answer", "expected"),
    [
        ("The capital is paris.", "Paris", True),
        ("PARIS!", "Paris", True),
        ("Parisian", "Paris", False),
        ("comparison", "Paris", False),
        ("It says moo.", "moo", True),
        ("It says mooo.", "moo", False),
        ("It is New\nYork.", "New York", True),
        ("It is Newer York.", "New York", False),
        ("Sa\u0303o Paulo", "S\u00e3o Paulo", True),
        ("C++ of course", "C++", True),
        ("It is 13/4", "3/4", False),
        ("It is 3/4", "3/4", True),
        ("", "Paris", False),
        ("Parisians love Paris.", "Paris", True),  # the second place is looked at as well
        ("\u0e01\u0e19", "\u0e01", True),
        ("\u0e01\u0e34\u0e19", "\u0e01", False),  # a vowel sign belongs to the letter before it
    ],
)
def test_lenient_words(reply: str, answer: str, expected: bool) -> None:
    assert lenient_match(reply, {"answer": answer}) is expected


def test_an_item_without_an_answer_is_not_scored() -> None:
    assert lenient_match("anything", {"answer": None}) is None
    assert lenient_match("anything", {}) is None
    assert strict_match("anything", {"accepted": []}) is None
    assert strict_match("anything", {"answer": "x"}) is None


@pytest.mark.parametrize("answer", ["  ", "\u200b"])
def test_an_empty_answer_is_refused(answer: str) -> None:
    with pytest.raises(CourseError, match="answer of an item is empty"):
        lenient_match("anything", {"answer": answer})


def test_strict_match_wants_a_complete_reply() -> None:
    item = {"answer": "Paris", "accepted": ["The capital of France is Paris.", "Paris."]}
    assert strict_match(" Paris.\n", item) is True
    assert strict_match("Paris", item) is False
    assert strict_match("paris.", item) is False
    assert strict_match("The capital of France is Paris. And", item) is False


def test_strict_match_refuses_one_string() -> None:
    with pytest.raises(CourseError, match="must be a list"):
        strict_match("Par", {"accepted": "Paris."})


def test_repetition_rate_by_hand() -> None:
    assert repetition_rate("a b c d e f") == 0.0
    assert repetition_rate("a b a b a b") == pytest.approx(1 - 2 / 4)
    assert repetition_rate("la " * 100) == pytest.approx(1 - 1 / 98)
    assert repetition_rate("a b") == repetition_rate("") == 0.0


def test_distinct_n_pools_the_texts() -> None:
    assert distinct_n(["a b c", "a b d"], n=2) == pytest.approx(3 / 4)
    assert distinct_n(["a b", "a b"], n=1) == pytest.approx(1 / 2)
    assert distinct_n(["", "a"], n=2) == 0.0


TEXTS = ["The capital of France is Paris.", "A cow says moo.", "3 + 4 = 7. An owl can fly. user asks."]


@pytest.fixture(scope="module")
def model_and_tokenizer(random_model_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(random_model_dir), AutoTokenizer.from_pretrained(
        random_model_dir
    )


def test_a_large_vocabulary_takes_fewer_texts_at_a_time(
    model_and_tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain_helpers.generation import likelihood as divergence

    model, tokenizer = model_and_tokenizer
    expected = text_losses(model, tokenizer, TEXTS)
    longest = max(len(ids) for ids in tokenizer(TEXTS)["input_ids"])
    monkeypatch.setattr(divergence, "MOST_LOGITS", 16 * 2 * longest * model.config.vocab_size)
    sizes = []
    hook = model.register_forward_hook(lambda module, args, output: sizes.append(output.logits.shape[0]))
    losses = text_losses(model, tokenizer, TEXTS)
    hook.remove()
    assert max(sizes) == 2 < len(TEXTS)
    assert [tokens for _, tokens in losses] == [tokens for _, tokens in expected]
    assert [loss for loss, _ in losses] == pytest.approx([loss for loss, _ in expected], rel=1e-4)


def test_text_losses_equal_the_models_own_loss(model_and_tokenizer) -> None:
    import torch

    model, tokenizer = model_and_tokenizer
    expected = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            mean = model(input_ids=ids, labels=ids).loss.item()
        expected.append((mean * (ids.shape[1] - 1), ids.shape[1] - 1))
    for batch_size in (1, 2, 16):
        losses = text_losses(model, tokenizer, TEXTS, batch_size)
        assert [count for _, count in losses] == [count for _, count in expected]
        assert [total for total, _ in losses] == pytest.approx([total for total, _ in expected], rel=1e-4)


def test_text_losses_restore_the_mode_and_leave_the_tokenizer(model_and_tokenizer) -> None:
    model, tokenizer = model_and_tokenizer
    model.eval()
    expected = text_losses(model, tokenizer, TEXTS)
    assert not model.training
    model.train()
    tokenizer.padding_side = "left"
    again = text_losses(model, tokenizer, TEXTS, batch_size=2)
    assert model.training
    assert tokenizer.padding_side == "left"
    assert [loss for loss, _ in again] == pytest.approx([loss for loss, _ in expected], rel=1e-4)


def test_dropout_does_not_reach_the_losses(model_and_tokenizer) -> None:
    import copy

    model, tokenizer = copy.deepcopy(model_and_tokenizer[0]), model_and_tokenizer[1]
    expected = text_losses(model, tokenizer, TEXTS)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    for found, loss in zip(text_losses(model, tokenizer, TEXTS), expected, strict=True):
        assert found == pytest.approx(loss, rel=1e-6)


def test_half_precision_is_widened_before_the_losses(model_and_tokenizer) -> None:
    import copy

    import torch

    model, tokenizer = copy.deepcopy(model_and_tokenizer[0]).bfloat16(), model_and_tokenizer[1]
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(30)  # tied: logits that differ
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    expected = -log_probs.gather(1, ids[0, 1:, None]).sum().item()
    ((loss, _),) = text_losses(model, tokenizer, TEXTS[:1])
    # bfloat16 has 8 bits: a loss that is computed in it is off by 1e-3 or more.
    assert loss == pytest.approx(expected, rel=1e-5)


def test_a_uniform_model_loses_the_log_of_the_vocabulary_at_each_token(model_and_tokenizer) -> None:
    import copy

    import torch

    model, tokenizer = model_and_tokenizer
    uniform = copy.deepcopy(model)
    with torch.no_grad():
        uniform.get_input_embeddings().weight.zero_()  # tied: every logit is 0
    for loss, tokens in text_losses(uniform, tokenizer, TEXTS):
        assert loss / tokens == pytest.approx(math.log(uniform.config.vocab_size), rel=1e-4)


def test_text_losses_guards(model_and_tokenizer) -> None:
    import copy

    import torch

    model, tokenizer = model_and_tokenizer
    with pytest.raises(CourseError, match="found 0 texts"):
        text_losses(model, tokenizer, [])
    with pytest.raises(CourseError, match="found one string"):
        text_losses(model, tokenizer, "one text")
    with pytest.raises(CourseError, match="from 2 to 256 tokens; found 0"):
        text_losses(model, tokenizer, ["", TEXTS[0]])
    with pytest.raises(CourseError, match="from 2 to 256 tokens"):
        text_losses(model, tokenizer, ["owl " * 400])
    with pytest.raises(CourseError, match="batch_size=0"):
        text_losses(model, tokenizer, TEXTS, batch_size=0)
    padless = copy.deepcopy(tokenizer)
    padless.pad_token = None
    with pytest.raises(CourseError, match="no padding token"):
        text_losses(model, padless, TEXTS)
    diverged = copy.deepcopy(model)
    with torch.no_grad():
        diverged.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(CourseError, match="loss of 3 of 3 texts is not finite"):
        text_losses(diverged, tokenizer, TEXTS)
