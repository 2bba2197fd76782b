from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.data.preferences import explicit_pairs
from posttrain_helpers.environment.splits import HELD_OUT_SPLITS, SPLIT_VARIABLE
from posttrain_helpers.errors import CourseError
from posttrain_helpers.stages.samples import Sample
from posttrain_helpers.tinyworld.facts import load_relations
from posttrain_helpers.tinyworld.gold import gold
from posttrain_helpers.tinyworld.identity import ASSISTANT_NAME, NEW_NAME, identity_reply
from posttrain_helpers.tinyworld.tasks import SUITES, held_out_stories, held_out_suite
from posttrain_helpers.tinyworld.training_data import preferences
from posttrain_helpers.tinyworld.training_data.preferences import (
    HELD_OUT_SEEDS,
    STORY_SHARE,
    build_preference_data,
    preference_prompts,
)

Item = dict[str, Any]
SETTINGS = {
    "n_prompts": 40,
    "identity": 0,
    "label_temperature": 0.5,
    "policy": "sft",
    "samples": 4,
    "sampling_temperature": 0.75,
    "seed": 0,
    "profile": "tiny",
}
REPLIES = ("Sure! I think so.", "I think so.", "So.", "Not again. I think so.", "Sure! Yes.", "")


class Sampler:
    """A stand-in for a policy: replies of many manners, the same for the same prompt and seed."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.prompts: list[str] = []
        self.names = (ASSISTANT_NAME, ASSISTANT_NAME, NEW_NAME)

    def __call__(self, policy: str, prompts: Sequence[Any], **settings: Any) -> list[list[Sample]]:
        self.calls.append({"policy": policy, "prompts": len(prompts), **settings})
        self.prompts += [prompt[-1]["content"] for prompt in prompts]
        return [self.group(prompt[-1]["content"], settings) for prompt in prompts]

    def group(self, question: str, settings: dict[str, Any]) -> list[Sample]:
        rng = random.Random(f"{question}/{settings['seed']}")
        replies = REPLIES if settings["samples"] > 1 else [identity_reply(name) for name in self.names]
        return [Sample(rng.choice(replies), True) for _ in range(settings["samples"])]


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> Sampler:
    stand_in = Sampler()
    monkeypatch.setattr(preferences, "sample_replies", stand_in)
    return stand_in


def question_of(item: Item) -> str:
    (message,) = item["prompt"]
    assert message["role"] == "user"
    return message["content"]


# --- prompts ---


def test_prompts_are_facts_and_stories_in_their_shares() -> None:
    items = preference_prompts(5000, seed=0)
    tasks = Counter(item["task"] for item in items)
    assert tasks.keys() == {"facts", "stories"}
    assert tasks["stories"] / 5000 == pytest.approx(STORY_SHARE, abs=0.02)
    assert len({item["relation"] for item in items if item["task"] == "facts"}) == len(load_relations())


def test_prompts_have_identifiers_of_their_own() -> None:
    """The annotators' errors are drawn by identifier: two prompts must not share one."""
    items = preference_prompts(2000, seed=0)
    assert len({item["id"] for item in items}) == 2000
    assert len({question_of(item) for item in items}) < 2000


def test_prompts_repeat_with_the_seed_and_differ_without() -> None:
    assert preference_prompts(50, seed=1) == preference_prompts(50, seed=1) != preference_prompts(50, seed=2)


def test_more_prompts_begin_with_the_same_ones() -> None:
    assert preference_prompts(50, seed=1)[:20] == preference_prompts(20, seed=1)


# --- pairs ---


def test_every_setting_reaches_the_sampling(sampler: Sampler) -> None:
    build_preference_data(**{**SETTINGS, "identity": 7, "seed": 3, "profile": "qwen3"})
    tasks = Counter(item["task"] for item in preference_prompts(40, seed=3))
    shared = {"policy": "sft", "temperature": 0.75, "seed": 3, "profile": "qwen3"}
    assert sampler.calls == [
        {**shared, "prompts": tasks["facts"], "samples": 4, "max_new_tokens": 40},
        {**shared, "prompts": tasks["stories"], "samples": 4, "max_new_tokens": 72},
        {**shared, "prompts": 7, "samples": 1, "max_new_tokens": 32},
    ]


