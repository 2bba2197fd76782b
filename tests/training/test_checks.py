"""Each check is tripped by a data set or a model that has the fault, in a trainer as TRL builds it."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from posttrain_helpers.data.loading import load_data
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import Recipe, load_recipe
from posttrain_helpers.recipes.methods import METHODS
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.training.checks import (
    _log_chance_of_run,
    _longest_run,
    check_labels,
    check_positions,
    check_reference,
    check_reference_source,
    check_scored_tokens,
    leave_out_useless_rows,
)
from posttrain_helpers.training.trainer import make_trainer, train

pytestmark = pytest.mark.usefixtures("output_root")

RECIPE = """
method: {method}
parent: base
args: {{max_steps: 1, logging_steps: 1, per_device_train_batch_size: 4, learning_rate: 1e-3, max_length: 64}}
data: {{source: tinyworld/sft, n_train: 8}}
"""
PAIR_METHODS = [name for name, method in METHODS.items() if method.data == "pairs"]
LORA = {"r": 2, "target_modules": "all-linear"}


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    def recipe(method: str, **overrides: Any) -> Recipe:
        path = tmp_path / f"{method}.yaml"
        path.write_text(RECIPE.format(method=method), encoding="utf-8")
        return load_recipe(path, "tiny", {key.replace("__", "."): value for key, value in overrides.items()})

    return recipe


@pytest.fixture
def load(random_model_dir: Path) -> Callable[..., tuple]:
    def load(method: str, **options: Any) -> tuple:
        return load_model_and_tokenizer(random_model_dir, head=METHODS[method].head, verbose=False, **options)

    return load


def pair(chosen: str = "Paris.", rejected: str = "moo.", question: str = "capital?") -> dict:
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def labelled(labels: list[bool]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"{number} + 1?"}],
                "completion": [{"role": "assistant", "content": "7." if label else "moo."}],
                "label": label,
            }
            for number, label in enumerate(labels)
        ]
    )


# --- rows that teach nothing ---


@pytest.mark.parametrize("method", PAIR_METHODS)
def test_good_pairs_all_stay_and_nothing_is_said(
    method: str, recipe, load, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(recipe(method), *load(method), Dataset.from_list([pair()] * 4))
    assert len(trainer.train_dataset) == 4
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("method", PAIR_METHODS)
def test_pairs_with_equal_replies_are_left_out_and_counted(
    method: str, recipe, load, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Dataset.from_list([pair(), pair("moo.", "moo."), pair(), pair("cow", "cow"), pair(), pair()])
    trainer = make_trainer(recipe(method), *load(method), rows)
    assert len(trainer.train_dataset) == 4
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "2 of 6 pairs were left out: their two replies are the same tokens" in printed
    train(trainer)
    make_trainer(recipe(method), *load(method), rows, verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("method", PAIR_METHODS)
def test_only_pairs_with_equal_replies(method: str, recipe, load) -> None:
    with pytest.raises(CourseError, match=r"no pair is left .* of 4 pairs 4 have two equal replies"):
        make_trainer(recipe(method), *load(method), Dataset.from_list([pair("moo.", "moo.")] * 4))


@pytest.mark.parametrize("method", ["dpo", "orpo", "cpo"])
def test_pairs_that_become_equal_when_they_are_cut_off(method: str, recipe, load) -> None:
    rows = Dataset.from_list([pair("a cow says moo moo moo.", "a cow says moo moo owl.")] * 4)
    model, tokenizer = load(method)
    trainer = make_trainer(recipe(method), model, tokenizer, rows)
    row = trainer.train_dataset[0]
    prompt = len(row["prompt_ids"] if method == "dpo" else row["prompt_input_ids"])
    with pytest.raises(CourseError, match=r"4 have two equal replies .* raise max_length"):
        make_trainer(recipe(method, args__max_length=prompt + 3), *load(method), rows)


@pytest.mark.parametrize("method", ["orpo", "cpo"])
def test_replies_of_which_nothing_is_left(
    method: str, recipe, load, capsys: pytest.CaptureFixture[str]
) -> None:
    """These trainers keep such rows, whose loss is 0/0."""
    long = pair(question="What is the capital of France? " * 4)
    trainer = make_trainer(
        recipe(method, args__max_length=30), *load(method), Dataset.from_list([pair(), long] * 4)
    )
    assert len(trainer.train_dataset) == 4
    assert "4 of 8 pairs were left out: a reply has no token" in capsys.readouterr().out
    with pytest.raises(CourseError, match="0 have two equal replies and 4 an empty one"):
        make_trainer(recipe(method, args__max_length=30), *load(method), Dataset.from_list([long] * 4))


def test_one_empty_reply_is_enough(recipe, load, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(recipe("dpo"), *load("dpo"), Dataset.from_list([pair()] * 4))
    tokens = [([5], [6]), ([], [6]), ([5], []), ([], [])]
    monkeypatch.setattr("posttrain_helpers.training.checks._compared", lambda _: tokens)
    (note,) = leave_out_useless_rows(trainer, 4)
    assert note.startswith("3 of 4 pairs were left out: a reply has no token")
    assert len(trainer.train_dataset) == 1


@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_rows_that_trl_drops_are_counted(
    method: str, recipe, load, capsys: pytest.CaptureFixture[str]
) -> None:
    long = pair(question="What is the capital of France? " * 8)
    rows = Dataset.from_list([pair(), long, pair()])
    trainer = make_trainer(recipe(method), *load(method), rows)
    assert len(trainer.train_dataset) == 2
    assert "1 of 3 rows were left out: longer than max_length=64" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["reward", "dpo", "kto"])
def test_no_row_within_max_length(method: str, recipe, load) -> None:
    rows = labelled([True, False] * 4) if method == "kto" else Dataset.from_list([pair()] * 8)
    with pytest.raises(CourseError, match="each of the 8 rows is longer than max_length=4; raise max_length"):
        make_trainer(recipe(method, args__max_length=4), *load(method), rows)


def test_without_max_length_nothing_is_cut_off(recipe, load) -> None:
    trainer = make_trainer(
        recipe("dpo", args__max_length=None), *load("dpo"), Dataset.from_list([pair()] * 4)
    )
    assert leave_out_useless_rows(trainer, 4) == []


# --- the token that a reward model scores ---


def test_a_conversation_that_ends_with_the_padding_token(recipe, load) -> None:
    model, tokenizer = load("reward")
    tokenizer.chat_template = tokenizer.chat_template.rstrip() + "{{ '" + tokenizer.pad_token + "' }}"
    with pytest.raises(CourseError, match=r"in chosen_ids of row 0 ends with the padding token"):
        make_trainer(recipe("reward"), model, tokenizer, Dataset.from_list([pair()] * 4))


def test_only_the_rejected_reply_ends_with_the_padding_token(recipe, load) -> None:
    model, tokenizer = load("reward")
    rows = [{"chosen_ids": [5, 6], "rejected_ids": [5, 7]}, {"chosen_ids": [5], "rejected_ids": [6, 0]}]
    rows[1]["rejected_ids"][-1] = tokenizer.pad_token_id
    with pytest.raises(CourseError, match=r"in rejected_ids of row 1 ends with"):
        make_trainer(recipe("reward"), model, tokenizer, Dataset.from_list(rows))


def test_model_and_collator_with_other_padding(recipe, load) -> None:
    trainer = make_trainer(recipe("reward"), *load("reward"), Dataset.from_list([pair()] * 4))
    check_scored_tokens(trainer)
    for pad in (trainer.processing_class.eos_token_id, None):
        trainer.model.config.pad_token_id = pad
        with pytest.raises(CourseError, match=f"the model takes {pad} for padding"):
            check_scored_tokens(trainer)


# --- the reference model ---


def rows_for(method: str) -> Dataset:
    return labelled([True, False] * 4) if method == "kto" else Dataset.from_list([pair()] * 8)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_model_changed_in_memory_is_not_its_reference(method: str, recipe, load) -> None:
    model, tokenizer = load(method)
    make_trainer(recipe(method), model, tokenizer, rows_for(method))
    model, tokenizer = load(method)
    name, weights = list(model.named_parameters())[-1]
    weights.data[0] += 1e-3
    with pytest.raises(CourseError, match=rf"1 of \d+ weights \(the first is {name}\) .* save the model as"):
        make_trainer(recipe(method), model, tokenizer, rows_for(method))


def test_a_model_with_more_tokens_than_its_directory(recipe, load) -> None:
    model, tokenizer = load("dpo")
    model.resize_token_embeddings(model.get_input_embeddings().num_embeddings + 8)
    with pytest.raises(CourseError, match="the reference model is not the model to be trained"):
        make_trainer(recipe("dpo"), model, tokenizer, rows_for("dpo"))


@pytest.mark.parametrize("source", ["", "/no/longer/there"])
def test_a_model_that_comes_from_nowhere(source: str, recipe, load) -> None:
    model, tokenizer = load("dpo")
    model.config._name_or_path = source
    with pytest.raises(CourseError, match=f"'{source}' is no model directory; save the model as a stage"):
        make_trainer(recipe("dpo"), model, tokenizer, rows_for("dpo"))


def test_online_methods_look_for_a_reference_where_it_has_a_price(load) -> None:
    model, _ = load("sft")
    model.config._name_or_path = ""
    check_reference_source(model, SimpleNamespace(sync_ref_model=False, beta=0.0))
    with pytest.raises(CourseError, match="'' is no model directory"):
        check_reference_source(model, SimpleNamespace(sync_ref_model=False, beta=0.1))


def test_an_adapter_and_precomputed_log_probabilities_need_no_reference_model(recipe, load) -> None:
    for options, overrides in (
        ({"lora": LORA}, {}),
        ({}, {"args__precompute_ref_log_probs": True}),
    ):
        model, tokenizer = load("dpo", **options)
        # Both take the policy itself: what has changed in memory is in their reference as well.
        model.config._name_or_path = ""
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(1.01)
        trainer = make_trainer(recipe("dpo", **overrides), model, tokenizer, rows_for("dpo"))
        assert trainer.ref_model is None
        check_reference(trainer)
        train(trainer)
        first = next(log for log in trainer.state.log_history if "loss" in log)
        assert first["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
        assert first["loss"] == pytest.approx(0.6931, abs=1e-3)


@pytest.fixture
def one_process() -> Iterator[Any]:
    """A group of one process, and the mesh of its devices."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_a_reference_of_which_each_process_holds_a_part(one_process: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    policy = torch.nn.Linear(3, 2)
    policy.config = SimpleNamespace(_name_or_path="sft")
    reference = fully_shard(copy.deepcopy(policy), mesh=one_process)
    accelerator = SimpleNamespace(unwrap_model=lambda model: model)
    trainer = SimpleNamespace(model=policy, ref_model=reference, accelerator=accelerator)
    check_reference(trainer)
    with torch.no_grad():
        policy.bias += 1
    with pytest.raises(CourseError, match=r"1 of 2 weights \(the first is bias\) differ"):
        check_reference(trainer)


