"""Dialogues of several turns: what the model sees in each, and what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.evaluation.runner import _answers
from posttrain_helpers.evaluation.suites.suite import Suite
from posttrain_helpers.generation.decoding import generate
from posttrain_helpers.stages.loading import load_model_and_tokenizer


@pytest.fixture(scope="module")
def loaded(random_model_dir: Path) -> tuple[Any, Any]:
    return load_model_and_tokenizer(random_model_dir, verbose=False)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def of(items: list[dict[str, Any]], max_new_tokens: int) -> Suite:
    return Suite("talk", "talk", tuple(items), "correct", {}, max_new_tokens)


def test_each_turn_is_answered_with_the_earlier_ones_in_view(loaded: tuple[Any, Any]) -> None:
    items = [
        {"id": "two", "prompt": [user("What is 3 + 4?")], "follow_ups": ["And 4 + 3?"]},
        {"id": "one", "prompt": [user("A cow says")]},
        {"id": "three", "prompt": [user("What is")], "follow_ups": ["Who is", "The end"]},
    ]
    transcripts, generations = _answers(*loaded, of(items, 5), batch_size=2)
    assert [[message["role"] for message in one] for one in transcripts] == [
        ["user", "assistant"] * 2,
        ["user", "assistant"],
        ["user", "assistant"] * 3,
    ]
    assert [one[-1]["content"] for one in transcripts] == [reply.text for reply in generations]
    for item, transcript in zip(items, transcripts, strict=True):
        asked = [message["content"] for message in transcript if message["role"] == "user"]
        assert asked == [item["prompt"][0]["content"], *item.get("follow_ups", [])]
        for end in range(1, len(transcript), 2):
            (expected,) = generate(*loaded, [transcript[:end]], max_new_tokens=5)
            assert transcript[end]["content"] == expected.text
    assert "follow_ups" not in items[1]
    assert items[0]["prompt"] == [user("What is 3 + 4?")]


def test_items_without_follow_ups_are_generated_as_ever(loaded: tuple[Any, Any]) -> None:
    items = [{"id": "a", "prompt": [user("What is")], "follow_ups": []}, {"id": "b", "prompt": "A cow"}]
    transcripts, generations = _answers(*loaded, of(items, 4), batch_size=2)
    assert generations == generate(*loaded, [i["prompt"] for i in items], max_new_tokens=4, batch_size=2)
    assert transcripts[1][0] == user("A cow")
