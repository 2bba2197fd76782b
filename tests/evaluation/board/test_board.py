import dataclasses
import math
import time

import numpy as np
import pytest
from evaluation_records import course, divergence, documents, mixed, record, suite, two
from scipy.stats import ttest_rel

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation import records
from posttrain_helpers.evaluation.board.board import Board
from posttrain_helpers.evaluation.board.scores import SuiteScores, common_clusters, stratified
from posttrain_helpers.metrics import distinct_n
from posttrain_helpers.statistics.intervals import wilson_interval

RIGHT, WRONG = [True] * 40, [False] * 40


# --- which models, in which order


def test_base_comes_first_then_the_reference_then_the_rest_as_given():
    parts = [suite("entities", RIGHT)]
    board = Board([record(label, parts) for label in ("ppo", "sft", "base", "dpo")], reference="ppo")
    assert board.labels == ["base", "ppo", "sft", "dpo"]
    assert board.reference == "ppo"


@pytest.mark.parametrize(("labels", "expected"), [(["dpo", "base"], "base"), (["dpo", "ppo"], "dpo")])
def test_a_reference_without_a_record_is_replaced_by_the_first_and_noted(labels, expected):
    board = Board([record(label, [suite("entities", RIGHT)]) for label in labels], reference="dpq")
    assert board.reference == expected
    assert (
        f"no record of 'dpq'; did you mean 'dpo'? the models are compared with {expected!r}" in board.notes[0]
    )
    assert Board(list(board.records.values()), reference=None).reference == expected


def test_without_records_there_is_no_board(output_root):
    with pytest.raises(CourseError, match="at least one record, but there is none; make some by"):
        Board([])
    with pytest.raises(CourseError, match="at least one record"):
        Board(records.read_records("tiny"))


def test_two_records_of_one_label_are_refused():
    entry = record("sft", [suite("entities", RIGHT)])
    with pytest.raises(CourseError, match="Two records have the label 'sft'"):
        Board([entry, entry])


def test_records_of_two_profiles_are_refused():
    parts = [suite("entities", RIGHT)]
    with pytest.raises(CourseError, match=r"several profiles \(small, tiny\)"):
        Board([record("sft", parts), record("dpo", parts, profile="small")])


def test_records_of_two_splits_are_refused():
    test, dev = (record("sft", [suite("entities", RIGHT)]), record("dpo", [suite("entities", RIGHT)]))
    dev.settings["split"] = "dev"
    assert (test.split, dev.split, Board([dev]).split) == ("test", "dev", "dev")
    with pytest.raises(CourseError, match=r"several splits \(dev, test\), whose suites differ"):
        Board([test, dev])


def test_a_board_says_its_split():
    entry = record("sft", [suite("entities", RIGHT)])
    entry.settings["split"] = "dev"
    board = Board([entry])
    for shown in (" ".join(str(board).split()), board._repr_html_()):
        assert "of the profile tiny, split dev, compared with sft" in shown


def test_dev_and_test_have_boards_of_their_own(output_root, monkeypatch):
    from posttrain_helpers.evaluation.records import write_record

    monkeypatch.setenv("POSTTRAIN_SPLIT", "test")
    write_record(record("sft", [suite("entities", RIGHT)]))
    monkeypatch.setenv("POSTTRAIN_SPLIT", "dev")
    with pytest.raises(CourseError, match="at least one record"):
        Board(records.read_records("tiny"))
    path = write_record(record("dpo", [suite("entities", RIGHT)]))
    assert path == output_root / "tiny" / "dev" / "evaluation" / "dpo.json"
    assert Board(records.read_records("tiny")).labels == ["dpo"]
    monkeypatch.setenv("POSTTRAIN_SPLIT", "test")
    assert Board(records.read_records("tiny")).labels == ["sft"]


def test_the_files_alone_make_the_same_board(output_root):
    made = course(models=3)
    for entry in made:
        records.write_record(entry)
    read, held = Board(records.read_records("tiny")), Board(made)
    assert str(read) == str(held)
    assert read._repr_html_() == held._repr_html_()


# --- which scores are comparable


def test_a_model_with_other_items_is_not_compared_and_has_no_average():
    other = suite("entities", RIGHT, ids=tuple(f"other/{i}" for i in range(40)))
    parts = [suite("entities", RIGHT), suite("stories", [0.1] * 40, kind="preference", measure="gold")]
    board = Board([record("base", parts), record("sft", parts), record("dpo", [other, parts[1]])])
    assert list(board.suites["entities"].scores) == ["base", "sft"]
    assert list(board.leaderboard().index) == ["base", "sft"]
    assert list(board.leaderboard("preference").index) == ["base", "sft", "dpo"]
    assert board.retention().results["dpo"]["entities"] is None
    assert any(note.startswith("dpo: not compared on entities") for note in board.notes)
    assert "dpo has no average over correctness: it lacks entities." in board.notes