# --- the order of labels ---


def test_labels_in_order_and_labels_of_one_kind(recipe, load) -> None:
    model, tokenizer = load("kto")
    mixed = [True, False] * 16
    random.Random(0).shuffle(mixed)
    make_trainer(recipe("kto"), model, tokenizer, labelled(mixed))
    for labels, sentence in (
        (sorted(mixed), "rows 0 to 15 of 32 all have the label False, and KTO trains in the order"),
        ([True] * 8, "all 8 rows have the label True"),
        ([False] * 8, "all 8 rows have the label False"),
    ):
        with pytest.raises(CourseError, match=sentence):
            make_trainer(recipe("kto"), model, tokenizer, labelled(labels))


def with_labels(labels: list[bool], strategy: str = "sequential") -> SimpleNamespace:
    return SimpleNamespace(
        train_dataset={"label": labels}, args=SimpleNamespace(train_sampling_strategy=strategy)
    )


def test_pairs_taken_apart_in_blocks_are_in_order() -> None:
    blocks = ([True] * 1000 + [False] * 1000) * 3
    with pytest.raises(CourseError, match="rows 0 to 999 of 6,000 all have the label True"):
        check_labels(with_labels(blocks))
    check_labels(with_labels(blocks, strategy="random"))


def test_a_sorted_part_behind_a_shuffled_one_is_found() -> None:
    mixed = [True, False] * 500
    random.Random(0).shuffle(mixed)
    with pytest.raises(CourseError, match=r"rows [\d,]+ to 1,\d+ of 1,200 all have"):
        check_labels(with_labels([*mixed, *[True] * 100, *[False] * 100]))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("size", [4, 64, 5000])