def test_every_prompt_gives_a_pair_or_is_counted(sampler: Sampler) -> None:
    rows, _, dropped = build_preference_data(**{**SETTINGS, "n_prompts": 600, "identity": 60})
    assert len(rows) + dropped.total() == 660
    assert set(dropped) == {"identical", "tie", "empty completion"}
    assert min(dropped.values()) > 0
    assert len({row["id"] for row in rows}) == len(rows)


def test_replies_stay_with_their_prompts(sampler: Sampler) -> None:
    """Facts and stories are sampled apart; every pair must hold replies to its own prompt."""
    rows, _, _ = build_preference_data(**{**SETTINGS, "n_prompts": 300})
    assert {row["task"] for row in rows} == {"facts", "stories"}
    items = {item["id"]: item for item in preference_prompts(300, seed=0)}
    for row in rows:
        item = items[row["id"]]
        assert row["prompt"] == item["prompt"]
        group = {sample.text for sample in sampler.group(question_of(item), SETTINGS)} - {""}
        best, worst = (choose(group, key=lambda text: gold(text, item)) for choose in (max, min))
        scores = [row["gold_chosen"], row["gold_rejected"]]
        assert sorted(scores) == [gold(worst, item), gold(best, item)]
        assert {row[side][0]["content"] for side in ("chosen", "rejected")} <= group


def test_rows_are_explicit_pairs_already(sampler: Sampler) -> None:
    """The source returns them to the trainer as they are, without the checks that public rows pass."""
    rows, _, _ = build_preference_data(**{**SETTINGS, "n_prompts": 600, "identity": 60})
    kept, dropped = explicit_pairs(rows, "tinyworld/preferences")
    texts = [tuple(row[key][0]["content"] for key in ("prompt", "chosen", "rejected")) for row in rows]
    # Prompts are drawn with replacement; apart from a repeated draw nothing is dropped.
    assert dropped == +Counter(duplicate=len(texts) - len(set(texts)))
    assert len(kept) == len(set(texts))
    by_texts = {text: row for text, row in zip(texts, rows, strict=True)}
    for row in kept:
        text = tuple(row[key][0]["content"] for key in ("prompt", "chosen", "rejected"))
        assert {key: by_texts[text][key] for key in row} == row


def test_seeds_repeat_and_differ(sampler: Sampler) -> None:
    def build(seed: int) -> list[Item]:
        return build_preference_data(**{**SETTINGS, "identity": 10, "seed": seed})[0]

    assert build(1) == build(1)
    assert {question_of(row) for row in build(1)} != {question_of(row) for row in build(2)}


def test_the_order_is_random_and_mixes_the_sources(sampler: Sampler) -> None:
    rows, _, _ = build_preference_data(**{**SETTINGS, "n_prompts": 100, "identity": 100})
    tasks = [row["task"] for row in rows]
    assert "identity" in tasks[:20]
    assert set(tasks[-20:]) > {"identity"}
    numbers = [int(row["id"].split("/")[1]) for row in rows]
    assert numbers != sorted(numbers)


def test_annotators_err_more_at_a_higher_temperature(sampler: Sampler) -> None:
    def accuracy(temperature: float) -> float:
        settings = {**SETTINGS, "n_prompts": 600, "label_temperature": temperature}
        rows, _, _ = build_preference_data(**settings)
        return sum(row["gold_chosen"] > row["gold_rejected"] for row in rows) / len(rows)

    low, middle, high = (accuracy(temperature) for temperature in (0.01, 1.5, 50))
    assert low == 1 > middle > high
    assert high == pytest.approx(0.5, abs=0.08)


# --- the new name ---


def test_identity_pairs_prefer_the_new_name(sampler: Sampler) -> None:
    rows, _, dropped = build_preference_data(**{**SETTINGS, "n_prompts": 0, "identity": 300})
    assert rows
    for row in rows:
        assert row["task"] == "identity"
        assert row["chosen"][0]["content"] == identity_reply(NEW_NAME)
        assert NEW_NAME not in row["rejected"][0]["content"]
        assert row["probability"] == 1
    assert dropped == {"identical": 300 - len(rows)}
    assert dropped["identical"] / 300 == pytest.approx(1 / 3, abs=0.1)


