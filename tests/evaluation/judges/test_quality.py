"""The measure of quality of each profile: gold where it is known, a judge's rating elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain_helpers import compare_generations
from posttrain_helpers.comparison.scores import apply_measures, measures_of
from posttrain_helpers.data.loading import load_data
from posttrain_helpers.environment.profiles import PROFILES, get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges.quality import Quality, agreement_with_choices, load_quality
from posttrain_helpers.generation.decoding import Generation
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.tinyworld.gold import gold
from posttrain_helpers.tinyworld.tasks import held_out_suite

ITEMS = held_out_suite("entities")[:4]
REPLIES = [ITEMS[0]["accepted"][0], "No.", f"Sure! {ITEMS[2]['accepted'][0]}", ""]


@pytest.fixture
def judged(random_model_dir: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The profile qwen3 with a random model as its judge."""
    monkeypatch.setenv("POSTTRAIN_JUDGE", str(random_model_dir))
    return random_model_dir


def replies(texts: list[str]) -> list[Generation]:
    return [Generation(text, (1,), "stop") for text in texts]


def pair(name: str, chosen: str, rejected: str) -> dict:
    sides = {
        side: [{"role": "assistant", "content": text}]
        for side, text in (("chosen", chosen), ("rejected", rejected))
    }
    return {"id": name, "prompt": [{"role": "user", "content": name}], **sides}


def by_length(items: list, texts: list) -> list[float]:
    return [float(len(text)) for text in texts]


class TestTheTinyWorld:
    def test_quality_is_the_gold_score(self, capsys: pytest.CaptureFixture[str]) -> None:
        quality = load_quality("tiny")
        assert (quality.name, quality.label, quality.known) == ("gold", "gold score", True)
        assert quality.many(REPLIES, ITEMS) == [gold(*pair) for pair in zip(REPLIES, ITEMS, strict=True)]
        assert quality(REPLIES[0], ITEMS[0]) == gold(REPLIES[0], ITEMS[0])
        assert "gold score (known, because this world is ours)" in capsys.readouterr().out

    def test_a_judge_does_not_take_its_place(self, judged: Path) -> None:
        assert load_quality("tiny", verbose=False).known

    def test_it_is_a_measure_of_comparisons(self) -> None:
        name, measures = measures_of(load_quality("tiny", verbose=False))
        scores = apply_measures(measures, {"model": replies(REPLIES)}, ITEMS)["model"]
        assert name == "gold"
        assert scores["gold"] == [gold(*pair) for pair in zip(REPLIES, ITEMS, strict=True)]


class TestTheRating:
    def test_it_is_the_opinion_of_the_named_judge(
        self, judged: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from posttrain_helpers.evaluation.judges.language_model import LanguageModelRater

        quality = load_quality("qwen3")
        assert (quality.name, quality.known) == ("rating", False)
        assert quality.label == f"rating by {judged.name}"
        assert "an opinion that stands in for truth" in capsys.readouterr().out
        rater = LanguageModelRater(*load_model_and_tokenizer(judged, profile="qwen3", verbose=False))
        items, texts = ITEMS[:2], ["Yes.", "No."]
        assert quality.many(texts, items) == rater.ratings(items, texts)

    def test_comparisons_ask_for_all_replies_at_once(self) -> None:
        asked = []

        def count(items: list, texts: list) -> list[float]:
            asked.append(len(texts))
            return by_length(items, texts)

        _, measures = measures_of(Quality("rating", "rating", False, count))
        generations = {"before": replies(REPLIES), "after": replies(REPLIES[::-1])}
        scores = apply_measures(measures, generations, ITEMS)
        assert asked == [len(ITEMS)] * 2
        assert scores["before"]["rating"] == [float(len(text)) for text in REPLIES]

    def test_a_comparison_of_models_carries_it(self, judged: Path) -> None:
        models = {"one": load_model_and_tokenizer(judged, profile="qwen3", verbose=False)}
        models["other"] = models["one"]
        quality = Quality("rating", "rating", False, by_length)
        comparison = compare_generations(models, ITEMS, score=quality, max_new_tokens=4)
        texts = [reply.text for reply in comparison.generations["one"]]
        assert comparison.scores["one"]["rating"] == [len(text) for text in texts]
        assert comparison.measure == "rating"

    def test_a_bad_value_of_many_is_refused(self) -> None:
        _, measures = measures_of(Quality("rating", "rating", False, lambda items, texts: [float("nan")] * 4))
        with pytest.raises(CourseError, match="score 'rating' must return a finite number"):
            apply_measures(measures, {"model": replies(REPLIES)}, ITEMS)

    def test_replies_without_items_are_refused(self) -> None:
        with pytest.raises(CourseError, match="found 1 replies and 4 items"):
            Quality("rating", "rating", False, by_length).many(["one"], ITEMS)


class TestWhoJudges:
    def test_the_profiles_assistant_unless_another_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("POSTTRAIN_JUDGE", raising=False)
        assert get_profile("qwen3").judge_model == PROFILES["qwen3"].instruct_model
        assert (
            load_quality("qwen3", verbose=False).label == "rating by Qwen/Qwen3-0.6B"
        )  # nothing is loaded yet
        monkeypatch.setenv("POSTTRAIN_JUDGE", "owner/stronger")
        assert get_profile("qwen3").judge_model == "owner/stronger"
        (tmp_path / "mine").mkdir()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("POSTTRAIN_JUDGE", "mine")
        assert get_profile("smol").judge_model == str(
            (tmp_path / "mine").resolve()
        )  # a kernel runs elsewhere

    def test_a_replaced_base_model_has_no_judge_of_its_own(
        self, random_model_dir: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("POSTTRAIN_JUDGE", raising=False)
        monkeypatch.setenv("POSTTRAIN_MODEL", str(random_model_dir))
        with pytest.raises(CourseError, match=r"'qwen3' has no judge .* name one in POSTTRAIN_JUDGE"):
            load_quality("qwen3")


class TestAgreement:
    def test_the_share_of_choices_that_it_shares_ties_half(self) -> None:
        pairs = [pair("a", "long", "s"), pair("b", "long", "s"), pair("c", "s", "long"), pair("d", "1", "2")]
        agreement = agreement_with_choices(Quality("rating", "rating", False, by_length), pairs)
        assert (agreement["n"], agreement["share"]) == (4, 2.5 / 4)
        assert agreement["low"] < 2.5 / 4 < agreement["high"]

    def test_gold_agrees_with_annotators_who_seldom_err(self, output_root: Path) -> None:
        pairs = [pair(item["id"], item["accepted"][0], "No.") for item in ITEMS]
        pairs = [{**item, **sides} for item, sides in zip(ITEMS, pairs, strict=True)]
        assert agreement_with_choices(load_quality("tiny", verbose=False), pairs)["share"] == 1

    def test_held_out_public_pairs_will_do(self, tmp_path: Path, output_root: Path) -> None:
        import json

        rows = [
            {key: value for key, value in pair(f"question {n}", "y" * (n + 2), "n").items() if key != "id"}
            for n in range(12)
        ]
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        changes = {"data.source": str(path), "data.held_out_samples": 5}
        _, held_out = load_data(load_recipe("reward", "qwen3", changes), verbose=False)
        agreement = agreement_with_choices(Quality("rating", "rating", False, by_length), held_out)
        assert (agreement["n"], agreement["share"]) == (5, 1)

    def test_no_pairs_are_refused(self) -> None:
        with pytest.raises(CourseError, match="the list is empty"):
            agreement_with_choices(Quality("rating", "rating", False, by_length), [])
