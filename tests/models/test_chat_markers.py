"""A chat template without generation markers gets them, and SFT trains the same tokens as with its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.chat_markers import changes_replies, marked_template, needs_markers
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.training.trainer import make_trainer, train

pytestmark = pytest.mark.usefixtures("output_root")

# As SmolLM2 and many others have it: a loop over the messages, and a system turn of its own.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}\n"
)
HAND_MARKED = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ message['content'] + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Earlier replies lose what the last one shows, as with thoughts.
FORGETS = CHATML.replace(
    "message['content'] +",
    "(message['content'] + ('' if loop.last else ' (old)') if message['role'] == 'assistant' "
    "else message['content']) +",
)


def turns(*texts: str, system: bool = False) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": "Be brief."}] if system else []
    return messages + [
        {"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)
    ]


CONVERSATIONS = [
    turns("What says a cow?", "A cow says moo."),
    turns("Hi", "Hello.", "What says a cow?", "A cow says moo."),
    turns("Hi", "Hello.", system=True),
    turns("Hi", "<|im_start|>? No.", "Hi", "Hello."),
]


@pytest.fixture
def tokenizer(random_model_dir: Path) -> Any:
    return load_model_and_tokenizer(random_model_dir, verbose=False)[1]


def ids_and_mask(tokenizer: Any, template: str, messages: list) -> tuple[list[int], list[int]]:
    encoded = tokenizer.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    return encoded["input_ids"], encoded["assistant_masks"]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_the_same_tokens_are_trained_as_with_markers_of_its_own(tokenizer: Any, messages: list) -> None:
    tokenizer.chat_template = CHATML
    assert needs_markers(tokenizer)
    found = ids_and_mask(tokenizer, marked_template(tokenizer), messages)
    assert found == ids_and_mask(tokenizer, HAND_MARKED, messages)
    assert sum(found[1]) > 0


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("template", [CHATML, FORGETS])
@pytest.mark.parametrize(
    "messages", [*CONVERSATIONS, turns("Hi"), turns("Hi", "Hello.", "Bye"), turns("Hi", "Hello.")[1:]]
)
def test_what_is_rendered_stays_the_same(tokenizer: Any, template: str, messages: list, prompt: bool) -> None:
    tokenizer.chat_template = CHATML
    marked = marked_template(tokenizer).replace(CHATML.removesuffix("\n"), template.removesuffix("\n"))
    options = {"tokenize": False, "add_generation_prompt": prompt}
    assert tokenizer.apply_chat_template(
        messages, chat_template=marked, **options
    ) == tokenizer.apply_chat_template(messages, chat_template=template, **options)


def test_of_a_template_that_forgets_only_the_last_reply_is_marked(tokenizer: Any) -> None:
    tokenizer.chat_template = FORGETS
    ids, mask = ids_and_mask(tokenizer, marked_template(tokenizer), CONVERSATIONS[1])
    trained = [token for token, said in zip(ids, mask, strict=True) if said]
    assert tokenizer.decode(trained) == "A cow says moo.<|im_end|>"
    assert "Hello. (old)" in tokenizer.decode(ids)


def test_a_template_that_forgets_only_behind_a_system_turn_changes_replies_too(tokenizer: Any) -> None:
    sometimes = FORGETS.replace("if loop.last", "if loop.last or messages[0]['role'] != 'system'")
    for template, changes in ((CHATML, False), (FORGETS, True), (sometimes, True)):
        tokenizer.chat_template = template
        tokenizer.chat_template = marked_template(tokenizer)
        assert changes_replies(tokenizer) == changes


def test_markers_of_its_own_are_enough(tokenizer: Any) -> None:
    assert not needs_markers(tokenizer)
    tokenizer.chat_template = HAND_MARKED
    assert not needs_markers(tokenizer)


def test_sft_trains_such_a_model(random_model_dir: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from small_trainings import small_recipe

    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    tokenizer.chat_template = CHATML
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_model_and_tokenizer(tmp_path, verbose=False)
    rows = Dataset.from_list([{"messages": CONVERSATIONS[1]}] * 8)
    trainer = make_trainer(small_recipe(), model, tokenizer, rows, verbose=False)
    labels = trainer.train_dataset[0]["labels"]
    trained = tokenizer.decode([label for label in labels if label != -100])
    assert trained == "Hello.<|im_end|>A cow says moo.<|im_end|>"
    assert train(trainer)["train_loss"] > 0


ALTERNATING = CHATML.replace(
    "{% for message in messages %}",
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}",
)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (turns("Hi", "Hello.", system=True), "System role not supported"),
        (turns("Hi", "Hello.") + turns("Bye") * 2, "Roles must alternate"),
    ],
)
@pytest.mark.parametrize("method", ["sft", "grpo", "ppo"])
def test_a_row_that_the_template_refuses_is_one_sentence(
    random_model_dir: Path, messages: list, reason: str, method: str
) -> None:
    from datasets import Dataset
    from small_trainings import length, small_recipe

    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    tokenizer.chat_template = ALTERNATING
    tokenizer.chat_template = marked_template(tokenizer)
    question = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    row = {"messages": messages} if method == "sft" else {"prompt": question}
    functions = None if method == "sft" else [length]
    rows = Dataset.from_list([row] * 8)
    with pytest.raises(CourseError, match=f"chat template refuses a row of the data: {reason}"):
        make_trainer(small_recipe(method), model, tokenizer, rows, verbose=False, reward_funcs=functions)