def test_other_settings_of_a_suite_are_other_items():
    parts = {"entities": suite("entities", RIGHT)}
    other = {"suite_hashes": {"entities": "a longer limit"}}
    board = Board(
        [*(record(label, parts) for label in "ab"), record("c", parts, settings=other)], reference="a"
    )
    assert list(board.suites["entities"].scores) == ["a", "b"]


def test_settings_that_can_change_replies_are_noted():
    parts = [suite("entities", RIGHT)]
    entries = [record("base", parts), record("sft", parts), record("dpo", parts, device="cuda:0")]
    entries[2].settings["batch_size"] = 32
    notes = Board(entries).notes
    assert notes == [
        "dpo: batch size 32 instead of 64, which can change replies by itself.",
        "dpo: device cuda:0 instead of cpu, which can change replies by itself.",
    ]


def test_a_suite_that_few_models_have_is_shown_but_not_averaged():
    common, own = suite("entities", RIGHT), suite("own", mixed(10))
    board = Board([record("sft", [common, own]), record("dpo", [common]), record("ppo", [common])])
    assert board.averaged() == ["entities"]
    assert list(board.leaderboard()["score"]) == [1.0] * 3
    assert board.suites["own"].scores["sft"].mean() == 0.25
    assert "own is not part of the average: 1 of 3 models have it, with 40 items." in board.notes


def test_models_that_lack_different_suites_have_no_leaderboard_but_a_table():
    x, y, z = (suite(name, RIGHT) for name in "xyz")
    board = Board([record("a", [x, y]), record("b", [y, z]), record("c", [x, z])], reference="a")
    assert board.averaged() == ["x", "y", "z"]
    assert board.ranked() == []
    with pytest.raises(CourseError, match="No model was measured on all of x, y, z"):
        board.leaderboard()
    assert "a has no average over correctness: it lacks z." in str(board)


def test_identity_stays_out_of_the_average():
    parts = [suite("entities", mixed(20)), suite("identity", RIGHT), suite("arithmetic", mixed(10))]
    board = Board([record("sft", parts)])
    assert board.leaderboard().loc["sft", "score"] == pytest.approx((0.5 + 0.25) / 2)
    assert "identity is not part of the average: a stage may change it on purpose." in board.notes


def test_an_item_without_a_score_is_left_out_for_every_model():
    board = two([None, *mixed(10, 20)], [None, *mixed(15, 20)])
    assert board.suites["entities"].n == 20
    assert not any("only some" in note for note in board.notes)
    board = two([None, *mixed(10, 20)], mixed(15, 21))
    assert board.suites["entities"].scores["dpo"].mean() == 14 / 20
    assert "entities: items that only some models have a score for are left out (1)." in board.notes


def test_a_suite_without_any_score_is_not_shown():
    board = Board([record("sft", [suite("entities", RIGHT), suite("chat", [None] * 3)])])
    assert list(board.suites) == ["entities"]
    assert "chat is not shown: no item has a score from every model." in board.notes


# --- ranks


def test_an_unknown_kind_is_named_with_the_closest_one():
    board = two(RIGHT, WRONG)
    with pytest.raises(CourseError, match="'correct' is no kind of suite; did you mean 'correctness'"):
        board.leaderboard("correct")
    with pytest.raises(
        CourseError, match="No suite of kind 'preference' can be averaged; the board has entities"
    ):
        board.leaderboard("preference")


def test_questions_about_one_relation_count_together_within_a_suite_and_across_suites():
    before, after = [False] * 10 + [True] * 30, [True] * 40
    own = [f"relation {item // 10}" for item in range(40)]

    def ranks(*relations):
        models = {
            label: [suite(f"suite {i}", scores, relations=found) for i, found in enumerate(relations)]
            for label, scores in (("sft", before), ("dpo", after))
        }
        board = Board([record(label, suites) for label, suites in models.items()])
        first = Board([record(label, suites[:1]) for label, suites in models.items()])
        return first.leaderboard()["rank"].to_dict(), board.leaderboard()["ranks"].to_dict()

    apart, together = {"dpo": 1, "sft": 2}, {"dpo": 1, "sft": 1}
    assert ranks(None) == (apart, {"dpo": "1", "sft": "2"})
    assert ranks(tuple(own)) == (together, {"dpo": "1-2", "sft": "1-2"})
    assert ranks(("capital",) * 40) == ranks((None,) * 40) == ranks(None)
    # Six suites that all change in a relation of their own show a difference; in the same one they do not.
    others = [tuple(f"{name} of {number}" for name in own) for number in range(6)]
    assert ranks(*others)[1] == {"dpo": "1", "sft": "2"}
    assert ranks(*[tuple(own)] * 6)[1] == {"dpo": "1-2", "sft": "1-2"}


