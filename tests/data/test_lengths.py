from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.data.lengths import length_counts, length_profile, length_sentence, token_lengths
from posttrain_helpers.errors import CourseError


@pytest.fixture(scope="module")
def tokenizer(random_model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(random_model_dir)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


QUESTION, ANSWER, OTHER = user("capital of France?"), reply("Paris."), reply("The capital is Paris. " * 6)


def tokens(tokenizer: Any, *messages: dict[str, str], **settings: Any) -> int:
    return len(tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=False, **settings))


def test_what_is_cut_of_rows() -> None:
    lengths = [[10], [20], [30], [40]]
    assert length_sentence(lengths, 25) == (
        "4 rows of 10 to 40 tokens (median 20, 95 % within 40); max_length 25 cuts 50.0% of the rows and "
        "20.0% of the tokens."
    )
    assert "cuts 25.0% of the rows and 10.0% of the tokens" in length_sentence(lengths, 30)
    assert "cuts 0.0% of the rows and 0.0% of the tokens" in length_sentence(lengths, 40)
    assert length_sentence([[7]]) == (
        "1 row of 7 to 7 tokens (median 7, 95 % within 7); no max_length is set, so nothing is cut."
    )


def test_a_pair_is_cut_if_either_reply_is() -> None:
    pairs = [[10, 20], [30, 10], [40, 40], [5, 1234]]
    sentence = length_sentence(pairs, 1000)
    assert sentence.startswith("4 pairs of 5 to 1,234 tokens (median 20,")
    assert sentence.endswith("max_length 1,000 cuts 25.0% of the pairs and 16.8% of the tokens.")
    assert "cuts 75.0% of the pairs" in length_sentence(pairs, 29)


def test_a_profile_of_lengths_is_a_histogram_with_shares() -> None:
    counts = length_counts([[3, 9], [8, 2], [16, 16], [33, 1]])
    assert {edge: (each["rows"], each["rows_cut"]) for edge, each in counts.items()} == {
        8: (1, 0.75),
        16: (2, 0.25),
        32: (0, 0.25),
        64: (1, 0.0),
    }
    assert counts[32]["tokens_cut"] == pytest.approx(1 / 88)
    lines = length_profile(counts).splitlines()
    assert lines[2].startswith(f"     9 –     16         2  {'█' * 30}  25.0% of the rows, 19.3% of")
    assert length_counts([[1]]) == {1: {"rows": 1, "rows_cut": 0.0, "tokens_cut": 0.0}}


def test_lengths_are_those_of_the_chat_template(tokenizer: Any) -> None:
    from datasets import Dataset

    whole, other = tokens(tokenizer, QUESTION, ANSWER), tokens(tokenizer, QUESTION, OTHER)
    prompt = tokens(tokenizer, QUESTION, add_generation_prompt=True)
    assert prompt < whole < other
    last = (QUESTION, ANSWER, QUESTION)
    pair = {"chosen": [ANSWER], "rejected": [OTHER]}
    expected = {
        "messages": ({"messages": [QUESTION, ANSWER]}, [whole]),
        "prompt and completion": ({"prompt": [QUESTION], "completion": [OTHER]}, [other]),
        "labels": ({"prompt": [QUESTION], "completion": [ANSWER], "label": True}, [whole]),
        "pairs": ({"prompt": [QUESTION], **pair}, [whole, other]),
        "prompt in both": ({side: [QUESTION, *row] for side, row in pair.items()}, [whole, other]),
        "prompts": ({"prompt": [QUESTION], "answer": "Paris"}, [prompt]),
        "no last reply": ({"messages": [QUESTION, ANSWER, QUESTION]}, [tokens(tokenizer, *last)]),
    }
    for row, lengths in expected.values():
        assert token_lengths([row, row], tokenizer) == [lengths, lengths]
        assert token_lengths(Dataset.from_list([row] * 3), tokenizer) == [lengths] * 3


def test_rows_keep_their_order(tokenizer: Any) -> None:
    rows = [{"messages": [user("cow " * (n % 7 + 1)), reply("moo")]} for n in range(14)]
    assert token_lengths(rows, tokenizer) == [[tokens(tokenizer, *row["messages"])] for row in rows]


def config(kind: type, path: Path, **settings: Any) -> Any:
    cpu = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    return kind(output_dir=str(path), max_length=None, activation_checkpointing=False, **cpu, **settings)


def test_trl_makes_as_many_tokens(tokenizer: Any, random_model_dir: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

    more = [user("A cow?"), reply("moo"), user("An owl?")]
    rows = {
        SFTTrainer: [{"messages": [QUESTION, ANSWER]}, {"messages": [*more, reply("It can fly.")]}],
        DPOTrainer: [{"prompt": more, "chosen": [reply("fly")], "rejected": [OTHER]}],
        KTOTrainer: [{"prompt": more, "completion": [reply("fly")], "label": n < 1} for n in range(2)],
    }
    configs = {SFTTrainer: SFTConfig, DPOTrainer: DPOConfig, KTOTrainer: KTOConfig}
    parts = {
        SFTTrainer: [("input_ids",)],
        DPOTrainer: [("prompt_ids", "chosen_ids"), ("prompt_ids", "rejected_ids")],
        KTOTrainer: [("prompt_ids", "completion_ids")],
    }
    for kind, sequences in parts.items():
        trainer = kind(
            model=str(random_model_dir),
            args=config(configs[kind], tmp_path),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows[kind]),
        )
        theirs = [
            sum(len(row[part]) for part in sequence)
            for row in trainer.train_dataset
            for sequence in sequences
        ]
        assert [count for row in token_lengths(rows[kind], tokenizer) for count in row] == theirs


def test_rows_that_have_no_length(tokenizer: Any) -> None:
    with pytest.raises(CourseError, match="the data set has no rows, so it has no lengths"):
        token_lengths([], tokenizer)
    with pytest.raises(CourseError, match=r"neither messages, nor a prompt, .*; found the columns text"):
        token_lengths([{"text": "a"}], tokenizer)
    tokenizer.chat_template, template = None, tokenizer.chat_template
    try:
        with pytest.raises(CourseError, match="the tokenizer has no chat template"):
            token_lengths([{"messages": [QUESTION, ANSWER]}], tokenizer)
    finally:
        tokenizer.chat_template = template


def test_a_begin_token_is_not_counted_twice(random_model_dir: Path) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{end} $A", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    assert tokenizer("cow")["input_ids"][0] == tokenizer.eos_token_id  # as Llama's tokenizer does
    # Whatever the template wants at the beginning is in its text already.
    whole = tokens(tokenizer, QUESTION, ANSWER)
    assert token_lengths([{"messages": [QUESTION, ANSWER]}], tokenizer) == [[whole]]


def test_a_row_that_the_template_refuses(random_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(random_model_dir)
    own.chat_template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('turns must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    turns = [QUESTION, QUESTION, ANSWER]
    assert len(token_lengths([{"messages": turns[1:]}], own)) == 1
    with pytest.raises(
        CourseError, match="a row with the turns user, user, assistant: turns must alternate;"
    ):
        token_lengths([{"messages": turns}], own)