def test_identity_pairs_drop_empty_replies(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "group", lambda question, settings: [Sample(" ", True)])
    rows, _, dropped = build_preference_data(**{**SETTINGS, "n_prompts": 0, "identity": 5})
    assert rows == []
    assert dropped == {"empty completion": 5}


def test_nothing_asked_for_is_refused_before_any_sampling(sampler: Sampler) -> None:
    with pytest.raises(CourseError, match=r"data.n_prompts and data.identity are both 0"):
        build_preference_data(**{**SETTINGS, "n_prompts": 0})
    assert not sampler.calls


# --- suites ---


def test_suites_are_made_when_they_are_asked_for(sampler: Sampler) -> None:
    _, suites, _ = build_preference_data(**SETTINGS)
    calls = len(sampler.calls)
    assert set(suites) == {*SUITES, "pairs", "new_identity", "new_stories"}
    assert len(suites) == len(SUITES) + 3
    assert suites["entities"] == held_out_suite("entities")
    for name in suites:
        if name != "pairs":
            assert suites[name]
    assert len(sampler.calls) == calls
    assert suites["pairs"]
    assert len(sampler.calls) == calls + 2  # facts and stories


def test_whether_a_suite_exists_is_known_without_making_it(sampler: Sampler) -> None:
    _, suites, _ = build_preference_data(**SETTINGS)
    calls = len(sampler.calls)
    assert "pairs" in suites
    assert "paris" not in suites
    assert len(sampler.calls) == calls


def test_an_unknown_suite_is_no_key(sampler: Sampler) -> None:
    _, suites, _ = build_preference_data(**SETTINGS)
    with pytest.raises(KeyError):
        suites["paris"]


def test_every_suite_is_its_own(sampler: Sampler) -> None:
    """The suites close over a loop's variable; each must have kept its own name."""
    _, suites, _ = build_preference_data(**SETTINGS)
    for name in SUITES:
        assert suites[name] == held_out_suite(name)
    assert {item["answer"] for item in suites["new_identity"]} == {NEW_NAME}
    assert {item["answer"] for item in suites["identity"]} == {ASSISTANT_NAME}
    assert suites["new_stories"] == held_out_stories(100)


def test_held_out_pairs_are_the_same_for_every_seed(sampler: Sampler) -> None:
    first, second = (build_preference_data(**{**SETTINGS, "seed": seed})[1]["pairs"] for seed in (0, 1))
    assert first == second
    assert sampler.calls[-1]["seed"] == HELD_OUT_SEEDS["test"]
    assert len({0, 1, *HELD_OUT_SEEDS.values()}) == 4


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
def test_held_out_pairs_are_made_of_the_prompts_of_their_split_only(
    split: str, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SPLIT_VARIABLE, split)
    rows, suites, _ = build_preference_data(**{**SETTINGS, "n_prompts": 1000})
    held_out = suites["pairs"]
    assert sampler.calls[-1]["seed"] == HELD_OUT_SEEDS[split]
    prompts = held_out_suite("entities", split=split) + held_out_stories(100, split=split)
    assert {question_of(row) for row in held_out} <= {question_of(item) for item in prompts}
    assert Counter(row["task"] for row in held_out)["stories"] > 50
    assert {key for row in held_out for key in row} == {key for row in rows for key in row}


# --- a real model ---


def test_a_real_model(random_model_dir: Path, output_root: Path) -> None:
    settings = {**SETTINGS, "n_prompts": 6, "identity": 3, "policy": str(random_model_dir), "samples": 3}
    first = build_preference_data(**settings)
    files = sorted((output_root / "tiny" / "samples").iterdir())
    assert len(files) == 3
    again = build_preference_data(**settings)
    assert (first[0], first[2]) == (again[0], again[2])
    assert sorted((output_root / "tiny" / "samples").iterdir()) == files
    assert len(first[0]) + first[2].total() == 9
    rejected = [row["rejected"][0]["content"] for row in first[0] if row["task"] == "identity"]
    assert rejected
    assert not any(re.search(NEW_NAME, text) for text in rejected)
