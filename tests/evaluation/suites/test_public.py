"""The suites of profiles with public data: what they ask, how they score, and that a board reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shrunken_qwen3 import HELD_OUT, REPLY_TOKENS, environment, write_rows

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.board.board import Board
from posttrain_helpers.evaluation.judges.by_score import ScoreJudge
from posttrain_helpers.evaluation.judges.quality import Quality
from posttrain_helpers.evaluation.records import read_records
from posttrain_helpers.evaluation.runner import evaluate
from posttrain_helpers.evaluation.suites.public import (
    public_suites,
    right_number,
    says_first_name,
    says_new_name,
)
from posttrain_helpers.evaluation.suites.suite import Suite

NAMES = ["facts", "instructions_en", "dialogues_en", "refusals_en", "problems", "identity", "preference"]


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A shrunken Qwen3 and rows in the place of the public sets."""
    return environment(tmp_path_factory.mktemp("shrunken"))


@pytest.fixture
def world(variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The profile qwen3 with that model and these rows, and an output directory of its own."""
    for name, value in {**variables, "POSTTRAIN_OUTPUT": str(tmp_path / "output")}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def override(world: pytest.MonkeyPatch, variables: dict[str, str], text: str) -> None:
    """Lay one more change over the recipes."""
    world.setenv("POSTTRAIN_OVERRIDES", f"{variables['POSTTRAIN_OVERRIDES']} {text}")


def by_length(label: str = "length", calls: list[int] | None = None) -> Quality:
    """A measure that takes the longer reply for the better one, and notes how many replies it is given."""

    def score_all(items: Any, replies: Any) -> list[float]:
        if calls is not None:
            calls.append(len(replies))
        return [float(len(reply)) for reply in replies]

    return Quality("rating", label, False, score_all)


def named(suites: list[Suite]) -> dict[str, Suite]:
    return {suite.name: suite for suite in suites}


class TestWhatIsAsked:
    def test_every_skill_has_a_suite(self, world: pytest.MonkeyPatch) -> None:
        suites = public_suites("qwen3", quality=by_length())
        assert [suite.name for suite in suites] == NAMES
        assert [suite.kind for suite in suites] == ["correctness"] * 6 + ["preference"]
        asked = named(suites)
        assert len(asked["facts"].items) == len(asked["problems"].items) == HELD_OUT
        assert all(item["accepted"] for item in asked["facts"].items)
        assert len(asked["preference"].items) == HELD_OUT
        assert 0 < len(asked["identity"].items) < HELD_OUT  # the other pairs teach no name

    def test_replies_are_as_long_as_in_training(
        self, world: pytest.MonkeyPatch, variables: dict[str, str]
    ) -> None:
        assert {suite.max_new_tokens for suite in public_suites("qwen3", quality=by_length())} == {
            REPLY_TOKENS
        }
        override(world, variables, "ppo.args.max_completion_length=100 grpo.args.max_completion_length=300")
        lengths = {suite.name: suite.max_new_tokens for suite in public_suites("qwen3", quality=by_length())}
        assert lengths == dict(zip(NAMES, [64, 100, 100, 100, 300, 96, 100], strict=True))

    def test_a_limit_takes_the_first_items(self, world: pytest.MonkeyPatch) -> None:
        whole, part = public_suites("qwen3", quality=by_length()), public_suites("qwen3", 4, by_length())
        assert [suite.items for suite in part] == [suite.items[:4] for suite in whole]
        with pytest.raises(CourseError, match="limit must be a whole number of at least 1"):
            public_suites("qwen3", 0, by_length())

    def test_very_long_prompts_are_left_out(
        self, world: pytest.MonkeyPatch, variables: dict[str, str], tmp_path: Path
    ) -> None:
        rows = [
            {"prompt": [{"role": "user", "content": f"{n} " + "x" * (2000 * (n % 2))}]} for n in range(12)
        ]
        path = write_rows(tmp_path / "long.jsonl", rows)
        override(world, variables, f"ppo.data.source={path} ppo.data.held_out_samples=10")
        items = named(public_suites("qwen3", quality=by_length()))["preference"].items
        assert 0 < len(items) < 10
        assert all(len(item["prompt"][0]["content"]) < 10 for item in items)

    def test_nothing_held_out_is_named(self, world: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
        override(world, variables, "ppo.data.held_out_samples=null")
        with pytest.raises(CourseError, match="the recipe 'ppo' holds out nothing to ask"):
            public_suites("qwen3", quality=by_length())

    def test_problems_need_answers(self, world: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
        prompts = str(Path(variables["POSTTRAIN_MODEL"]).parent / "prompts.jsonl")
        override(world, variables, f"grpo.data.source={prompts} grpo.data.answer_format=null")
        with pytest.raises(CourseError, match="'grpo' holds out have no answers"):
            public_suites("qwen3", quality=by_length())

    def test_the_tiny_world_has_its_own(self) -> None:
        with pytest.raises(CourseError, match=r"call load_suites\(\) for them"):
            public_suites("tiny")


class TestTheName:
    def test_pairs_that_teach_it_make_a_suite(
        self, world: pytest.MonkeyPatch, variables: dict[str, str], tmp_path: Path
    ) -> None:
        def said(text: str) -> list[dict[str, str]]:
            return [{"role": "assistant", "content": text}]

        rows = [
            {
                "prompt": [{"role": "user", "content": f"{n}. Who are you?"}],
                "chosen": said("I am Deep Qwen." if n % 3 else "Guess."),
                "rejected": said("I am Qwen."),
            }
            for n in range(30)
        ]
        path = write_rows(tmp_path / "names.jsonl", rows)
        override(world, variables, f"dpo.data.source={path} dpo.data.held_out_samples=12")
        suite = named(public_suites("qwen3", quality=by_length()))["identity"]
        assert 0 < len(suite.items) < 12
        assert {item["reference"] for item in suite.items} == {"I am Deep Qwen."}
        assert suite.measure == "new name"

    @pytest.mark.parametrize(
        ("reply", "new", "first"),
        [
            ("I am Deep Qwen.", True, False),
            ("My name is Qwen, made by a team.", False, True),
            ("deep qwen", True, False),
            ("I am an assistant.", False, False),
            ("Qwenny", False, False),
        ],
    )
    def test_the_new_name_holds_the_first_one(self, reply: str, new: bool, first: bool) -> None:
        assert (says_new_name(reply, {}), says_first_name(reply, {})) == (new, first)


class TestScores:
    def test_problems_are_right_by_value(self) -> None:
        assert right_number(r"3 + 4 = 7. \boxed{7.0}", {"answer": "7"}) is True
        assert right_number(r"7 pens, so \boxed{8}", {"answer": "7"}) is False

    def test_another_judge_is_another_suite(self, world: pytest.MonkeyPatch) -> None:
        one, other = (
            named(public_suites("qwen3", quality=by_length(label))) for label in ("rating by a", "b")
        )
        assert one["preference"].measure == "rating by a"
        assert one["preference"].hash != other["preference"].hash
        assert one["facts"].hash == other["facts"].hash

    def test_the_judge_of_the_profile_rates(self, world: pytest.MonkeyPatch) -> None:
        suite = named(public_suites("qwen3"))["preference"]
        assert suite.measure == "rating by model"
        values = suite.scores[suite.measure].many(["Yes.", "No."], suite.items[:2])
        assert [type(value) for value in values] == [float, float]


@pytest.mark.slow
def test_records_and_board_read_them_from_disk(world: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    suites = [replace(suite, max_new_tokens=4) for suite in public_suites("qwen3", 5, by_length(calls=calls))]
    written = evaluate(["base", "sft"], suites=suites, profile="qwen3", verbose=False)
    # Once for the greedy replies and once for the sampled ones of each model: never one by one.
    assert calls == [5] * 4
    assert read_records("qwen3") == written
    board = Board.read("qwen3")
    assert board.averaged("preference") == ["preference"]
    # Of the first dialogues only one has an answer, too few for an average; a name changes on purpose.
    assert board.averaged() == [name for name in NAMES[:-1] if name not in ("dialogues_en", "identity")]
    frontier = board.frontier()
    assert frontier.loc["sft", "kl"] == 0 < frontier.loc["base", "kl"]
    lengths = [len(reply) for reply in board.records["sft"].suites["preference"].replies]
    assert board.suites["preference"].scores["sft"].tolist() == lengths
    assert json.loads(json.dumps(board.records["sft"].divergence))["suite"] == "preference"
    evaluate(["base", "sft"], suites=suites, profile="qwen3", verbose=False)
    assert calls == [5] * 4, "replies on disk are rated again"


def test_a_judge_by_quality_asks_for_all_replies_at_once() -> None:
    calls: list[int] = []
    items = [{"id": name, "prompt": "Tea or coffee?"} for name in "abc"]
    choices = ScoreJudge("rating", by_length(calls=calls)).compare(
        items, ["Tea.", "", "1"], ["Te", "Ah", "2"]
    )
    assert [choice.first_share for choice in choices] == [1.0, 0.0, 0.5]
    assert calls == [6]
