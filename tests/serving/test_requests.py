"""Requests that the served model cannot answer as they are meant: one sentence each."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from posttrain_helpers.environment.profiles import get_profile
from posttrain_helpers.serving.requests import request_fault

QUESTION = {"role": "user", "content": "What is the capital of France?"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(get_profile("tiny").model_named("base"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0, "top_p": 1.0, "max_tokens": 5, "stream": True, "seed": 3},
        {"temperature": None, "max_completion_tokens": 20},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}]},
    ],
)
def test_what_openais_client_sends_passes(changes: dict[str, Any], tokenizer: Any) -> None:
    assert request_fault({"model": "sft", "messages": [QUESTION]} | changes, tokenizer, 64) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"messages": []}, "messages is missing or empty"),
        ({"messages": None}, "messages is missing or empty"),
        ({"messages": "Hi."}, "messages must be a list of {'role': system|user|assistant, 'content': text}"),
        ({"messages": [{"role": "robot", "content": "Hi."}]}, "messages must be a list of"),
        ({"messages": [{"role": "developer", "content": "Be brief."}, QUESTION]}, "messages must be a list"),
        ({"messages": [{"role": "human", "content": "Hi."}]}, "messages must be a list of"),
        ({"messages": [{"from": "human", "value": "Hi."}]}, "messages must be a list of"),
        ({"messages": ["Hi."]}, "messages must be a list of"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "messages hold half a character"),
        ({"messages": [{"role": "user", "content": None}]}, "messages must be a list of"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages must be a list of"),
        ({"temperature": -1}, "temperature must be a number of at least 0, but it is -1"),
        ({"temperature": float("nan")}, "temperature must be a number of at least 0, but it is nan"),
        ({"temperature": "hot"}, "temperature must be a number of at least 0, but it is 'hot'"),
        ({"top_p": 1.5}, "top_p must be a number of at least 0 and at most 1, but it is 1.5"),
        ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1, but it is 0"),
        ({"max_tokens": True}, "max_tokens must be a whole number of at least 1, but it is True"),
        ({"max_completion_tokens": 2.5}, "max_completion_tokens must be a whole number of at least 1"),
        ({"messages": [{"role": "user", "content": "Why? " * 40}]}, "but the model has 64 positions in all"),
        ({"max_tokens": 60}, "tokens and 60 new ones are asked for, but the model has 64 positions in all"),
    ],
)
def test_a_fault_is_one_sentence(changes: dict[str, Any], sentence: str, tokenizer: Any) -> None:
    assert sentence in request_fault({"messages": [QUESTION]} | changes, tokenizer, 64)


def test_messages_and_reply_may_fill_every_position(tokenizer: Any) -> None:
    opened = tokenizer.apply_chat_template([QUESTION], add_generation_prompt=True, return_dict=True)
    tokens = len(opened["input_ids"])
    for limits, most in (
        ({}, 1),
        ({"temperature": 20.0}, 1),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 3}, 7),
    ):
        asked = {"messages": [QUESTION], **limits}
        assert request_fault(asked, tokenizer, tokens + most) is None, limits
        fault = request_fault(asked, tokenizer, tokens + most - 1)
        assert f"have {tokens} tokens and {most} new ones are asked for" in fault


def test_parts_are_counted_as_the_server_joins_them(tokenizer: Any) -> None:
    def fault(content: object) -> str | None:
        return request_fault({"messages": [{"role": "user", "content": content}]}, tokenizer, 8)

    parts = [{"type": "text", "text": text} for text in ("What is", "the capital", "of France?")]
    assert fault(parts) == fault("What is the capital of France?") != fault("What isthe capitalof France?")


def test_a_model_without_a_limit_and_a_template_that_refuses(tokenizer: Any) -> None:
    assert request_fault({"messages": [QUESTION], "max_tokens": 10**6}, tokenizer, None) is None
    refusing = AutoTokenizer.from_pretrained(get_profile("tiny").model_named("base"))
    refusing.chat_template = "{{ raise_exception('no system turn') }}"
    fault = request_fault({"messages": [QUESTION]}, refusing, 64)
    assert fault == "the model's chat template refuses these messages: no system turn"