def test_shuffled_labels_pass(share: float, size: int) -> None:
    for seed in range(20):
        undesirable = max(1, round(size * (1 - share)))
        labels = [False] * undesirable + [True] * (size - undesirable)
        random.Random(seed).shuffle(labels)
        check_labels(with_labels(labels))


@pytest.mark.parametrize(("desirable", "length"), [(3, 3), (4, 3), (4, 4), (2, 2)])
def test_the_chance_of_a_run_bounds_that_of_all_orders(desirable: int, length: int) -> None:
    labels = [True] * desirable + [False] * 3
    orders = list(itertools.permutations(labels))
    share = sum("1" * length in "".join(str(int(label)) for label in order) for order in orders) / len(orders)
    bound = math.exp(_log_chance_of_run(labels, 0, length))
    assert share - 1e-9 <= bound <= len(labels) * share
    assert _longest_run([False, *[True] * 4, *labels[::-1]]) == (1, 4)


# --- learned positions


@pytest.mark.parametrize(("name", "length"), [("max_length", 65), ("max_completion_length", 100)])
def test_rows_beyond_a_table_of_positions_are_refused(name: str, length: int) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=64))
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 16, "num_hidden_layers": 1}
    opt = OPTForCausalLM(OPTConfig(**sizes, num_attention_heads=2, vocab_size=50, max_position_embeddings=64))
    for model in (gpt2, opt):
        with pytest.raises(CourseError, match=rf"args.{name} is {length}, but .* 64 positions"):
            check_positions(model, SimpleNamespace(**{name: length}))
        for fits in (64, None):
            check_positions(model, SimpleNamespace(**{name: fits}))


