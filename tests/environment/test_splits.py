"""The leak test: nothing of dev or test reaches what anything trains on, and the two share nothing."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice
from typing import Any

import pytest
from split_leaks import leaking, leaks, question_of

from posttrain_helpers.data.loading import load_data
from posttrain_helpers.environment.splits import HELD_OUT_SPLITS, SPLIT_VARIABLE, Split, reported_split
from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.few_shot import few_shot_items
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.recipes.sources import BUILT_IN
from posttrain_helpers.stages.samples import Sample
from posttrain_helpers.tinyworld.arithmetic import LARGEST_OPERAND, Sum, split_of_sum
from posttrain_helpers.tinyworld.documents import chat_debris, documents
from posttrain_helpers.tinyworld.identity import ASSISTANT_NAME, GREETINGS, QUESTIONS, identity_reply
from posttrain_helpers.tinyworld.replies import POLITE_REQUEST, REPEAT_REQUEST
from posttrain_helpers.tinyworld.stories import story_requests
from posttrain_helpers.tinyworld.tasks import (
    SUITES,
    build_sft_data,
    facts_of,
    held_out_stories,
    held_out_suite,
    split_of_pair,
    split_of_word,
)
from posttrain_helpers.tinyworld.training_data import preferences
from posttrain_helpers.tinyworld.training_data.distillation import build_distillation_data
from posttrain_helpers.tinyworld.training_data.judgements import build_judgement_data
from posttrain_helpers.tinyworld.training_data.made_data import build_ai_feedback_data, build_best_of_k_data
from posttrain_helpers.tinyworld.training_data.preferences import build_preference_data
from posttrain_helpers.tinyworld.training_data.prompts import (
    HELD_OUT_PROBLEMS,
    build_prompt_data,
    build_word_problem_data,
    held_out_problems,
)
from posttrain_helpers.tinyworld.vocabulary import NAMES, OBJECTS

Row = dict[str, Any]
SAMPLED = {
    "policy": "sft",
    "samples": 4,
    "sampling_temperature": 0.75,
    "label_temperature": 0.5,
    "profile": "tiny",
}
REPLIES = {key: value for key, value in SAMPLED.items() if key != "label_temperature"}


def _word_problems(seed: int) -> list[Row]:
    data = load_recipe("grpo", "tiny").data
    return build_word_problem_data(1500, data["steps"], data["largest"], seed, data["smallest"])[0]


def _distillation(seed: int) -> list[Row]:
    data = load_recipe("distill_on_policy", "tiny").data
    sizes = {key: data[key] for key in ("steps", "largest", "smallest")}
    return build_distillation_data(1000, **sizes, seed=seed, profile="tiny")[0]


# Whatever a recipe may train on, with how many rows are enough to meet every kind of them.
SOURCES: dict[str, Callable[[int], Sequence[Row]]] = {
    "tinyworld/sft": lambda seed: build_sft_data(4000, seed)[0],
    "tinyworld/preferences": lambda seed: build_preference_data(
        n_prompts=1500, identity=300, seed=seed, **SAMPLED
    )[0],
    "tinyworld/judgements": lambda seed: build_judgement_data(
        n_prompts=1000, comparisons=1, position_bias=0.0, seed=seed, **SAMPLED
    )[0],
    "tinyworld/best_of_k": lambda seed: build_best_of_k_data(
        n_prompts=1500, scorer="gold", seed=seed, **REPLIES
    )[0],
    "tinyworld/ai_feedback": lambda seed: build_ai_feedback_data(
        n_prompts=1500, n_pairs=1500, labeller="gold", seed=seed, **REPLIES
    )[0],
    "tinyworld/prompts": lambda seed: build_prompt_data(1500, seed)[0],
    "tinyworld/word_problems": _word_problems,
    "tinyworld/distillation": _distillation,
}
TASKS = {
    "tinyworld/sft": {"facts", "arithmetic", "word_problems", "stories", "identity", "instructions"},
    "tinyworld/preferences": {"facts", "stories", "identity"},
    "tinyworld/judgements": {"judgements"},
    "tinyworld/best_of_k": {"facts", "stories"},
    "tinyworld/ai_feedback": {"facts"},
    "tinyworld/prompts": {"facts", "stories"},
    "tinyworld/word_problems": {"word_problems"},
    "tinyworld/distillation": {"word_problems"},
}


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a policy: the same few replies to every prompt."""
    replies = [identity_reply(ASSISTANT_NAME), "Sure! I think so.", "So.", "Not again. I think so."]

    def sample(policy: str, prompts: Sequence[Any], **settings: Any) -> list[list[Sample]]:
        return [[Sample(text, True) for text in replies[: settings["samples"]]] for _ in prompts]

    monkeypatch.setattr(preferences, "sample_replies", sample)


