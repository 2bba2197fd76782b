from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.length_profile import LengthProfile, length_profile, recipe_length_profile
from posttrain_helpers.recipes import load_recipe

PROFILE = LengthProfile((10, 20, 30, 40), max_length=25)


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


def test_shares_of_rows_and_tokens() -> None:
    assert (PROFILE.rows, PROFILE.cut_rows, PROFILE.lost_tokens) == (4, 0.5, 0.2)
    assert [PROFILE.quantile(share) for share in (0, 0.25, 0.5, 0.51, 1)] == [10, 10, 20, 30, 40]
    unlimited = LengthProfile((10, 20))
    assert (unlimited.cut_rows, unlimited.lost_tokens) == (0.0, 0.0)
    at_the_limit = LengthProfile((25,), max_length=25)
    assert (at_the_limit.cut_rows, at_the_limit.lost_tokens) == (0.0, 0.0)


def test_a_pair_is_cut_if_either_reply_is() -> None:
    pairs = LengthProfile((10, 20, 30, 10, 40, 40, 5, 5), sequences_per_row=2, max_length=25)
    assert (pairs.rows, pairs.cut_rows) == (4, 0.5)
    assert pairs.lost_tokens == pytest.approx((5 + 15 + 15) / 160)


def test_sentences() -> None:
    assert PROFILE.sentence() == repr(PROFILE)
    assert PROFILE.sentence() == (
        "4 rows of 10 to 40 tokens (median 20, 95 % within 40); max_length 25 cuts 50.0% of the rows and "
        "20.0% of the tokens."
    )
    assert LengthProfile((7,)).sentence() == (
        "1 row of 7 to 7 tokens (median 7, 95 % within 7); no max_length is set, so nothing is cut."
    )
    assert "1,234 tokens" in LengthProfile((7, 1234), 2).sentence()
    assert LengthProfile((7, 9), 2).sentence().startswith("1 pair of 7")


def test_a_share_is_between_0_and_1() -> None:
    with pytest.raises(CourseError, match="a share must be between 0 and 1, but it is 95"):
        PROFILE.quantile(95)


def test_histogram_counts_every_sequence() -> None:
    counts, edges = PROFILE.histogram(bins=4)
    assert counts.tolist() == [0, 1, 1, 2]
    assert edges.tolist() == [0, 10, 20, 30, 40]


def test_plot_marks_what_is_cut() -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.colors import to_hex

    from posttrain_helpers.plots import BLUE, ORANGE

    axes = PROFILE.plot(title="lengths")
    assert axes.get_title() == "lengths"
    heights = {BLUE: 0.0, ORANGE: 0.0}
    for bar in axes.patches:
        heights[to_hex(bar.get_facecolor())] += bar.get_height()
    assert heights == {BLUE: 2.0, ORANGE: 2.0}
    assert [line.get_xdata()[0] for line in axes.lines] == [25]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert set(texts) == {"max_length 25", "kept whole", "cut: 50.0% of the rows"}
    plain = LengthProfile((10, 20)).plot()
    assert not plain.lines
    assert plain.get_legend() is None
    assert sum(bar.get_height() for bar in plain.patches) == 2
    pyplot.close("all")


def test_lengths_are_those_of_the_chat_template(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    whole, other = tokens(tokenizer, QUESTION, ANSWER), tokens(tokenizer, QUESTION, OTHER)
    prompt = tokens(tokenizer, QUESTION, add_generation_prompt=True)
    assert prompt < whole < other
    pair = {"chosen": [ANSWER], "rejected": [OTHER]}
    expected = {
        "messages": ([{"messages": [QUESTION, ANSWER]}] * 2, (whole, whole), 1),
        "prompt and completion": ([{"prompt": [QUESTION], "completion": [OTHER]}], (other,), 1),
        "labels": ([{"prompt": [QUESTION], "completion": [ANSWER], "label": True}], (whole,), 1),
        "pairs": ([{"prompt": [QUESTION], **pair}], (whole, other), 2),
        "prompt in both": (
            [{side: [QUESTION, *row] for side, row in pair.items()}],
            (whole, other),
            2,
        ),
        "prompts": ([{"prompt": [QUESTION], "answer": "Paris"}], (prompt,), 1),
    }
    for rows, lengths, size in expected.values():
        found = length_profile(rows, tokenizer, max_length=9)
        assert found == LengthProfile(lengths, size, 9)
        assert capsys.readouterr().out == f"{found.sentence()}\n"


def test_many_rows_keep_their_order(tokenizer: Any) -> None:
    rows = [{"messages": [user("cow " * (n % 7 + 1)), reply("moo")]} for n in range(600)]
    found = length_profile(rows, tokenizer, verbose=False)
    assert found.lengths[:7] == tuple(tokens(tokenizer, *row["messages"]) for row in rows[:7])
    assert found.lengths == found.lengths[:7] * 85 + found.lengths[:5]


def test_a_data_set_of_the_trainer(tokenizer: Any) -> None:
    from datasets import Dataset

    train = Dataset.from_list([{"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [OTHER]}] * 3)
    assert length_profile(train, tokenizer, verbose=False).rows == 3


def test_the_limit_of_a_recipe(tokenizer: Any, output_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"messages": [QUESTION, ANSWER]}]
    recipe = load_recipe("sft", "tiny")
    assert recipe_length_profile(recipe, rows, tokenizer).max_length == recipe.args["max_length"] == 128
    assert "max_length 128 cuts" in capsys.readouterr().out
    own = replace(recipe, data={"source": "mine.jsonl", "max_length": 7})
    assert recipe_length_profile(own, rows, tokenizer, verbose=False).max_length == 7
    assert not capsys.readouterr().out


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
        assert list(length_profile(rows[kind], tokenizer, verbose=False).lengths) == theirs


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "128"])
def test_a_limit_is_a_count(tokenizer: Any, limit: Any) -> None:
    with pytest.raises(CourseError, match="max_length must be a whole number of at least 1, but it is"):
        length_profile([{"messages": [QUESTION, ANSWER]}], tokenizer, limit)


def test_rows_that_have_no_length(tokenizer: Any) -> None:
    with pytest.raises(CourseError, match="the data set has no rows, so it has no lengths"):
        length_profile([], tokenizer)
    with pytest.raises(CourseError, match=r"neither messages, nor a prompt, .*; found the columns text"):
        length_profile([{"text": "a"}], tokenizer)
    tokenizer.chat_template, template = None, tokenizer.chat_template
    try:
        with pytest.raises(CourseError, match="the tokenizer has no chat template"):
            length_profile([{"messages": [QUESTION, ANSWER]}], tokenizer)
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
    assert length_profile([{"messages": [QUESTION, ANSWER]}], tokenizer, verbose=False).lengths == (whole,)


def test_a_row_that_the_template_refuses(random_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(random_model_dir)
    own.chat_template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('turns must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    turns = [QUESTION, QUESTION, ANSWER]
    assert length_profile([{"messages": turns[1:]}], own, verbose=False).rows == 1
    with pytest.raises(
        CourseError, match="a row with the turns user, user, assistant: turns must alternate;"
    ):
        length_profile([{"messages": turns}], own)
