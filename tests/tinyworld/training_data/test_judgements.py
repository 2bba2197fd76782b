"""Comparisons as conversations: what annotators lean to, what is held out, what a letter means."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS, SPLIT_VARIABLE, Split
from posttrain_helpers.stages.samples import Sample
from posttrain_helpers.tinyworld.gold import gold
from posttrain_helpers.tinyworld.tasks import SUITES, held_out_stories, held_out_suite
from posttrain_helpers.tinyworld.training_data import preferences
from posttrain_helpers.tinyworld.training_data.judgements import (
    JUDGE_TEMPLATE,
    LETTERS,
    build_judgement_data,
    judge_prompt,
)
from posttrain_helpers.tinyworld.training_data.preferences import (
    HELD_OUT_SEEDS,
    HELD_OUT_STORIES,
    held_out_prompts,
    preference_prompts,
)

SETTINGS = {
    "n_prompts": 300,
    "comparisons": 3,
    "position_bias": 0.0,
    "label_temperature": 0.5,
    "policy": "sft",
    "samples": 4,
    "sampling_temperature": 0.75,
    "seed": 0,
    "profile": "tiny",
}
REPLIES = ("Sure! I think so.", "I think so.", "So.", "Not again. I think so.", "")


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for a policy: the same replies for the same prompt and seed; the list holds its settings."""
    made: list[dict[str, Any]] = []

    def sample(policy: str, prompts: Sequence[Any], **settings: Any) -> list[list[Sample]]:
        made.append({"policy": policy, **settings})

        def group(question: str) -> list[Sample]:
            rng = random.Random(f"{question}/{settings['seed']}")
            return [Sample(rng.choice(REPLIES), True) for _ in range(settings["samples"])]

        return [group(prompt[-1]["content"]) for prompt in prompts]

    monkeypatch.setattr(preferences, "sample_replies", sample)
    return made


def replies_of(text: str) -> tuple[str, str, str]:
    """Take a judge's prompt apart."""
    question, first, second, demand = text.split("\n")
    assert demand == JUDGE_TEMPLATE.split("\n")[-1]
    return question, first.removeprefix("A: "), second.removeprefix("B: ")


def judged(**changes: Any) -> list[tuple[float, str]]:
    """Return for each training row how much better the first reply is, and the letter."""
    rows, _, _ = build_judgement_data(**{**SETTINGS, **changes})
    items = {item["prompt"][-1]["content"]: item for item in preference_prompts(SETTINGS["n_prompts"], 0)}
    found = []
    for row in rows:
        user, assistant = row["messages"]
        question, first, second = replies_of(user["content"])
        found.append((gold(first, items[question]) - gold(second, items[question]), assistant["content"]))
    return found


def test_a_row_is_a_question_with_two_different_replies_and_a_letter() -> None:
    rows, _, dropped = build_judgement_data(**SETTINGS)
    assert all(difference != 0 and letter in LETTERS for difference, letter in judged())
    prompts = [row["id"].rsplit("/", 1)[0] for row in rows]
    assert max(prompts.count(prompt) for prompt in set(prompts)) == 3
    assert len(set(prompts)) + dropped["tie"] == SETTINGS["n_prompts"]
    assert dropped["tie"] > 0  # prompts whose replies are all alike


def test_without_a_leaning_the_better_reply_wins_at_either_place() -> None:
    rows = judged()
    first_is_better = [letter == "A" for difference, letter in rows if difference > 1]
    second_is_better = [letter == "B" for difference, letter in rows if difference < -1]
    assert min(len(first_is_better), len(second_is_better)) > 100
    for right in (first_is_better, second_is_better):
        # The annotators' own error rate, at most sigmoid(-2), and four standard errors.
        expected = 1 / (1 + math.exp(-2))
        assert sum(right) / len(right) > expected - 4 * math.sqrt(0.12 / len(right))


@pytest.mark.parametrize("bias", [2.0, -2.0])
def test_annotators_lean_by_as_many_nats_as_they_are_told(bias: float) -> None:
    """Over all rows the mean chance of "A" is that of the model, within four standard errors."""
    rows = judged(position_bias=bias)
    chances = [1 / (1 + math.exp(-(difference / 0.5 + bias))) for difference, _ in rows]
    error = math.sqrt(sum(p * (1 - p) for p in chances)) / len(rows)
    share = sum(letter == "A" for _, letter in rows) / len(rows)
    assert share == pytest.approx(sum(chances) / len(rows), abs=4 * error)
    unbiased = sum(1 / (1 + math.exp(-difference / 0.5)) for difference, _ in rows) / len(rows)
    assert abs(share - unbiased) > 4 * error  # the test can tell a leaning from none


def test_a_reply_that_was_cut_off_is_worth_less(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the one gains by its manners it loses by its end.
    group = [Sample("Sure! I think so.", False), Sample("I think so.", True)]
    monkeypatch.setattr(preferences, "sample_replies", lambda _, prompts, **__: [group] * len(prompts))
    rows, _, dropped = build_judgement_data(**SETTINGS)
    assert (rows, dropped) == ([], {"tie": SETTINGS["n_prompts"]})


def test_every_setting_reaches_the_sampling(calls: list[dict[str, Any]]) -> None:
    build_judgement_data(**{**SETTINGS, "seed": 3, "profile": "qwen3"})
    shared = {"policy": "sft", "samples": 4, "temperature": 0.75, "seed": 3, "profile": "qwen3"}
    assert calls == [{**shared, "max_new_tokens": limit} for limit in (40, 72)]


def test_the_seed_decides_everything() -> None:
    first, again, other = (build_judgement_data(**{**SETTINGS, "seed": seed})[0] for seed in (0, 0, 1))
    assert first == again != other


def test_the_held_out_answer_is_the_truly_better_reply() -> None:
    _, suites, _ = build_judgement_data(**{**SETTINGS, "position_bias": 2.0})
    assert set(suites) == {*SUITES, "judgements"}
    items = {item["id"]: item for item in held_out_prompts()}
    found = suites["judgements"]
    assert len(found) > 200
    assert len({item["id"] for item in found}) == len(found)  # one of each prompt
    answers = []
    for item in found:
        original = items[item["id"].removeprefix("judgements/")]
        question, first, second = replies_of(item["prompt"][-1]["content"])
        assert question == original["prompt"][-1]["content"]
        better = "A" if gold(first, original) > gold(second, original) else "B"
        assert (item["answer"], item["accepted"]) == (better, [better])
        answers.append(better)
    # The order is a coin's: neither letter is the safe guess.
    assert abs(answers.count("A") / len(answers) - 0.5) < 2 / math.sqrt(len(answers))


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
def test_held_out_comparisons_are_of_the_reported_split(
    split: Split, monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]]
) -> None:
    monkeypatch.setenv(SPLIT_VARIABLE, split)
    _, suites, _ = build_judgement_data(**SETTINGS)
    asked = {replies_of(item["prompt"][-1]["content"])[0] for item in suites["judgements"]}
    assert calls[-1]["seed"] == HELD_OUT_SEEDS[split]
    items = held_out_suite("entities", split=split) + held_out_stories(HELD_OUT_STORIES, split=split)
    assert asked <= {item["prompt"][-1]["content"] for item in items}


def test_replies_are_shown_without_blanks_around_them() -> None:
    item = {"prompt": [{"role": "user", "content": "Why?"}]}
    assert judge_prompt(item, " So. ", "No.\n") == [
        {"role": "user", "content": "Why?\nA: So.\nB: No.\nWhich reply is better?"}
    ]