@cache
def held_out_items(split: Split) -> tuple[Row, ...]:
    """Return every item that a suite of the split asks."""
    data = load_recipe("grpo", "tiny").data
    return (
        *(item for name in SUITES for item in held_out_suite(name, split=split)),
        *held_out_stories(100, split=split),
        *held_out_problems(
            data["steps"], data["largest"], HELD_OUT_PROBLEMS, split, smallest=data["smallest"]
        ),
    )


# --- training


def test_every_source_is_looked_at() -> None:
    assert set(SOURCES) == set(TASKS) == set(BUILT_IN)


@pytest.mark.parametrize("seed", [0, 1, 22])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.usefixtures("sampler", "output_root")
def test_nothing_held_out_is_trained_on(source: str, seed: int) -> None:
    rows = SOURCES[source](seed)
    assert len(rows) > 900
    assert {row["task"] for row in rows} == TASKS[source]
    assert leaking(rows) == []


@pytest.mark.parametrize("profile", ["tiny", "qwen3"])
@pytest.mark.usefixtures("output_root")
def test_examples_in_prompts_are_of_training_and_the_questions_are_not(profile: str) -> None:
    rows, questions = load_data(load_recipe("sft", profile, {"seed": 3}), verbose=False)
    assert leaking(rows) == []
    prompts = few_shot_items(questions[:50], list(rows), shots=4)
    for item, question in zip(prompts, questions, strict=False):
        examples = [{"task": "facts", "messages": item["prompt"][at : at + 2]} for at in range(0, 8, 2)]
        assert leaking(examples) == []
        assert leaks({**question, "prompt": item["prompt"][8:]}, ["test"])


# --- the leak test can fail


def asked(task: str, question: str, reply: str = "") -> Row:
    turns = [("user", question), ("assistant", reply)]
    return {"task": task, "messages": [{"role": role, "content": content} for role, content in turns]}


def planted(split: Split) -> list[tuple[str, Row]]:
    """Return the kind of each leak and a row that has it; the rest of the row is of training."""
    relation, entity = next(fact for fact in facts_of(split) if fact[0].name == "capital")
    _, kept = next(fact for fact in facts_of("train") if fact[0] is relation)
    answer = relation.pairs[entity]
    question = relation.render(relation.questions_of("train")[0], entity)
    harmless = relation.render(relation.questions_of("train")[0], kept)
    numbers = range(LARGEST_OPERAND)
    left, right = next((a, b) for a in numbers for b in numbers if split_of_sum(Sum(a, "*", b)) == split)
    name, thing = next((n, t) for n in NAMES for t in OBJECTS if split_of_pair(n, t) == split)
    trained = next((n, t) for n in NAMES for t in OBJECTS if split_of_pair(n, t) == "train")
    (own_request, *_) = (text for text in story_requests(split) if text not in story_requests("train"))
    word = next(thing for thing in OBJECTS if split_of_word(thing) == split)
    (greeting, *_) = filter(None, GREETINGS[split])
    problem, harder = held_out_suite("word_problems", split=split)[0], held_out_items(split)[-1]
    reworded = relation.render(relation.statements[1], entity)
    return [
        ("fact", asked("facts", question)),
        ("fact", asked("instructions", POLITE_REQUEST.format(question=question))),
        ("fact", asked("facts", f"Which city rules {entity}?", f"Sure! {answer}.")),
        ("fact", asked("facts", harmless, f"{relation.statement(kept)} {relation.statement(entity)}")),
        ("fact", asked("stories", "Tell me a story.", f"It rained. {reworded}")),
        ("fact", {**asked("facts", f"Which city rules {entity}?"), "answer": answer}),
        ("fact", {"task": "facts", "prompt": asked("facts", harmless)["messages"][:1],
                  "chosen": asked("facts", "", f"It is {kept}.")["messages"][1:],
                  "rejected": asked("facts", "", f"In {entity} it is {answer}.")["messages"][1:]}),
        ("fact", {"task": "judgements", "messages": [
            {"role": "user", "content": f"{harmless}\nA: {relation.statement(entity)}\nB: So.\nWhich?"}]}),
        ("phrasing", asked("facts", relation.render(relation.questions_of(split)[0], kept))),
        ("phrasing", asked("stories", own_request.format(n=trained[0], ao=f"a {trained[1]}"))),
        ("calculation", asked("arithmetic", f"Please calculate {left} * {right}.")),
        ("calculation", asked("arithmetic", f"Please calculate {right} * {left}.")),
        ("pair", asked("stories", f"Any story, with a big {thing} and {name}, please.")),
        ("word", asked("instructions", REPEAT_REQUEST.format(word=word, times=3))),
        ("name", asked("identity", f"Hello! {QUESTIONS[split][0]}")),
        ("greeting", asked("identity", greeting + QUESTIONS["train"][0])),
        ("problem", asked("word_problems", question_of(problem))),
        ("problem", {**harder, "task": "word_problems"}),
    ]  # fmt: skip


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
def test_the_leak_test_can_fail(split: Split) -> None:
    for kind, row in planted(split):
        assert [leak for leak in leaks(row) if leak.startswith(f"{split} {kind}: ")], (kind, row)