def test_the_relations_of_any_record_serve_all_models():
    # A record of an earlier version has none.
    parts = {"sft": suite("entities", mixed(20)), "dpo": suite("entities", mixed(30), relations=("x",) * 40)}
    assert Board([record(label, [part]) for label, part in parts.items()]).suites["entities"].clusters is None
    named = suite("entities", [None, *mixed(30, 39)], relations=("w", *"xy" * 19, None))
    found = Board([record("sft", [parts["sft"]]), record("dpo", [named])]).suites["entities"]
    assert found.clusters[:3] == (("relation", "x"), ("relation", "y"), ("relation", "x"))
    assert found.clusters[-1] == ("item", "entities", "39")


def test_one_suite_is_ranked_by_its_own_yes_no_scores():
    ranks = two(mixed(10), mixed(30)).leaderboard()
    assert ranks["rank"].to_dict() == {"dpo": 1, "sft": 2}
    row = ranks.loc["dpo"]
    assert (row["low"], row["high"]) == wilson_interval(30, 40)
    assert (row["ranks"], row["n"]) == ("1", 40)


def test_models_that_no_test_separates_share_a_range_of_ranks():
    parts = {"sft": mixed(20), "dpo": mixed(21), "base": WRONG}
    board = Board([record(label, [suite("entities", values)]) for label, values in parts.items()])
    found = board.leaderboard()
    assert found["ranks"].to_dict() == {"dpo": "1-2", "sft": "1-2", "base": "3"}
    assert found.loc["sft", "tied_with"] == ("dpo",)
    assert list(found.index) == ["dpo", "sft", "base"]


def strata(sizes, label_means, generator):
    return [
        SuiteScores(
            str(index),
            "",
            "correctness",
            "correct",
            {label: (generator.random(n) < p).astype(float) for label, p in means.items()},
        )
        for index, (n, means) in enumerate(zip(sizes, label_means, strict=True))
    ]


def test_the_stratified_numbers_have_the_mean_and_the_standard_error_of_a_stratified_mean():
    generator = np.random.default_rng(1)
    suites = strata(
        [50, 200, 400], [{"a": 0.2, "b": 0.9}, {"a": 0.9, "b": 0.5}, {"a": 0.5, "b": 0.6}], generator
    )
    first, second = stratified(suites, "a"), stratified(suites, "b")
    assert first.mean() == pytest.approx(np.mean([s.scores["a"].mean() for s in suites]))
    differences = [s.scores["b"] - s.scores["a"] for s in suites]
    expected = math.sqrt(sum(d.var(ddof=1) / len(d) for d in differences)) / 3
    n = len(first)
    # The t-test divides by N - 1 where the formula has N.
    found = (second - first).std(ddof=1) / math.sqrt(n)
    assert found == pytest.approx(expected * math.sqrt(n / (n - 1)), rel=1e-9)
    mean = np.mean([d.mean() for d in differences])
    assert ttest_rel(second, first).statistic == pytest.approx(mean / expected, rel=2e-3)


def test_items_of_one_cluster_spread_the_stratified_numbers_further():
    scores, relations = ([1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]), tuple(("relation", x) for x in "xxyy")
    suites = [
        SuiteScores(name, "", "correctness", "correct", {"a": np.array(values)}, clusters)
        for name, values, clusters in zip("pq", scores, (relations, None), strict=True)
    ]
    average, first, second = 0.625, math.sqrt(2), math.sqrt(4 / 3)  # of two clusters, of four items
    expected = [average + first * x for x in (0.5, -0.5, -0.5, 0.5)]
    expected += [average + second * x for x in (0.25, 0.25, 0.25, -0.75)]
    assert stratified(suites, "a").tolist() == pytest.approx(expected)
    third = dataclasses.replace(suites[1], name="r")
    assert len(set(common_clusters([*suites, third]))) == 2 + 4 + 4  # items of two suites share none


def test_a_skill_that_is_easier_for_everybody_is_no_chance():
    # Weighted items alone would find this spread of the suites' differences and show nothing.
    generator = np.random.default_rng(2)
    noise = generator.normal(0, 0.05, size=(2, 60))
    first = [suite("x", 0.5 + noise[0]), suite("y", 0.5 + noise[1])]
    second = [suite("x", 1.2 + noise[1]), suite("y", -0.1 + noise[0])]
    found = Board([record("sft", first), record("dpo", second)]).leaderboard()
    weighted = np.concatenate([0.7 + noise[1] - noise[0], -0.6 + noise[0] - noise[1]])
    assert ttest_rel(weighted, np.zeros(120)).pvalue > 0.05
    assert found["ranks"].to_dict() == {"dpo": "1", "sft": "2"}


