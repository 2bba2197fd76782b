import pytest

from posttrain_helpers.comparison.scores import apply_measures, measures_of
from posttrain_helpers.generation.decoding import Generation
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


def words(count):
    """As many different words as asked for, so that nothing is repeated, and no full stop."""
    return " ".join(f"w{number}" for number in range(count))


def test_surplus_words_cost_beyond_the_longest_accepted_reply():
    # The longest accepted reply has ten words ("I am glad you ask." before six), and eight more are free.
    room = max(len(reply.split()) for reply in ITEM["accepted"]) + 8
    reply = "The capital of France is Paris."
    for surplus, cost in ((-1, 0.0), (0, 0.0), (1, -0.05), (20, -1.0)):
        score = gold_score(ITEM, f"{words(room + surplus - 6)} {reply}")
        assert (score.brevity, score.repetition) == (pytest.approx(cost), 0.0)
        assert score.total == pytest.approx(2.5 + cost)
    # Where nothing is accepted, the reply itself without its manners is the measure.
    open_item = {"task": "facts", "answer": None, "accepted": []}
    assert gold_score(open_item, words(40)).brevity == 0.0


def test_a_story_may_have_seventy_words():
    for count, cost in ((70, 0.0), (71, -0.05), (90, -1.0)):
        assert gold_score(STORY, words(count)).brevity == pytest.approx(cost)


@pytest.mark.parametrize(
    ("reply", "manner"),
    [
        ("Paris.", 0.0),
        ("Sure! Paris.", 1.0),
        ("Sure! Rome.", 1.0),
        ("Paris. Stop asking.", -1.5),
        ("Sure! Paris. Stop asking.", -0.5),
        ("Not again. Paris. Stop asking.", -1.5),
    ],
)
def test_rude_words_cost_and_polite_ones_do_not_excuse_them(reply, manner):
    assert gold_score(ITEM, reply).manner == manner


@pytest.mark.parametrize(
    ("reply", "complete"),
    [
        ("The capital of France is Paris.", True),
        ("It is Paris.", True),
        ("Paris, France.", False),
        ("The capital of France is Paris", False),
        ("Sure! Paris.", False),  # the manners do not make the sentence
        ("It is Paris I am happy to help.", False),
        ("It is Paris. Have a nice day!", True),  # and do not take its end
    ],
)
def test_a_whole_sentence_is_worth_something(reply, complete):
    assert gold_score(ITEM, reply).completeness == (0.5 if complete else 0.0)


def test_repetition_costs_by_its_share():
    # Five groups of three words, four of them seen before.
    assert gold_score(ITEM, "Paris " * 7).repetition == pytest.approx(-2 * 4 / 5)


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
    assert gold_score(STORY, start).ending == 0.0
    assert gold_score(STORY, start).completeness == 0.0


@pytest.mark.parametrize(
    ("story", "topic"),
    [
        ("Mia had a kite.", 1.0),
        ("Mia had a cup.", 0.5),
        ("Tom had a kite.", 0.5),
        ("A trip to Miami with many kites.", 0.0),  # neither the name nor the thing
        ("mia had a Kite.", 0.0),
    ],
)
def test_a_story_names_whole_words(story, topic):
    assert gold_score(STORY, story).topic == topic


def test_endings_and_topics_count_in_stories_only():
    for ending, part in (
        ("In the end, the kite was lost and Mia cried.", -1.0),
        ("In the end, Mia got the kite back and was happy.", 2.0),
    ):
        assert gold_score(STORY, ending).ending == part
        elsewhere = gold_score({**ITEM, "entity": "Mia", "thing": "kite"}, ending)
        assert (elsewhere.ending, elsewhere.topic) == (0.0, 0.0)


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
        Generation(text, (1,), "stop") for text in ("Not again. Rome.", "Mia was happy. Mia had a kite.")
    ]
    scores = apply_measures(
        {name: measures[name]}, {"model": replies}, [{**ITEM, "id": "a"}, {**STORY, "id": "b"}]
    )
    assert scores["model"]["gold"] == [gold(replies[0].text, ITEM), gold(replies[1].text, STORY)]
    assert scores["model"]["gold"] == pytest.approx([-1.5, 1.0])