def test_rotary_positions_have_no_table(load) -> None:
    model, _ = load("sft")
    assert model.config.max_position_embeddings < 10**6
    check_positions(model, SimpleNamespace(max_length=10**6))


def test_a_trainer_is_not_built_for_rows_beyond_the_table(tmp_path: Path, random_model_dir: Path) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
    settings = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 100, "vocab_size": len(tokenizer)}
    GPT2LMHeadModel(GPT2Config(**settings)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    recipe = load_recipe("sft", "tiny", {"model": str(tmp_path), "data.n_train": 8})
    model, tokenizer = load_model_and_tokenizer(recipe.model, verbose=False)
    with pytest.raises(CourseError, match=r"args.max_length is 128, .* a table of 100 positions"):
        make_trainer(recipe, model, tokenizer, load_data(recipe, verbose=False)[0])


# --- rows that SFT leaves out or cuts ---


def conversation(question: str, reply: str) -> dict:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}],
    }


def test_rows_that_sft_leaves_out_or_cuts_are_counted(
    recipe, load, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        *[conversation("cow?", "A cow says moo.")] * 5,
        *[conversation("cow?", "A cow says moo. " * 20)] * 3,
        *[conversation("What is the capital of France? " * 20, "Paris.")] * 2,
    ]
    replies_only = recipe("sft", args__assistant_only_loss=True)
    trainer = make_trainer(replies_only, *load("sft"), Dataset.from_list(rows))
    assert len(trainer.train_dataset) == 8
    assert capsys.readouterr().out.splitlines() == [
        "data: 2 of 10 rows were left out: no token of a reply is within max_length=64",
        "data: 3 of 8 rows are cut off at max_length=64, before the end token of a reply; raise it, or "
        "shorten them",
    ]


@pytest.mark.parametrize(
    ("strategy", "sentences"),
    [
        (
            "bfd",
            [
                "data: 2 of 10 rows teach nothing: no token of a reply is within max_length=64",
                "data: 3 of 8 rows are cut off at max_length=64, before the end token of a reply; raise it, "
                "or shorten them",
            ],
        ),
        (
            "bfd_split",
            [
                "data: 3 packed rows end within a reply: packing_strategy='bfd_split' splits at "
                "max_length=64 and trains the rest without what came before it; raise max_length, or "
                "shorten the rows"
            ],
        ),
    ],
)
def test_rows_that_sft_cuts_when_it_packs_are_counted(
    strategy: str, sentences: list[str], recipe, load, capsys: pytest.CaptureFixture[str]
) -> None:
    # Between 65 and 128 tokens: two pieces, the first of which is full.
    rows = [
        *[conversation("cow?", "A cow says moo.")] * 5,
        *[conversation("cow?", "A cow says moo. " * 16)] * 3,
        *[conversation("What is the capital of France? " * 10, "Paris.")] * 2,
    ]
    packing = {"args__assistant_only_loss": True, "args__packing": True, "args__packing_strategy": strategy}
    make_trainer(recipe("sft", **packing), *load("sft"), Dataset.from_list(rows))
    assert capsys.readouterr().out.splitlines() == sentences