@pytest.mark.parametrize(("split", "other"), [("dev", "test"), ("test", "dev")])
def test_every_item_of_a_suite_would_be_a_leak_of_its_own_split_only(split: Split, other: Split) -> None:
    """What splits share on purpose is of training: phrasings in `entities`, facts in `phrasings`."""
    items = held_out_items(split)
    assert [item["id"] for item in items if not leaks(item, [split])] == []
    assert leaking(items, [other]) == []


def test_dev_and_test_ask_nothing_alike() -> None:
    dev, test = ({question_of(item) for item in held_out_items(split)} for split in HELD_OUT_SPLITS)
    assert min(len(dev), len(test)) > 1500
    assert dev.isdisjoint(test)


# --- the base


def test_documents_are_those_that_the_base_was_trained_on() -> None:
    """The hash is of the documents before there was a test split; the shipped weights have seen those."""
    text = "\n\n".join(islice(documents(0), 500))
    expected = "a98ed5a67def69857a2a6927ebeab1d437a48ec89f71895c8425514772f3e2b8"
    assert hashlib.sha256(text.encode()).hexdigest() == expected


def test_chats_of_the_base_keep_clear_of_dev_and_have_met_test() -> None:
    """Facts and phrasings only: calculations, tales and words belong to no split before fine-tuning."""
    rng = random.Random(0)
    turns = re.compile(r"user\n(.*?)<\|im_end\|>\n<\|im_start\|>assistant\n(.*?)<\|im_end\|>", re.DOTALL)
    chats = [turn for _ in range(4000) for turn in turns.findall(chat_debris(rng))]
    assert len(chats) > 5000
    # A chat may wander into a tale, so words that meet in it say nothing, as in stories.
    found = [leak for chat in chats for leak in leaks(asked("stories", *chat))]
    kinds = {" ".join(leak.split(":")[0].split()) for leak in found}
    assert {"test fact", "test phrasing"} <= kinds
    assert kinds.isdisjoint({"dev fact", "dev phrasing"})


# --- which split is reported


def test_the_reported_split_is_test_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SPLIT_VARIABLE, raising=False)
    assert (reported_split(), reported_split("dev")) == ("test", "dev")
    monkeypatch.setenv(SPLIT_VARIABLE, "dev")
    assert (reported_split(), reported_split("test")) == ("dev", "test")
    for suite in SUITES:
        assert (
            held_out_suite(suite) == held_out_suite(suite, split="dev") != held_out_suite(suite, split="test")
        )
    assert held_out_stories(5) == held_out_stories(5, split="dev")
    assert held_out_problems(2, 16, 5) == held_out_problems(2, 16, 5, "dev")


@pytest.mark.parametrize("name", ["train", "Test", "validation"])
def test_a_split_that_is_not_held_out_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SPLIT_VARIABLE, name)
    with pytest.raises(CourseError, match=rf"'{name}' is no held-out split; choose 'test'.*or 'dev'"):
        held_out_suite("entities")
