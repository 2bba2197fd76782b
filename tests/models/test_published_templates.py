"""Replies and nothing else are trained, whatever habits the chat templates of published models have."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from chat_templates import FORMATS, MISTRAL, REASONER, written_in

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import encode_prompts
from posttrain_helpers.models.chat_markers import mark_replies
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.training.trainer import check_trainer, make_trainer

pytestmark = pytest.mark.usefixtures("output_root")

SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": "user", "content": "What says a cow?"},
    {"role": "assistant", "content": "A cow says moo."},
    {"role": "user", "content": "And an owl?"},
    {"role": "assistant", "content": "An owl says hoo."},
    {"role": "user", "content": "What is 3 + 4?"},
    {"role": "assistant", "content": "3 + 4 = 7."},
]
TALKS = {
    "one turn": TALK[:2],
    "three turns": TALK,
    "one turn, system": [SYSTEM, *TALK[:2]],
    "three turns, system": [SYSTEM, *TALK],
}
QWEN3_TOKENIZER = os.environ.get("POSTTRAIN_QWEN3_TOKENIZER")


@pytest.fixture
def tokenizer(random_model_dir: Path) -> Any:
    return load_model_and_tokenizer(random_model_dir, verbose=False)[1]


def spans(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the tokens of a conversation, and where its supervised stretches begin and end."""
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    edges = [0, *encoded["assistant_masks"], 0]
    changes = [place for place in range(len(edges) - 1) if edges[place] != edges[place + 1]]
    return encoded["input_ids"], list(zip(changes[::2], changes[1::2], strict=True))


def trained_replies(name: str, messages: list[dict[str, str]]) -> list[int]:
    """Return where the replies stand that the conversation holds as they were written."""
    form, replies = FORMATS[name], [i for i, turn in enumerate(messages) if turn["role"] == "assistant"]
    changed = form.last_only == "always" or (form.last_only == "with system" and messages[0] is SYSTEM)
    return replies[-1:] if changed else replies


def check_spans(tokenizer: Any, name: str, messages: list[dict[str, str]]) -> None:
    form = FORMATS[name]
    ids, found = spans(tokenizer, messages)
    replies = trained_replies(name, messages)
    assert len(found) == len(replies)
    for (start, stop), place in zip(found, replies, strict=True):
        # What the model is prompted with when it writes this reply, token by token.
        assert ids[:start] == encode_prompts(tokenizer, [messages[:place]])[0]
        assert tokenizer.decode(ids[start:stop]) == form.opening + messages[place]["content"] + form.end
    assert ids.count(tokenizer.bos_token_id) == form.template.count("bos_token")


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", FORMATS)
def test_replies_are_trained_where_they_are_asked_for(tokenizer: Any, name: str, talk: str) -> None:
    tokenizer = written_in(tokenizer, FORMATS[name])
    assert "marks replies now" in mark_replies(tokenizer)
    if TALKS[talk][0] is SYSTEM and not FORMATS[name].takes_system:
        from jinja2 import TemplateError

        with pytest.raises(TemplateError, match="System role not supported"):
            spans(tokenizer, TALKS[talk])
        return
    check_spans(tokenizer, name, TALKS[talk])


@pytest.mark.parametrize("name", FORMATS)
def test_marks_change_no_text(tokenizer: Any, name: str) -> None:
    own, marked = (written_in(tokenizer, FORMATS[name]) for _ in range(2))
    mark_replies(marked)
    assert own.chat_template != marked.chat_template
    for messages in (TALK[:1], TALK[:2], TALK[:3], TALK):
        for prompt in (True, False):
            options = {"tokenize": False, "add_generation_prompt": prompt}
            assert own.apply_chat_template(messages, **options) == marked.apply_chat_template(
                messages, **options
            )


@pytest.mark.parametrize("name", FORMATS)
def test_it_is_said_which_templates_change_earlier_replies(tokenizer: Any, name: str) -> None:
    sentence = mark_replies(written_in(tokenizer, FORMATS[name]))
    assert ("earlier reply" in sentence) == (FORMATS[name].last_only is not None)


def test_thoughts_are_trained_in_the_last_reply_only(tokenizer: Any) -> None:
    tokenizer = written_in(tokenizer, FORMATS["qwen3"])
    mark_replies(tokenizer)
    talk = [dict(turn) for turn in TALK[:4]]
    talk[1]["content"] = "<think>\nCows moo.\n</think>\n\nA cow says moo."
    talk[3]["content"] = "<think>\nOwls hoo.\n</think>\n\nAn owl says hoo."
    ids, [(start, stop)] = spans(tokenizer, talk)
    asked = tokenizer.apply_chat_template(talk[:3], add_generation_prompt=True, return_dict=False)
    assert ids[:start] == asked  # with thoughts
    assert tokenizer.decode(ids[start:stop]) == talk[3]["content"] + "<|im_end|>"
    assert "Cows moo." not in tokenizer.decode(ids)


def test_space_around_texts_that_a_template_trims(tokenizer: Any) -> None:
    tokenizer = written_in(tokenizer, FORMATS["gemma"])
    mark_replies(tokenizer)
    ids, found = spans(tokenizer, [{**turn, "content": f"\n {turn['content']} \n"} for turn in TALK])
    said = [tokenizer.decode(ids[start:stop]) for start, stop in found]
    assert said == [turn["content"] + "<end_of_turn>" for turn in TALK[1::2]]


