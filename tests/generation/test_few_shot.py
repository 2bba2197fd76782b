import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.few_shot import few_shot_item, few_shot_items

ITEM = {
    "id": "1",
    "task": "facts",
    "prompt": [{"role": "user", "content": "Q?"}],
    "answer": "A",
    "accepted": ["A."],
}


def conversation(name, task="facts"):
    messages = [{"role": "user", "content": f"{name}?"}, {"role": "assistant", "content": f"{name}."}]
    return {"task": task, "messages": messages}


def test_examples_come_first_and_the_question_last():
    item = few_shot_item(ITEM, [conversation("x")["messages"], conversation("y")["messages"]])
    assert [message["content"] for message in item["prompt"]] == ["x?", "x.", "y?", "y.", "Q?"]
    assert item["accepted"] == ITEM["accepted"]
    assert ITEM["prompt"] == [{"role": "user", "content": "Q?"}]


def test_examples_are_of_the_items_task_and_seeded():
    rows = [conversation(f"f{n}") for n in range(9)] + [conversation(f"s{n}", "stories") for n in range(9)]
    first = few_shot_items([ITEM] * 5, rows, 3, seed=0)
    assert first == few_shot_items([ITEM] * 5, rows, 3, seed=0)
    assert first != few_shot_items([ITEM] * 5, rows, 3, seed=1)
    assert len({str(item["prompt"]) for item in first}) == 5  # each has its own
    for item in first:
        shown = [message["content"] for message in item["prompt"][:-1]]
        assert len(shown) == 6
        assert len(set(shown)) == 6
        assert all(text.startswith("f") for text in shown)


@pytest.mark.parametrize("shots", [-1, 3])
def test_more_examples_than_there_are(shots):
    rows = [conversation("a"), conversation("b"), *(conversation(f"s{n}", "stories") for n in range(9))]
    with pytest.raises(CourseError, match=rf"{shots} examples are asked for, but there are 2 for an item"):
        few_shot_items([ITEM], rows, shots)
    assert few_shot_items([ITEM], rows, 2)


def test_items_without_a_task_draw_from_everything():
    item = few_shot_items([{"prompt": ITEM["prompt"]}], [conversation("f"), conversation("s", "stories")], 2)[
        0
    ]
    assert len(item["prompt"]) == 5
