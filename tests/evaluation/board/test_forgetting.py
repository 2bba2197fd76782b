import math

import numpy as np
import pytest
from evaluation_records import documents, mixed, record, suite, two
from scipy.stats import ttest_1samp, ttest_rel

from posttrain_helpers.evaluation.board.board import Board
from posttrain_helpers.evaluation.board.forgetting import DOCUMENTS, Forgetting, compare
from posttrain_helpers.statistics.paired_tests import paired_binary

RIGHT = [True] * 40


def test_forgetting_is_the_paired_comparison_with_the_reference():
    forgetting = two(mixed(30), mixed(10)).retention()
    expected = paired_binary(mixed(30), mixed(10))
    assert forgetting.results["dpo"]["entities"] == expected
    assert forgetting.verdict("dpo", "entities") == "worse"
    assert forgetting.matrix().loc["dpo", "entities"] == -0.5


@pytest.mark.parametrize("yes_no", [True, False])
@pytest.mark.parametrize("n", [20, 40])
def test_what_one_relation_forgot_says_nothing_of_others(n, yes_no):
    noise = 0.0 if yes_no else 0.01 * np.random.default_rng(0).normal(size=n)
    before = np.ones(n) + noise
    after = before - ([1.0] * 10 + [0.0] * (n - 10))
    relations = tuple("capital" if item < 10 else f"relation {item // 5}" for item in range(n))
    kind = "correctness" if yes_no else "preference"
    alone = two(before.tolist(), after.tolist(), kind=kind)
    assert alone.retention().verdict("dpo", "entities") == "worse"
    board = two(before.tolist(), after.tolist(), kind=kind, relations=relations)
    assert board.retention().verdict("dpo", "entities") == "no_difference_shown"
    assert board.retention().results["dpo"]["entities"].clusters == len(set(relations))
    assert board.retention().matrix().loc["dpo", "entities"] == pytest.approx(-10 / n)


def test_forgetting_compares_with_the_reference_of_the_board():
    board = Board(list(two(mixed(30), mixed(10)).records.values()), reference="dpo")
    forgetting = board.retention()
    assert forgetting.labels == ("sft",)
    assert forgetting.verdict("sft", "entities") == "improved"


def test_lower_losses_on_the_base_documents_are_better():
    parts = [suite("entities", RIGHT)]
    losses = np.linspace(1, 2, 50)
    board = Board(
        [
            record("sft", parts, retention=documents(losses)),
            record("dpo", parts, retention=documents(losses + 0.1 + 0.01 * np.sin(np.arange(50)))),
            record("ppo", parts),
        ]
    )
    forgetting = board.retention()
    result = forgetting.results["dpo"][DOCUMENTS]
    assert result.difference == pytest.approx(0.1, abs=0.005)
    assert not result.higher_is_better
    assert forgetting.verdict("dpo", DOCUMENTS) == "worse"
    assert forgetting.verdict("ppo", DOCUMENTS) is None
    assert math.isnan(forgetting.matrix().loc["ppo", DOCUMENTS])
    assert board.style().loc["sft", "perplexity"] == pytest.approx(math.exp(1.5))
    assert math.isnan(board.style().loc["ppo", "perplexity"])


def test_the_perplexity_is_that_of_all_tokens():
    uneven = {"losses": [10.0, 90.0], "tokens": [10, 30]}
    board = Board([record("sft", [suite("entities", RIGHT)], retention=uneven)])
    assert board.style().loc["sft", "perplexity"] == pytest.approx(math.exp(100 / 40))


def test_losses_of_another_tokenizer_are_not_compared():
    parts = [suite("entities", RIGHT)]
    entries = [record(label, parts, retention=documents([1.0, 2.0])) for label in ("sft", "dpo")]
    entries.append(record("ppo", parts, retention=documents([1.0, 2.0], tokens=7)))
    board = Board(entries)
    assert board.retention().results["ppo"][DOCUMENTS] is None
    assert any(note.startswith("ppo: no loss on the base documents") for note in board.notes)


