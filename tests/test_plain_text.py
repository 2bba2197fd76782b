"""One spelling for many, whole words in every script, and what must not count as the same."""

from __future__ import annotations

import pytest

from posttrain_helpers.metrics import last_number, lenient_match, numbers_equal, plain_text, strict_match
from posttrain_helpers.rewards.verifiers import equations_right, exact_answer


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('It\'s `code` - "so"', 'It\'s `code` - "so"'),
        ("It\u2019s \u201cso\u201d", 'It\'s "so"'),
        ("\uff11\uff15\uff05 \uff08A\uff09", "15% (A)"),
        ("\u0663\u066b\u0661", "3.1"),
        ("well\u2010known \u22125 5\u20137", "well-known -5 5-7"),
        ("a\u200bb\u00a0c", "ab c"),
        ("Sa\u0303o", "S\u00e3o"),
        ("5\u00b2 \u00bd \u2460", "5\u00b2 \u00bd \u2460"),
        ("is \u2014\u20149", "is \u2014\u20149"),
    ],
)
def test_one_spelling(text: str, plain: str) -> None:
    assert plain_text(text) == plain


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("答案是东京。", "东京"),
        ("日本の首都は東京です。", "東京"),
        ("パリです。", "パリ"),
        ("เมืองหลวงคือกรุงเทพครับ", "กรุงเทพ"),
        ("ភ្នំពេញជារដ្ឋធានី", "ភ្នំពេញ"),
        ("수도는 서울입니다.", "서울"),
        ("答案是Paris。", "Paris"),
        ("首都是ＰＡＲＩＳ", "Paris"),
        ("It is the dog\u2019s bone.", "dog's bone"),
        ("It is the dog's bone.", "dog\u2019s bone"),
        ("a well\u2011known writer", "well-known"),
        ("Say \u201cmoo\u201d.", '"moo"'),
        ("It is Sa\u0303o Paulo", "S\u00e3o\u00a0Paulo"),
        ("答えは１５です", "15"),
        ("答えは15です", "１５"),
        ("答案是——9。", "9"),
        ("共１，２００个", "1200"),
        ("الجواب ١٥", "15"),
        ("उत्तर १५ है", 15),
        ("It is \u22125.", "-5"),
        ("It is \u20135.", -5),
        ("距离是15公里。", "15公里"),
    ],
)
def test_a_right_answer_is_found(reply: str, answer: object) -> None:
    assert lenient_match(reply, {"answer": answer}) is True


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("150", "15"),
        ("答案是150", "15"),
        ("答案是１５０。", "15"),
        ("It is 1.15", "15"),
        ("It is １．１５", "15"),
        ("It is 1.15 km", "15 km"),
        ("It is 15.5", "15"),
        ("Room 15.5", "Room 15"),
        ("第150号", "15号"),
        ("第15号", "第1"),
        ("共1，200个", "1200"),
        ("It is 5\u00b2", "52"),
        ("It is 1\u00bd", "1.5"),
        ("答案是——9。", "-9"),
        ("It is \u22125.", "5"),
        ("アイスランドです", "アイス"),
        ("答案是北京。", "东京"),
        ("राजाराम नहीं, रामा", "राम"),
        ("Parisian", "Paris"),
        ("C++11", "C++"),
        ("the dogs bone", "dog's bone"),
        ("대서울", "서울"),
    ],
)
def test_a_wrong_answer_is_not(reply: str, answer: object) -> None:
    assert lenient_match(reply, {"answer": answer}) is False


def test_numbers_are_compared_in_any_digits() -> None:
    assert numbers_equal("７２", 72)
    assert numbers_equal("72。", "٧٢")
    assert not numbers_equal("7²", 72)
    assert str(last_number("答案：−３．５。")) == "-3.5"


def test_the_whole_reply_may_be_spelt_in_another_way() -> None:
    item = {"accepted": ["It's the dog's."]}
    assert strict_match("It\u2019s the dog\u2019s.", item) is True
    assert strict_match("Its the dogs.", item) is False
    assert strict_match("It\u2019s the dog\u2019s", item) is False
    assert strict_match("共15個。", {"accepted": ["共１５個。"]}) is True
    assert strict_match("共150個。", {"accepted": ["共15個。"]}) is False


def test_verifiers_read_other_spellings() -> None:
    boxed = [r"\boxed{７２}", r"\boxed{72元}", r"\boxed{72 개}", r"\boxed{72万}", r"\boxed{720}"]
    assert exact_answer(boxed, ["72"] * 5) == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert equations_right(["１０ － ３ ＝ ７。", "１０ － ３ ＝ ８。"]) == [1.0, 0.0]