def trainer_for(directory: Path, template: Any, rows: list, verbose: bool = False) -> Any:
    from datasets import Dataset
    from small_trainings import small_recipe

    model, tokenizer = load_model_and_tokenizer(directory, verbose=False)
    if isinstance(template, str):
        tokenizer.chat_template = template
    else:
        tokenizer = written_in(tokenizer, template)
        model.resize_token_embeddings(len(tokenizer))
    method = "sft" if "messages" in rows[0] else "dpo"
    return make_trainer(
        small_recipe(method, max_length=256), model, tokenizer, Dataset.from_list(rows), verbose=verbose
    )


@pytest.mark.parametrize("name", FORMATS)
def test_sft_supervises_replies_and_their_end(random_model_dir: Path, name: str) -> None:
    form = FORMATS[name]
    trainer = trainer_for(random_model_dir, form, [{"messages": TALK}] * 4)
    tokenizer, row = trainer.processing_class, trainer.train_dataset[0]
    kept = [label for label in row["labels"] if label != -100]
    replies = [TALK[place]["content"] for place in trained_replies(name, TALK)]
    assert tokenizer.decode(kept) == "".join(form.opening + reply + form.end for reply in replies)
    assert kept.count(tokenizer.eos_token_id) == len(replies)


def test_a_template_that_asks_for_what_no_reply_has_is_refused(random_model_dir: Path) -> None:
    reason = r"asks for a reply with '<think>\\n' and, in its place, renders one as 'xreplyx<|im_end|>\\n'"
    reason = reason.replace("|", r"\|")
    with pytest.raises(CourseError, match=f"told from the questions: the chat template {reason}"):
        trainer_for(random_model_dir, REASONER, [{"messages": TALK}] * 4)
    pair = {"prompt": TALK[:1], "chosen": TALK[1:2], "rejected": TALK[3:4]}
    with pytest.raises(CourseError, match=f"where none is asked for: the chat template {reason}"):
        trainer_for(random_model_dir, REASONER, [pair] * 4)


def test_a_template_that_trl_replaces_is_refused_as_well(random_model_dir: Path) -> None:
    """TRL trains with another template than DeepSeek's own, which asks for thoughts."""
    import trl
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    shipped = Path(trl.__file__).parent / "chat_templates" / "deepseekv3.jinja"
    tokenizer.chat_template = shipped.read_text(encoding="utf-8")
    assert "asks for a reply with '<think>" in mark_replies(tokenizer)
    rows = Dataset.from_list([{"messages": TALK}] * 4)
    args = SFTConfig(assistant_only_loss=True, report_to="none", bf16=False)
    trainer = SFTTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer)
    with pytest.raises(CourseError, match="asks for a reply with '<think>"):
        check_trainer(trainer, rows)


def test_replies_that_are_read_only_are_counted(
    random_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"messages": TALK}] * 3 + [{"messages": TALK[:2]}]
    trainer_for(random_model_dir, FORMATS["qwen3"], rows, verbose=True)
    assert "data: 6 of 10 replies are read but not trained" in capsys.readouterr().out
    trainer_for(random_model_dir, FORMATS["qwen3"], rows[3:], verbose=True)
    trainer_for(random_model_dir, FORMATS["smollm2"], rows, verbose=True)
    assert "read but not trained" not in capsys.readouterr().out


NO_REPLY = "a row of the data has no reply that could be trained"


def test_a_row_whose_only_reply_is_changed(random_model_dir: Path) -> None:
    rows = [{"messages": TALK[:2]}] * 3 + [{"messages": TALK[:3]}]
    trainer_for(random_model_dir, FORMATS["smollm2"], rows)
    with pytest.raises(CourseError, match=NO_REPLY):
        trainer_for(random_model_dir, FORMATS["qwen3"], rows)


def test_a_system_text_that_is_gone_once_the_reply_is_there(random_model_dir: Path) -> None:
    """Some Mistral templates write it only while the question is the last turn."""
    last = MISTRAL.replace("loop.last or (loop.index0 == loop_messages | length - 2)", "loop.last")
    form = dataclasses.replace(FORMATS["mistral"], template=last)
    rows = [{"messages": TALK}, {"messages": [SYSTEM, *TALK]}]
    assert len(trainer_for(random_model_dir, form, rows[:1]).train_dataset) == 1
    with pytest.raises(CourseError, match=NO_REPLY):
        trainer_for(random_model_dir, form, rows)


def test_a_template_that_ends_no_reply(random_model_dir: Path) -> None:
    template = "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    with pytest.raises(CourseError, match="is supervised in none of"):
        trainer_for(random_model_dir, template, [{"messages": TALK[:2]}] * 4)


def test_a_long_conversation_takes_little_longer(tokenizer: Any) -> None:
    """Each reply renders what stands before it: of 20 turns the marks may not take ten times the text."""
    import time

    tokenizer = written_in(tokenizer, FORMATS["smollm2"])
    own = tokenizer.chat_template
    mark_replies(tokenizer)
    talk = [{**TALK[number % 2], "content": TALK[number % 2]["content"] * 10} for number in range(20)]

    def seconds(template: str) -> float:
        def once() -> float:
            start = time.perf_counter()
            tokenizer.apply_chat_template(talk, chat_template=template, return_dict=True)
            return time.perf_counter() - start

        return min(once() for _ in range(5))

    assert seconds(tokenizer.chat_template) < 10 * seconds(own)


@pytest.mark.skipif(not QWEN3_TOKENIZER, reason="POSTTRAIN_QWEN3_TOKENIZER names no tokenizer of Qwen3")
@pytest.mark.parametrize("talk", TALKS)
def test_the_real_tokenizer_of_qwen3(talk: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(QWEN3_TOKENIZER)
    tokenizer.eos_token = "<|im_end|>"
    assert "marks replies now" in mark_replies(tokenizer)
    check_spans(tokenizer, "qwen3", TALKS[talk])
