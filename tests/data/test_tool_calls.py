"""Calls of tools as the words that a template writes for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from posttrain_helpers.data.tool_calls import calls_in_words

# As in Qwen's template: a call stands in the assistant's turn, what a tool returns in one of the user's.
TEMPLATE = """\
{% for message in messages %}{% set role = 'user' if message.role == 'tool' else message.role -%}
<|im_start|>{{ role }}
{{ '<result>' + message.content + '</result>' if message.role == 'tool' else message.content or '' -}}
{% for call in message.tool_calls or [] %}<call>CALL</call>{% endfor %}<|im_end|>
{% endfor %}"""
WHOLE_CALL = "{{ call.function | tojson }}"
QUESTION = {"role": "user", "content": "Weather in Rome?"}
ARGUMENTS = {"city": "Rome", "days": [1, 2], "say": 'a "b"', "exact": True}
CALL = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "21 degrees"}
REPLY = {"role": "assistant", "content": "It is warm."}


@pytest.fixture(scope="module")
def tokenizer(random_model_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(random_model_dir)


def in_words(
    messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, call: str = WHOLE_CALL
) -> Any:
    tokenizer.chat_template = TEMPLATE.replace("CALL", call)
    return calls_in_words(messages, tokenizer)


def test_a_call_and_its_result_become_text_that_renders_the_same(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [QUESTION, {**CALLING, "content": "I look it up.", "weight": 0}, RESULT, REPLY]
    found = in_words(messages, tokenizer)
    words = (
        'I look it up.<call>{"name": "weather", "arguments": {"city": "Rome", "days": [1, 2], '
        '"say": "a \\"b\\"", "exact": true}}</call>'
    )
    assert found == [
        QUESTION,
        {"role": "assistant", "content": words, "weight": 0},
        {"role": "user", "content": "<result>21 degrees</result>"},
        REPLY,
    ]
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in (messages, found)]
    assert texts[0] == texts[1]


def test_arguments_may_be_written_as_a_text(tokenizer: PreTrainedTokenizerBase) -> None:
    call = {"function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    calling = {**CALLING, "tool_calls": [call]}
    found = in_words([QUESTION, calling], tokenizer, "{{ call.function.name }} {{ call.function.arguments }}")
    assert found[1]["content"] == '<call>weather {"city": "Rome"}</call>'


@pytest.mark.parametrize(
    "call",
    [
        "",
        "{{ call.function.name }}",
        "{{ call.function.arguments | tojson }}",
        "{{ call.function.name }} {{ call.function.arguments.city }}",
        "{{ call.function.name }} {{ call.function.arguments.values() | list | tojson }}",
        "{{ raise_exception('no tools') }}",
    ],
    ids=["nothing", "the name only", "the arguments only", "one argument only", "the values only", "refused"],
)
def test_a_template_that_leaves_something_out_changes_nothing(
    call: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    messages = [QUESTION, CALLING]
    assert in_words(messages, tokenizer, call) is messages


def test_words_that_the_template_would_write_otherwise_change_nothing(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    escaped = "(message.content or '') | replace('<', '(')"
    tokenizer.chat_template = TEMPLATE.replace("message.content or ''", escaped).replace("CALL", WHOLE_CALL)
    messages = [QUESTION, CALLING]
    assert "<call>" in tokenizer.apply_chat_template(messages, tokenize=False)
    assert calls_in_words(messages, tokenizer) is messages


@pytest.mark.parametrize(
    "messages",
    [
        [QUESTION, {**CALLING, "tool_calls": [1]}],
        [QUESTION, {**CALLING, "tool_calls": [{"function": {"arguments": {}}}]}],
        [QUESTION, {**CALLING, "tool_calls": [{"function": {"name": "f", "arguments": "{broken"}}]}],
        [QUESTION, CALLING, {"role": "tool", "content": 21}],
        [QUESTION, CALLING, {"role": "observation", "content": "21 degrees"}],
        [QUESTION, CALLING, {"role": "assistant", "content": None}],
        [QUESTION, REPLY],
        [QUESTION, "no message"],
        "no messages",
    ],
)
def test_what_is_no_usual_call_stays_as_it_was(messages: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    assert in_words(messages, tokenizer) is messages


def test_a_tokenizer_without_a_template_writes_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = None
    messages = [QUESTION, CALLING]
    assert calls_in_words(messages, tokenizer) is messages