def test_wrapped_packing_says_that_replies_go_on_in_another_row(
    recipe, load, capsys: pytest.CaptureFixture[str]
) -> None:
    packing = {
        "args__assistant_only_loss": True,
        "args__packing": True,
        "args__packing_strategy": "wrapped",
    }
    rows = [conversation("cow?", "A cow says moo. " * 20)]
    trainer = make_trainer(recipe("sft", **packing), *load("sft"), Dataset.from_list(rows))
    assert [len(row) for row in trainer.train_dataset["labels"]][:2] == [64, 64]
    (line,) = capsys.readouterr().out.splitlines()
    assert "2 packed rows end within a reply: packing_strategy='wrapped' splits at max_length=64" in line


def test_rows_of_sft_that_fit_are_not_mentioned(recipe, load, capsys: pytest.CaptureFixture[str]) -> None:
    fitting = conversation("cow?", "A cow says moo.")
    make_trainer(recipe("sft"), *load("sft"), Dataset.from_list([fitting] * 4))
    trainer = make_trainer(
        recipe("sft", args__max_length=None), *load("sft"), Dataset.from_list([fitting] * 4)
    )
    exact = len(trainer.train_dataset[0]["input_ids"])
    for packing in (False, True):
        exactly = recipe("sft", args__max_length=exact, args__packing=packing)
        make_trainer(exactly, *load("sft"), Dataset.from_list([fitting] * 4))
    assert capsys.readouterr().out == ""


def test_a_last_reply_that_is_cut_counts_though_an_earlier_one_ended(
    recipe, load, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = conversation("cow?", "A cow says moo."), conversation("And?", "A cow says moo. " * 20)
    rows = Dataset.from_list([{"messages": first["messages"] + last["messages"]}] * 4)
    make_trainer(recipe("sft", args__assistant_only_loss=True), *load("sft"), rows)
    assert "data: 4 of 4 rows are cut off at max_length=64" in capsys.readouterr().out


def test_a_reply_that_just_fits_is_not_cut(recipe, load, capsys: pytest.CaptureFixture[str]) -> None:
    rows = Dataset.from_list([pair("A cow says moo. " * 3)] * 4)
    row = make_trainer(recipe("dpo"), *load("dpo"), rows).train_dataset[0]
    exact = len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
    assert exact < 64
    for length, cut in ((exact, False), (exact - 1, True)):
        capsys.readouterr()
        make_trainer(recipe("dpo", args__max_length=length), *load("dpo"), rows)
        assert (f"4 of 4 rows are cut off at max_length={length}" in capsys.readouterr().out) is cut


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto"])
def test_replies_that_are_cut_off_are_counted(
    method: str, recipe, load, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "A cow says moo. " * 20
    rows = Dataset.from_list([pair(), pair(long, "moo."), pair("Paris.", long), pair()])
    if method == "kto":
        pairs = [(True, "Paris."), (False, "moo."), (True, long), (False, long)]
        rows = Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": "cow?"}],
                    "completion": [{"role": "assistant", "content": text}],
                    "label": label,
                }
                for label, text in pairs
            ]
        )
    make_trainer(recipe(method), *load(method), rows)
    assert "data: 2 of 4 rows are cut off at max_length=64" in capsys.readouterr().out


# --- packages that are not installed ---


@pytest.mark.parametrize(
    ("argument", "value", "package"),
    [
        ("report_to", "wandb", "wandb"),
        ("report_to", "mlflow", "mlflow"),
        ("report_to", "tensorboard", "tensorboard"),
        ("optim", "grokadamw", "grokadamw"),
        ("optim", "adamw_bnb_8bit", "bitsandbytes"),
        ("optim", "galore_adamw", "galore"),
        ("use_liger_kernel", True, "liger"),
        ("deepspeed", {"zero_optimization": {"stage": 1}}, "deepspeed"),
    ],
)
def test_a_package_that_is_not_installed_is_named(
    argument: str, value: object, package: str, recipe, load
) -> None:
    from importlib.util import find_spec

    from posttrain_helpers.training.trainer import train

    if any(find_spec(name) for name in (package, f"{package}_torch", f"{package}_kernel")):
        pytest.skip(f"{package} is installed")
    rows = Dataset.from_list([conversation("cow?", "moo.")] * 4)

    def build_and_train() -> None:
        train(make_trainer(recipe("sft", **{f"args__{argument}": value}), *load("sft"), rows))

    sentence = f"(?i)package that is not installed: .*{package}.*pip install"
    with pytest.raises(CourseError, match=sentence) as kept:
        build_and_train()
    assert kept.value.__traceback__ is not None  # a notebook keeps the last error, and what it refers to
    load("sft")
