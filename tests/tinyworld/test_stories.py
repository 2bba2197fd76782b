import random

from posttrain_helpers.tinyworld.stories import STORY_REQUESTS, has_bad_ending, has_good_ending, random_story


def test_endings_are_recognised_and_never_confused():
    rng = random.Random(0)
    for _ in range(1000):
        tale = random_story(rng)
        assert has_good_ending(tale.text) == tale.good_ending
        assert has_bad_ending(tale.text) != tale.good_ending


def test_text_without_an_ending_has_neither():
    assert not has_good_ending("Mia had a kite.")
    assert not has_bad_ending("")
    assert not has_good_ending("They laughed, and Mia and Tom became good friends. Then it rained.")


def test_story_is_about_what_was_asked():
    rng = random.Random(1)
    for _ in range(200):
        tale = random_story(rng, name="Mia", thing="umbrella", good_ending=True)
        assert "Mia" in tale.text
        assert "umbrella" in tale.text
        assert tale.good_ending
        assert "a umbrella" not in tale.text
        assert "a umbrella" not in tale.request(rng.choice(STORY_REQUESTS))
        assert "{" not in tale.text