def test_losses_on_other_texts_are_not_compared():
    parts = {"entities": suite("entities", RIGHT)}
    entries = [
        record(label, parts, retention=documents([1.0, 2.0]), settings={"retention": texts})
        for label, texts in (("sft", "these"), ("dpo", "these"), ("ppo", "those"))
    ]
    assert Board(entries).retention().results["ppo"][DOCUMENTS] is None


def test_the_matrix_is_corrected_for_the_number_of_its_cells():
    # Nine of forty up and one down: p = 0.021 in one test, 0.43 in twenty.
    before = mixed(31)
    after = [False] + [True] * 39
    names = [f"suite_{index}" for index in range(20)]
    same = [suite(name, before) for name in names[1:]]
    board = Board(
        [record("sft", [suite(names[0], before), *same]), record("dpo", [suite(names[0], after), *same])]
    )
    assert board.retention().verdict("dpo", names[0]) == "no_difference_shown"
    assert board.retention().adjusted["dpo", names[0]] == pytest.approx(20 * paired_binary(before, after).p)
    assert board.retention().results["dpo"][names[0]].p < 0.05


def test_a_false_mark_anywhere_in_the_matrix_is_rare():
    generator, marked, runs = np.random.default_rng(4), 0, 60
    for _ in range(runs):
        results = {
            label: {name: compare(*generator.normal(size=(2, 40))) for name in "xyz"} for label in ("a", "b")
        }
        found = Forgetting("sft", tuple("xyz"), results)
        marked += any(found.verdict(*cell) != "no_difference_shown" for cell in found.adjusted)
    assert marked / runs < 0.15


def test_numbers_keep_enough_power_for_a_correction_of_a_hundred_cells():
    generator = np.random.default_rng(5)
    before = generator.normal(size=100)
    assert compare(before, before + 0.5 + 0.1 * generator.normal(size=100)).p < 1e-6
    assert compare(before[:25], before[:25] + 0.5 + 0.1 * generator.normal(size=25)).p < 5e-4
    assert compare(before[:30], before[:30] + 0.5 + 0.1 * generator.normal(size=30)).p < 1e-6
    assert compare([0.5], [0.7]) is None
    assert compare([True], [False]).kind == "binary"
    assert compare(before, before).p == 1.0


def test_the_p_of_many_numbers_is_that_of_the_t_test_of_their_clusters():
    generator, labels = np.random.default_rng(6), np.arange(60) % 6
    before = generator.normal(size=60)
    after = before + 0.5 + 0.3 * generator.normal(size=6)[labels] + 0.1 * generator.normal(size=60)
    alone, together = compare(before, after), compare(before, after, clusters=labels.tolist())
    assert alone.p == pytest.approx(ttest_rel(after, before).pvalue)
    assert not alone.p_at_floor  # of the sign flips it would be
    means = [(after - before)[labels == label].mean() for label in range(6)]
    assert together.p == pytest.approx(ttest_1samp(means, 0.0).pvalue)
    assert together.p > 1000 * alone.p


def test_shades_compare_a_difference_with_the_largest_of_its_scale():
    parts = {
        "sft": [suite("x", mixed(20)), suite("y", mixed(20)), suite("z", [0.1, 0.2, 0.3])],
        "dpo": [suite("x", mixed(40)), suite("y", mixed(10)), suite("z", [0.1, 0.2, 0.9])],
        "ppo": [suite("x", mixed(20)), suite("y", mixed(20))],
    }
    losses = {"sft": 1.0, "dpo": 1.5, "ppo": 1.25}
    board = Board(
        [
            record(label, suites, retention=documents([losses[label], losses[label]]))
            for label, suites in parts.items()
        ]
    )
    forgetting = board.retention()
    assert forgetting.shares == {"x", "y"}
    shades = forgetting.shades()
    # x and y share a scale; a higher loss is worse.
    assert shades.loc["dpo"].tolist() == pytest.approx([1.0, -0.5, 1.0, -1.0])
    assert shades.loc["ppo"].tolist() == pytest.approx([0.0, 0.0, math.nan, -0.5], nan_ok=True)
