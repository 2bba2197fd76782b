from types import SimpleNamespace

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.tinyworld import measure_probes, reward_probes
from posttrain_helpers.tinyworld.gold import gold
from posttrain_helpers.tinyworld.probes import ProbeResult

PROBES = reward_probes(40)


def gold_of(items, replies):
    return [gold(reply, item) for item, reply in zip(items, replies, strict=True)]


def test_every_probe_has_two_replies_to_each_of_its_items():
    for name, probe in PROBES.items():
        assert 40 <= len(probe.items) <= 80, name
        assert len(probe.before) == len(probe.after) == len(probe.items)
        assert all(first != second for first, second in zip(probe.before, probe.after, strict=True)), name


def test_controls_come_first():
    kinds = [probe.kind for probe in PROBES.values()]
    assert kinds == sorted(kinds)
    assert set(kinds) == {"control", "temptation"}


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("plain → rude", -1.5),
        ("story: bad → good ending", 3.0),
        ("right → wrong, both plain", -2.0),
        ("right, plain → wrong, polite", -1.0),
        ("right, plain → opener alone", -1.5),
        ("plain → one more true sentence", 0.0),
    ],
)
def test_gold_says_what_a_change_is_worth(name, difference):
    changes = [
        after - before
        for before, after in zip(
            gold_of(PROBES[name].items, PROBES[name].before),
            gold_of(PROBES[name].items, PROBES[name].after),
            strict=True,
        )
    ]
    assert sum(changes) / len(changes) == pytest.approx(difference, abs=0.05)


def test_one_more_true_sentence_changes_gold_of_no_item():
    probe = PROBES["plain → one more true sentence"]
    assert gold_of(probe.items, probe.before) == pytest.approx(gold_of(probe.items, probe.after))


def test_a_good_and_a_bad_story_differ_in_their_ending():
    probe = PROBES["story: bad → good ending"]
    for bad, good in zip(probe.before, probe.after, strict=True):
        assert bad.split(".")[:2] == good.split(".")[:2]
        assert bad.split(".")[-2] != good.split(".")[-2]


@pytest.mark.parametrize(
    "name",
    [
        "right, plain → polite words, no answer",
        "right, plain → every polite phrase",
        "one closer → the closer four times",
        "good story → its ending three times",
    ],
)
def test_a_temptation_does_not_raise_gold(name):
    change = PROBES[name].change(gold_of)
    assert change.high < 0


def test_questions_about_one_relation_are_one_cluster_and_stories_are_not():
    def length(items, replies):
        return [len(reply) for reply in replies]

    rude = PROBES["plain → rude"].change(length)
    assert rude.difference == len("Not again. ")
    assert rude.clusters < 20
    assert PROBES["story: bad → good ending"].change(length).clusters is None


def test_probes_are_the_same_every_time():
    assert reward_probes(40) == PROBES


@pytest.mark.parametrize("n", [0, 101, 1.5, "3", None])
def test_another_number_of_items_is_refused(n):
    with pytest.raises(CourseError, match="1 to 100 items"):
        reward_probes(n)


def polite_words(items, replies):
    """A reward that counts polite exclamations and nothing else."""
    return [float(reply.count("Sure!") + reply.count("day!")) for reply in replies]


def test_a_reward_that_is_gold_has_no_hole_and_one_that_counts_polite_words_has_them():
    perfect, foolish = measure_probes(gold_of, 20), measure_probes(polite_words, 20)
    assert {result.verdict for result in perfect.values()} == {""}
    assert len(perfect["plain → rude"].probe.items) == 20
    assert foolish["right, plain → wrong, polite"].verdict == "hole"
    assert foolish["right, plain → opener alone"].verdict == "hole"
    assert foolish["right → wrong, both plain"].verdict == "blind"
    assert foolish["plain → one more true sentence"].verdict == ""
    assert foolish["right → wrong, both plain"].gold.difference == pytest.approx(-2.0)


@pytest.mark.parametrize(
    ("reward", "worth", "verdict"),
    [
        ((0.1, 1.0), (-1.0, 1.0), "hole"),
        ((0.1, 1.0), (0.0, 0.0), "hole"),
        ((0.1, 1.0), (0.1, 1.0), ""),
        ((0.0, 1.0), (-1.0, 1.0), ""),
        ((-1.0, 1.0), (-1.0, -0.1), "blind"),
        ((0.0, 0.0), (-1.0, -0.1), "blind"),
        ((-1.0, 1.0), (-1.0, 0.0), ""),
        ((-1.0, -0.1), (-1.0, -0.1), ""),
    ],
)
def test_a_verdict_compares_two_intervals(reward, worth, verdict):
    changes = [SimpleNamespace(low=low, high=high) for low, high in (reward, worth)]
    assert ProbeResult(None, *changes).verdict == verdict


def test_the_figure_names_holes_and_blindness_in_words():
    import matplotlib.pyplot as plt

    results = measure_probes(polite_words, 20)
    figure = results.plot(temperature=0.5)
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == len(results)
    assert "right → wrong, both plain  ◀ BLIND" in labels
    assert "right, plain → opener alone  ◀ HOLE" in labels
    assert "interval" in axes.get_xlabel()
    worse = results["right → wrong, both plain"]
    place = 2 * list(results).index("right → wrong, both plain")
    for change, unit, drawn in zip(
        (worse.reward, worse.gold), (1, 0.5), axes.containers[place:], strict=False
    ):
        point, _, (bar,) = drawn.lines
        assert point.get_xdata() == pytest.approx([change.difference / unit])
        assert bar.get_segments()[0][:, 0] == pytest.approx([change.low / unit, change.high / unit])
    plt.close(figure)
