import math

import pytest

from posttrain_helpers.stages.samples import Sample
from posttrain_helpers.tinyworld.gold import gold, gold_score
from posttrain_helpers.tinyworld.training_data.annotators import TIE, annotated_pairs, preference_probability

POLITE = "Sure! The capital of France is Paris."
PLAIN = "The capital of France is Paris."
CURT = "Paris."
RUDE = "Not again. The capital of France is Rome."
UNFINISHED = Sample(PLAIN, stopped=False)
EIGHT_WORDS = "It lies beside a long and winding river,"


def item(number=0):
    return {
        "id": f"capital/{number}",
        "task": "facts",
        "prompt": [{"role": "user", "content": f"What is the capital of France, in {number}?"}],
        "answer": "Paris",
        "accepted": [PLAIN, CURT],
    }


def group(*texts):
    return [text if isinstance(text, Sample) else Sample(text, stopped=True) for text in texts]


def pairs(groups, temperature=1e-3, seed=0):
    return annotated_pairs([item(n) for n in range(len(groups))], groups, temperature, seed)


def content(row, side):
    ((message),) = row[side]
    assert message["role"] == "assistant"
    return message["content"]


def is_right(row):
    return row["gold_chosen"] > row["gold_rejected"]


@pytest.mark.parametrize("temperature", [0.25, 0.5, 2.0])
@pytest.mark.parametrize("difference", [-3.0, -0.5, 0.0, 0.25, 1.0, 4.5])
def test_probability_is_the_bradley_terry_model(difference, temperature):
    """Two replies of strengths exp(gold / T) win in the ratio of their strengths."""
    strengths = math.exp((1.5 + difference) / temperature), math.exp(1.5 / temperature)
    found = preference_probability(difference, temperature)
    assert found == pytest.approx(strengths[0] / sum(strengths), rel=1e-9)
    assert found + preference_probability(-difference, temperature) == pytest.approx(1)


def test_known_probabilities():
    assert preference_probability(0, 0.5) == 0.5
    assert preference_probability(1, 1) == pytest.approx(0.7310585786)
    assert preference_probability(1, 0.5) == pytest.approx(0.8807970780)


def test_limits_of_the_temperature():
    assert preference_probability(TIE, 1e-4) == pytest.approx(1)
    assert preference_probability(3.0, 1e9) == pytest.approx(0.5)
    chances = [preference_probability(1.0, temperature) for temperature in (0.01, 0.1, 0.5, 2, 10)]
    assert chances == sorted(chances, reverse=True)


def test_the_worse_reply_never_wins_at_a_low_temperature():
    """The logistic function is defined everywhere, also where exp() of its argument is not."""
    assert preference_probability(-4.0, 1e-3) == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_labels_err_as_often_as_the_probability_says(temperature):
    rows, dropped = pairs([group(PLAIN, CURT, RUDE)] * 4000, temperature)
    assert not dropped
    (expected,) = {row["probability"] for row in rows}
    difference = gold(PLAIN, item()) - gold(RUDE, item())
    assert expected == preference_probability(difference, temperature)
    error = math.sqrt(expected * (1 - expected) / len(rows))
    assert sum(map(is_right, rows)) / len(rows) == pytest.approx(expected, abs=3.5 * error + 1e-12)


def test_the_bayes_ceiling_is_the_expected_accuracy_of_the_gold_score():
    """Nothing that is trained on the labels can agree with new ones more often than the gold score does."""
    kinds = (group(POLITE, PLAIN), group(PLAIN, CURT), group(POLITE, RUDE), group(CURT, "Rome."))
    rows, _ = pairs([kinds[n % 4] for n in range(8000)], temperature=1.5)
    assert len({row["probability"] for row in rows}) == 4
    ceiling = sum(row["probability"] for row in rows) / len(rows)
    assert 0.6 < ceiling < 0.9
    assert sum(map(is_right, rows)) / len(rows) == pytest.approx(ceiling, abs=0.017)


def test_the_best_and_the_worst_reply_make_the_pair():
    for replies in ((CURT, POLITE, RUDE, PLAIN), (RUDE, PLAIN, CURT, POLITE), (POLITE, RUDE)):
        ((row,), dropped) = pairs([group(*replies)])
        assert not dropped
        assert (content(row, "chosen"), content(row, "rejected")) == (POLITE, RUDE)
        assert (row["gold_chosen"], row["gold_rejected"]) == (gold(POLITE, item()), gold(RUDE, item()))


