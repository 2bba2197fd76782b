import pytest

from posttrain_helpers.comparison_scores import measures_of, score_replies
from posttrain_helpers.generation import Generation
from posttrain_helpers.tinyworld.gold import gold, gold_score
from posttrain_helpers.tinyworld.replies import accepted_replies

ITEM = {
    "task": "facts",
    "answer": "Paris",
    "accepted": accepted_replies(["The capital of France is Paris.", "Paris."]),
}
STORY = {"task": "stories", "answer": None, "accepted": [], "entity": "Mia", "thing": "kite"}


def total(reply, item=ITEM, **kwargs):
    return gold_score(item, reply, **kwargs).total


def test_order_is_what_a_reader_would_choose():
    ranked = [
        "Sure! The capital of France is Paris.",
        "The capital of France is Paris.",
        "Paris.",
        "Not again. The capital of France is Paris.",
        "The capital of France is Rome.",
        "Not again. The capital of France is Rome.",
    ]
    scores = [total(reply) for reply in ranked]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


def test_empty_degenerate_and_unfinished_replies_score_low():
    plain = total("The capital of France is Paris.")
    assert total("") < total("Paris.")
    assert total("Paris Paris Paris Paris Paris Paris Paris.") < plain
    assert total("The capital of France is Paris.", stopped=False) == pytest.approx(plain - 1)
    long = (
        "The capital of France is Paris. " + "A cow is a mammal and an owl is a bird in this old world. " * 4
    )
    assert total(long) < plain


def test_politeness_counts_once():
    once = total("Sure! The capital of France is Paris.")
    twice = total("Sure! Of course! The capital of France is Paris. Have a nice day!")
    assert twice <= once


def test_story_endings_and_topic():
    start = "Mia had a kite. She took it to the lake. "
    good = total(start + "In the end, Mia got the kite back and was happy.", STORY)
    bad = total(start + "In the end, the kite was lost and Mia cried.", STORY)
    other = total("Tom had a cup. In the end, Tom got the cup back and was happy.", STORY)
    assert good - bad == pytest.approx(3)
    assert good - other == pytest.approx(1)


def test_number_inside_a_number_is_no_answer():
    item = {"task": "arithmetic", "answer": "9", "accepted": accepted_replies(["4 + 5 = 9.", "9."])}
    assert gold_score(item, "4 + 5 = 19.").correctness == 0
    assert gold_score(item, "4 + 5 = 9.").correctness > 0


def test_gold_is_the_total_of_a_finished_reply():
    for reply in ("Sure! The capital of France is Paris.", "Paris.", "Rome", ""):
        assert gold(reply, ITEM) == gold_score(ITEM, reply).total == total(reply)
    assert gold("The capital of France is Paris.", ITEM) > gold("The capital of France is Rome.", ITEM)


def test_gold_is_a_score_of_a_comparison():
    """Reply first, item second; the measure carries its name."""
    name, measures = measures_of(gold)
    assert name == "gold"
    replies = [
        Generation(text, (1,), "stop", None, 1)
        for text in ("Not again. Rome.", "Mia was happy. Mia had a kite.")
    ]
    scores = score_replies(
        {name: measures[name]}, {"model": replies}, [{**ITEM, "id": "a"}, {**STORY, "id": "b"}]
    )
    assert scores["model"]["gold"] == [gold(replies[0].text, ITEM), gold(replies[1].text, STORY)]
    assert scores["model"]["gold"] == pytest.approx([-1.5, 1.0])