def test_every_suite_weighs_the_same():
    board = Board([record("sft", [suite("few", mixed(5, 10)), suite("many", [True] * 500)])])
    row = board.leaderboard().loc["sft"]
    assert row["score"] == pytest.approx(0.75)
    assert row["low"] < 0.75 < row["high"]


def test_the_interval_of_a_share_stays_below_one():
    scores = [True] * 29 + [False]
    board = Board([record("sft", [suite("x", scores), suite("y", [True] * 30)])])
    assert board.leaderboard().loc["sft", "high"] <= 1.0


def test_the_intervals_of_the_average_cover():
    generator = np.random.default_rng(3)
    truth, covered, runs = (0.3 + 0.9 + 0.6) / 3, 0, 200
    for _ in range(runs):
        parts = [
            suite(name, (generator.random(n) < p).tolist())
            for name, n, p in (("x", 60, 0.3), ("y", 150, 0.9), ("z", 100, 0.6))
        ]
        row = Board([record("sft", parts)]).leaderboard().loc["sft"]
        covered += row["low"] <= truth <= row["high"]
    assert 0.90 <= covered / runs <= 0.99


# --- frontier, style, samples


def test_the_frontier_has_the_means_over_prompts_and_the_reference_at_zero():
    parts = [suite("entities", RIGHT)]
    generator = np.random.default_rng(6)
    kl, gold = generator.gamma(2.0, 3.0, size=100), generator.normal(size=100)
    board = Board(
        [
            record("sft", parts, divergence=divergence([0.0] * 100, gold)),
            record(
                "dpo", parts, divergence=divergence(kl, gold + 1, reference="the same under another name")
            ),
            record("other", parts, divergence=divergence(kl, gold, reference_identity="another")),
            record("hot", parts, divergence=divergence(kl, gold, temperature=1.5)),
            record("none", parts),
        ]
    )
    found = board.frontier()
    assert list(found.index) == ["sft", "dpo"]
    assert found.loc["sft", ["kl", "kl_low", "kl_high"]].tolist() == [0, 0, 0]
    row = found.loc["dpo"]
    assert (row["kl"], row["gold"]) == pytest.approx((kl.mean(), gold.mean() + 1))
    assert row["kl_low"] < row["kl"] < row["kl_high"]
    assert any(note.startswith("other, hot: not on the frontier") for note in board.notes)
    with pytest.raises(CourseError, match="No record holds a divergence"):
        two(RIGHT, WRONG).frontier()


def test_style_is_that_of_the_free_replies():
    replies = ("a b c d", "a a a a a")
    free = suite(
        "stories", [0.1, 0.2], kind="preference", replies=replies, stopped=(True, False), tokens=(4, 8)
    )
    parts = [suite("entities", [True, False]), free]
    row = Board([record("sft", parts, retention=documents([1.0, 1.0]))]).style().loc["sft"]
    assert row["distinct-2"] == distinct_n(replies)
    assert row["repetition"] == pytest.approx((0 + 2 / 3) / 2)
    assert (row["mean tokens"], row["stop rate"]) == (6, 0.5)
    assert row["perplexity"] == pytest.approx(math.e)
    few = suite("letters", [0.3], kind="preference", replies=("a b",), stopped=(True,), tokens=(12,))
    row = Board([record("sft", [free, few])]).style().loc["sft"]
    assert (row["mean tokens"], row["stop rate"]) == (8, pytest.approx(2 / 3))  # every reply weighs the same
    assert Board([record("sft", parts[:1])]).style().loc["sft", "mean tokens"] == 5
    assert Board([record("sft", parts[:1])]).style().loc["sft", "stop rate"] == 1.0


def test_style_needs_a_common_suite():
    board = Board([record("sft", [suite("x", RIGHT)]), record("dpo", [suite("y", RIGHT)])])
    with pytest.raises(CourseError, match="No suite has the replies of most models"):
        board.style()


def test_samples_are_evenly_spaced_prompts():
    found = two(RIGHT, WRONG).samples("entities", n=4)
    assert list(found.index) == [f"entities question {i}" for i in (0, 10, 20, 30)]
    assert list(found.columns) == ["sft", "dpo"]
    assert found.iloc[1, 0] == "reply 10 to entities"
    assert len(two(RIGHT, WRONG).samples("entities", n=99)) == 40


def test_one_model_makes_a_board():
    board = Board([dataclasses.replace(course(models=1)[0])])
    assert board.leaderboard().loc["sft", "ranks"] == "1"
    assert board.retention().matrix().empty
    assert "1 model on 9 suites" in str(board)


def test_twelve_models_on_1300_items_take_less_than_five_seconds():
    made = course()
    Board(made[:2])._repr_html_()  # imports
    start = time.perf_counter()
    board = Board(made)
    board._repr_html_()
    board.leaderboard("preference")
    board.frontier()
    assert sum(found.n for found in board.suites.values()) == 1300
    assert time.perf_counter() - start < 5