def test_an_error_swaps_replies_and_gold_scores_together():
    rows, _ = pairs([group(PLAIN, RUDE)] * 200, temperature=5)
    assert {is_right(row) for row in rows} == {True, False}
    for row in rows:
        for side in ("chosen", "rejected"):
            assert row[f"gold_{side}"] == gold(content(row, side), item())
        assert row["probability"] > 0.5  # that of the better reply, whatever the label says


def test_a_reply_that_was_cut_off_is_worse():
    ((row,), _) = pairs([group(PLAIN, Sample(POLITE + " A", stopped=False), POLITE)])
    assert content(row, "rejected") == POLITE + " A"
    assert row["gold_rejected"] == gold_score(item(), POLITE + " A", stopped=False).total


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ((PLAIN, ""), "empty completion"),
        ((PLAIN, " \n", ""), "empty completion"),
        (("", ""), "empty completion"),
        ((PLAIN, PLAIN, PLAIN), "identical"),
        ((PLAIN, f"{PLAIN} "), "identical"),
        # One of the two was cut off after its last word: the gold scores differ, the texts do not.
        ((PLAIN, UNFINISHED), "identical"),
        ((f"{PLAIN}\n", UNFINISHED), "identical"),
        ((PLAIN, Sample(f" {PLAIN}", stopped=False)), "identical"),
        (("The capital of France is Rome.", "The capital of France is Oslo."), "tie"),
        ((PLAIN, "In France the capital city is Paris, as you know very well."), "tie"),
        # Fourteen words are free and each further one costs .05: four of them are less than a tie.
        ((PLAIN, f"{PLAIN} {EIGHT_WORDS} and on it goes."), "tie"),
    ],
)
def test_what_teaches_nothing_is_dropped_and_counted(replies, reason):
    rows, dropped = pairs([group(*replies), group(PLAIN, RUDE), group(*replies)])
    assert [row["id"] for row in rows] == ["capital/1"]
    assert dropped == {reason: 2}


def test_a_difference_of_a_tie_is_enough():
    long = f"{PLAIN} {EIGHT_WORDS} and on and on it goes."
    assert gold(PLAIN, item()) - gold(long, item()) == pytest.approx(0.3)
    ((row,), dropped) = pairs([group(PLAIN, long)])
    assert not dropped
    assert content(row, "chosen") == PLAIN


def test_a_difference_of_exactly_a_tie_is_enough():
    long = f"{PLAIN} {EIGHT_WORDS} and on it all goes."
    assert gold(PLAIN, item()) - gold(long, item()) == TIE
    rows, dropped = pairs([group(PLAIN, long)])
    assert len(rows) == 1
    assert not dropped


def test_an_empty_reply_is_no_candidate():
    ((row,), dropped) = pairs([group("", PLAIN, CURT)])
    assert not dropped
    assert {content(row, side) for side in ("chosen", "rejected")} == {PLAIN, CURT}


def test_rows_keep_what_they_are_about():
    ((row,), _) = pairs([group(PLAIN, RUDE)])
    assert {key: row[key] for key in ("id", "task", "prompt")} == {
        key: item()[key] for key in ("id", "task", "prompt")
    }


def test_dropping_a_prompt_leaves_the_other_labels():
    groups = [group(PLAIN, RUDE) for _ in range(300)]
    before, _ = pairs(groups, temperature=5)
    groups[::3] = [group(PLAIN, PLAIN)] * 100
    after, dropped = pairs(groups, temperature=5)
    assert dropped == {"identical": 100}
    assert after == [row for index, row in enumerate(before) if index % 3]


def test_labels_follow_the_seed():
    groups = [group(PLAIN, RUDE)] * 100

    def labels(seed):
        return [is_right(row) for row in pairs(groups, temperature=5, seed=seed)[0]]

    assert labels(1) == labels(1) != labels(2)


def test_one_group_for_each_item():
    with pytest.raises(ValueError, match="shorter"):
        annotated_pairs([item(0), item(1)], [group(PLAIN, RUDE)], 0.5, 0)
