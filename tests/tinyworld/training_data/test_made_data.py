"""Data that a model makes: the control differs in the choice alone, labels follow the labeller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from posttrain_helpers.data.curation import best_of_each, one_of_each
from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation import likelihood
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.rewards import functions
from posttrain_helpers.stages.samples import Sample
from posttrain_helpers.stages.save import other_models
from posttrain_helpers.tinyworld import gold_score
from posttrain_helpers.tinyworld.gold import UNFINISHED
from posttrain_helpers.tinyworld.replies import core_of
from posttrain_helpers.tinyworld.tasks import facts_of
from posttrain_helpers.tinyworld.training_data import made_data, preferences
from posttrain_helpers.tinyworld.training_data.noisy_pool import COPIES, FAULTS, noisy_pool

SETTINGS = {
    "n_prompts": 60,
    "policy": "sft",
    "samples": 4,
    "sampling_temperature": 1.0,
    "seed": 0,
    "profile": "tiny",
}
REPLIES = ("So.", "Sure! I think so.", "Not again. I think so.", "I think so.")


@pytest.fixture(autouse=True)
def sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(policy: str, prompts: Sequence[Any], **settings: Any) -> list[list[Sample]]:
        return [[Sample(text, True) for text in REPLIES] for _ in prompts]

    monkeypatch.setattr(preferences, "sample_replies", sample)


def rows_by(scorer: str) -> list[dict[str, Any]]:
    return made_data.build_best_of_k_data(scorer=scorer, **SETTINGS)[0]


def test_the_control_has_the_same_prompts_in_the_same_order_and_as_many_rows() -> None:
    best, control = rows_by("gold"), rows_by("random")
    assert len(best) == len(control) == SETTINGS["n_prompts"]
    assert [row["messages"][:-1] for row in best] == [row["messages"][:-1] for row in control]
    recipes = [load_recipe("best_of_k", overrides={"data.scorer": scorer}) for scorer in ("gold", "random")]
    assert recipes[0].args == recipes[1].args  # so the steps are equal, too
    assert recipes[0].args["num_train_epochs"] == 1


def test_the_best_by_gold_is_friendly_and_the_control_is_anything() -> None:
    facts = [row["messages"][-1]["content"] for row in rows_by("gold") if row["task"] == "facts"]
    assert set(facts) == {"Sure! I think so."}
    assert len({row["messages"][-1]["content"] for row in rows_by("random")}) == 4


@pytest.mark.parametrize(("scorer", "choose"), [("random", one_of_each), ("gold", best_of_each)])
def test_the_seed_draws_the_lots(
    scorer: str, choose: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    equal = [[0.0] * len(REPLIES)] * SETTINGS["n_prompts"]
    monkeypatch.setattr(made_data, "scored", lambda *_: equal)
    for seed in (0, 3):
        rows, _, _ = made_data.build_best_of_k_data(scorer=scorer, **{**SETTINGS, "seed": seed})
        said = [row["messages"][-1]["content"] for row in rows]
        assert said == [REPLIES[index] for index in choose(equal, seed)]


def test_gold_sees_whether_a_reply_ended() -> None:
    items, _ = made_data.own_replies(SETTINGS, 0, "tiny")
    replies = [[Sample("I think so.", True), Sample("I think so.", False)]] * len(items)
    for ended, cut in made_data.scored(items, replies, "gold"):
        assert ended - cut == pytest.approx(-UNFINISHED)


def test_a_reward_model_scores_each_reply_behind_its_own_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    def rate(prompts: list[Any], completions: list[str]) -> list[float]:
        return [
            100.0 * len(prompt[-1]["content"]) + len(text)
            for prompt, text in zip(prompts, completions, strict=True)
        ]

    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(functions, "reward_model_function", lambda *names: asked.append(names) or rate)
    items, replies = made_data.own_replies(SETTINGS, 0, "tiny")
    replies = [group[: 1 + number % 4] for number, group in enumerate(replies)]
    assert made_data.scored(items, replies, "judge", "tiny") == [
        rate([item["prompt"]] * len(group), [reply.text for reply in group])
        for item, group in zip(items, replies, strict=True)
    ]
    assert asked == [("judge", "tiny")]


def test_a_verifier_sees_right_answers_and_nothing_else() -> None:
    items, _ = made_data.own_replies(SETTINGS, 0, "tiny")
    replies = [[Sample(f"Not again. {item['answer']}.", True), Sample("Sure! So.", True)] for item in items]
    for item, scores in zip(items, made_data.scored(items, replies, "verifier"), strict=True):
        assert scores == ([1.0, 0.0] if item["task"] == "facts" else [0.0, 0.0])


PROBLEMS = {**SETTINGS, "steps": 2, "smallest": 11, "largest": 15}


def test_problems_give_one_right_solution_each_and_those_without_one_no_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items, _ = made_data.own_replies(PROBLEMS, 0, "tiny")
    assert {item["task"] for item in items} == {"word_problems"}
    assert len(items) == PROBLEMS["n_prompts"]
    solved = {str(item["prompt"]): item["answer"] for item in items[::2]}

    def sample(policy: str, prompts: Sequence[Any], **settings: Any) -> list[list[Sample]]:
        right = [solved.get(str(prompt), "none") for prompt in prompts]
        return [[Sample("So.", True), Sample(f"{one}.", True), Sample(f" {one}.", True)] for one in right]

    monkeypatch.setattr(preferences, "sample_replies", sample)
    rows, suites, dropped = made_data.build_best_of_k_data(scorer="verifier", **PROBLEMS)
    assert dropped == {"no right reply": len(items) - len(rows)} == {"no right reply": 30}
    assert [str(row["messages"][:-1]) for row in rows] == list(solved)
    said = [row["messages"][-1]["content"] for row in rows]
    assert [text.strip(" .") for text in said] == list(solved.values())
    assert len({text.startswith(" ") for text in said}) == 2  # among right ones the lot decides
    held_out = {str(item["prompt"]) for item in suites["problems"]}
    assert held_out.isdisjoint(str(item["prompt"]) for item in items)


def test_the_control_of_right_solutions_has_their_problems_and_as_many_rows() -> None:
    items, replies = made_data.own_replies(PROBLEMS, 0, "tiny")
    verdicts = [[float(number % 3 == 0), 0.0, 0.0, 0.0] for number in range(len(items))]
    kept, groups, found = made_data.with_a_right_one(items, replies, verdicts)
    assert (kept, groups, found) == (items[::3], replies[::3], verdicts[::3])
    right, lot = (
        made_data.conversations(kept, groups, pick) for pick in (best_of_each(found), one_of_each(groups))
    )
    assert [row["messages"][:-1] for row in right] == [row["messages"][:-1] for row in lot]
    assert made_data.with_a_right_one(items, replies, [[0.0]] * len(items)) == ([], [], [])


def test_every_setting_reaches_the_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(made_data, "sampled_replies", lambda _, *settings: calls.append(settings))
    made_data.own_replies({**SETTINGS, "sampling_temperature": 0.7}, 5, "qwen3")
    assert calls == [("sft", 4, 0.7, 5, "qwen3")]


def test_another_draw_has_other_prompts() -> None:
    first, second = (made_data.own_replies({**SETTINGS, "draw": draw}, 0, "tiny")[0] for draw in (1, 2))
    assert [item["prompt"] for item in first] != [item["prompt"] for item in second]


def test_labels_by_gold_prefer_the_better_reply() -> None:
    rows, _, dropped = made_data.build_ai_feedback_data(labeller="gold", n_pairs=20, **SETTINGS)
    assert 0 < len(rows) <= 20
    assert dropped.total() == SETTINGS["n_prompts"] - len(rows)
    assert all(row["gold_chosen"] >= row["gold_rejected"] for row in rows)
    assert {row["task"] for row in rows} == {"facts"}


def test_the_two_replies_of_a_pair_are_drawn_by_lot() -> None:
    items, replies = made_data.own_replies(SETTINGS, 0, "tiny")
    first, again, other = (
        [tuple(reply.text for reply in pair) for pair in made_data.two_of_each(items, replies, seed)[1]]
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert {text for pair in first for text in pair} == set(REPLIES)
    assert any((second, one) in first for one, second in first)  # neither place belongs to one reply


def test_labellers_get_the_same_pairs_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def lead(items: Sequence[Any], pairs: Sequence[Any], labeller: str, *_: Any) -> np.ndarray:
        return np.array(
            [(-1.0) ** (number if labeller == "constitution" else 0) for number in range(len(pairs))]
        )

    monkeypatch.setattr(made_data, "leads", lead)
    labelled = [
        made_data.build_ai_feedback_data(labeller=name, n_pairs=20, draw=3, **SETTINGS)[0]
        for name in made_data.LABELLERS
    ]
    sides = [
        [(row["prompt"], sorted(row[side][0]["content"] for side in ("chosen", "rejected"))) for row in rows]
        for rows in labelled
    ]
    assert sides[0] == sides[1]
    assert labelled[0] != labelled[1]


def test_prompts_that_a_model_labels_are_not_those_of_people() -> None:
    draw = load_recipe("ai_feedback_dpo").data["draw"]
    asked = [
        {
            str(item["prompt"]) + item["id"]
            for item in made_data.own_pairs({**SETTINGS, "n_pairs": 50, "draw": d}, 0)[0]
        }
        for d in (0, draw)
    ]
    assert not asked[0] & asked[1]


def test_who_scores_or_labels_is_checked_before_the_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_data, "own_replies", None)
    with pytest.raises(CourseError, match=r"labeller 'other' does not exist.*are constitution and gold"):
        made_data.build_ai_feedback_data(labeller="other", n_pairs=20, **SETTINGS)
    with pytest.raises(CourseError, match="scorer 'verifer' does not exist; did you mean 'verifier'"):
        rows_by("verifer")
    with pytest.raises(CourseError, match="reward model 'no_such_stage' is not there yet"):
        rows_by("no_such_stage")


def test_replies_are_sampled_for_sizes_that_are_set_or_not() -> None:
    items, _ = made_data.own_replies({**SETTINGS, "steps": None}, 0, "tiny")
    assert {item["task"] for item in items} == {"facts", "stories"}
    items, _ = made_data.own_replies({**SETTINGS, "steps": 1}, 0, "tiny")
    assert (
        items == made_data.own_replies({**SETTINGS, "steps": 1, "smallest": 3, "largest": 12}, 0, "tiny")[0]
    )


def test_no_pair_is_no_error() -> None:
    assert len(made_data.leads([], [], "constitution", "sft", "tiny")) == 0


def test_principles_count_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain_helpers.stages import loading

    opinions = iter(
        ({"a": np.array([3.0, 1]), "b": np.array([0.0, 9])}, {"a": np.zeros(2), "b": np.zeros(2)})
    )
    monkeypatch.setattr(made_data, "constitution", lambda *_: next(opinions))
    monkeypatch.setattr(loading, "load_model_and_tokenizer", lambda *_, **__: (None, None))
    pair = (Sample("a", True), Sample("b", True))
    found = made_data.leads([{}, {}], [pair, pair], "constitution", "sft", "tiny")
    assert np.allclose(found, [3 / 1.0 + 0, 1 / 1.0 + 9 / 4.5])


def test_a_principle_is_what_its_request_adds_to_the_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(
        model: object, tokenizer: object, prompts: list[Any], replies: list[str], **_: Any
    ) -> np.ndarray:
        return np.array([len(p[-1]["content"]) * len(r) for p, r in zip(prompts, replies, strict=True)])

    monkeypatch.setattr(likelihood, "mean_log_probs", read)
    items = [{"prompt": [{"role": "user", "content": text}]} for text in ("Who?", "Where?")]
    found = made_data.constitution(None, None, items, ["I.", "Here."])
    polite, one_word = len("Answer politely. "), len("Answer in one word. ")
    assert {name: values.tolist() for name, values in found.items()} == {
        "friendly": [2 * polite, 5 * polite],
        "whole sentence": [-2 * one_word, -5 * one_word],
        "true": [2 * 4, 5 * 6],
    }


def test_a_stage_depends_on_the_reward_model_that_chose_its_rows() -> None:
    assert other_models(load_recipe("best_of_k")) == ["reward_model"]
    assert other_models(load_recipe("best_of_k", overrides={"data.scorer": "gold"})) == []
    assert other_models(load_recipe("sft")) == []


def test_a_pool_has_the_faults_that_it_says() -> None:
    pool = noisy_pool(400, 3)
    assert len(pool) == 400
    assert pool == noisy_pool(400, 3)
    found = Counter(row["fault"] for row in pool)
    assert {fault: found[fault] for fault in FAULTS} == {f: round(s * 400) for f, s in FAULTS.items()}
    for row in pool:
        score = gold_score(row, row["reply"])
        if row["fault"] in ("wrong", "off topic"):
            assert score.correctness == 0, row
        elif row["fault"] in ("", "rude", "duplicate"):
            assert score.correctness > 0, row
        assert (score.manner < 0) == (row["fault"] == "rude")
    asked = Counter(str(row["prompt"]) for row in pool if row["fault"] == "duplicate")
    assert max(asked.values()) >= COPIES


def asked_and_said(row: dict[str, Any]) -> tuple[str, str]:
    return row["prompt"][-1]["content"], row["reply"]


@pytest.mark.parametrize("seed", range(4))
def test_no_two_good_rows_of_a_pool_are_the_same(seed: int) -> None:
    good = [asked_and_said(row) for row in noisy_pool(960, seed) if not row["fault"]]
    assert len(set(good)) == len(good) == 384


@pytest.mark.parametrize("seed", range(4))
def test_what_a_duplicate_repeats_stands_further_up(seed: int) -> None:
    pool = noisy_pool(960, seed)
    copies = 0
    for number, row in enumerate(pool):
        if row["fault"] == "duplicate":
            question, reply = asked_and_said(row)
            above = [asked_and_said(other) for other in pool[:number] if not other["fault"]]
            assert any(question == q and core_of(reply) == core_of(r) for q, r in above), row
            copies += 1
    assert copies == 96


def test_more_good_rows_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [*facts_of("train")[:1], *facts_of("train")[-1:]]  # of two relations: a reply may be off topic
    for module in ("tasks", "training_data.noisy_pool"):
        monkeypatch.setattr(f"posttrain_helpers.tinyworld.{module}.facts_of", lambda split: facts)
    with pytest.raises(CourseError, match="draw a smaller pool"):
        noisy_pool(4000, 0)


def test_a_pool_without_good_rows_has_no_duplicates() -> None:
    assert {row["fault"] for row in noisy_pool(1, 0)} <= {"", "wrong", "rude"}
