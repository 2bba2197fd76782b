from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from posttrain_helpers import training
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models import load_model_and_tokenizer
from posttrain_helpers.recipes import Recipe, load_recipe
from posttrain_helpers.training import check_supervision, config_class, make_trainer, train, trainer_class

pytestmark = pytest.mark.usefixtures("output_root")

WITHOUT_MARKERS = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' "
    "}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
END_OUTSIDE = WITHOUT_MARKERS.replace(
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}",
    "{% if message.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}{{ message.content "
    "}}{% endgeneration %}{{ '<|im_end|>\n' }}{% else %}{{ '<|im_start|>user\n' + message.content + "
    "'<|im_end|>\n' }}"
    "{% endif %}",
)


def rows(n: int = 8, reply: str = "The capital of France is Paris.") -> Dataset:
    question = {"role": "user", "content": "What is the capital of France?"}
    return Dataset.from_list([{"messages": [question, {"role": "assistant", "content": reply}]}] * n)


def recipe(**overrides: Any) -> Recipe:
    small = {"args.per_device_train_batch_size": 4, "args.gradient_accumulation_steps": 1}
    changed = {**small, "args.logging_steps": 1, **overrides}
    return load_recipe("sft", "tiny", {key.replace("__", "."): value for key, value in changed.items()})


@pytest.fixture
def pair(random_model_dir: Path):
    return load_model_and_tokenizer(random_model_dir, verbose=False)


def test_registry() -> None:
    from trl import SFTConfig, SFTTrainer

    assert config_class("sft") is SFTConfig
    assert issubclass(trainer_class("sft"), SFTTrainer)
    with pytest.raises(CourseError, match=r"'stf' does not exist; did you mean 'sft'\?"):
        config_class("stf")


def test_training_learns_logs_and_leaves_the_model_ready(pair, capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = pair
    fast = recipe(args__num_train_epochs=10, args__learning_rate=1e-2)
    trainer = make_trainer(fast, model, tokenizer, rows())
    metrics = train(trainer)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0] / 2
    assert metrics["train_runtime"] > 0
    assert not trainer.model.training
    assert capsys.readouterr().out == ""


def test_exactly_the_reply_and_its_end_are_supervised(pair) -> None:
    model, tokenizer = pair
    row = make_trainer(recipe(), model, tokenizer, rows(1, "Paris.")).train_dataset[0]
    supervised = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(supervised) == "Paris.<|im_end|>"


def test_padding_does_not_hide_the_end_token(pair) -> None:
    model, tokenizer = pair
    trainer = make_trainer(recipe(), model, tokenizer, rows(2))
    short = [trainer.train_dataset[0], {key: value[:-3] for key, value in trainer.train_dataset[1].items()}]
    labels = trainer.data_collator(short)["labels"]
    assert (labels[0] == tokenizer.eos_token_id).sum() == 1


def test_callbacks_are_called(pair) -> None:
    from transformers import TrainerCallback

    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    train(make_trainer(recipe(), *pair, rows(), callbacks=[Count()]))
    assert steps == [1, 2]


def test_same_seed_same_weights(random_model_dir: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
        data = Dataset.from_list([row for n in range(8) for row in rows(1, f"Reply {n}.")])
        train(make_trainer(recipe(seed=seed, args__learning_rate=1e-2), model, tokenizer, data))
        return model.get_input_embeddings().weight.detach().clone()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_missing_columns(pair) -> None:
    with pytest.raises(CourseError, match=r"needs: messages or prompt\+completion .*found answer, question"):
        make_trainer(recipe(), *pair, Dataset.from_list([{"question": "q", "answer": "a"}]))


def test_empty_training_set(pair) -> None:
    with pytest.raises(CourseError, match="no rows"):
        make_trainer(recipe(), *pair, rows().select([]))


def test_a_value_that_the_config_refuses(pair) -> None:
    with pytest.raises(CourseError, match=r"recipe 'sft': SFTConfig refuses its arguments: .*warmdown"):
        make_trainer(recipe(args__lr_scheduler_type="warmdown"), *pair, rows())


def test_template_without_markers(pair) -> None:
    model, tokenizer = pair
    tokenizer.chat_template = WITHOUT_MARKERS
    with pytest.raises(CourseError, match=r"no {% generation %} markers and TRL does not know it"):
        make_trainer(recipe(), model, tokenizer, rows())
    make_trainer(recipe(args__assistant_only_loss=False), model, tokenizer, rows())


def test_no_template(pair) -> None:
    model, tokenizer = pair
    tokenizer.chat_template = None
    with pytest.raises(CourseError, match="has no chat template"):
        make_trainer(recipe(), model, tokenizer, rows())


def test_template_that_hides_the_end_token(pair) -> None:
    model, tokenizer = pair
    tokenizer.chat_template = END_OUTSIDE
    with pytest.raises(CourseError, match=r"end token '<\|im_end\|>' is supervised in none of 8 rows"):
        make_trainer(recipe(), model, tokenizer, rows())


def test_replies_cut_off_before_their_end(pair) -> None:
    model, tokenizer = pair
    length = len(make_trainer(recipe(), model, tokenizer, rows(1)).train_dataset[0]["input_ids"])
    with pytest.raises(CourseError, match="raise max_length if replies are cut off"):
        make_trainer(recipe(args__max_length=length - 3), model, tokenizer, rows())


def test_replies_that_begin_after_max_length(pair) -> None:
    with pytest.raises(CourseError, match="no row has a supervised token within max_length=5"):
        make_trainer(recipe(args__max_length=5), *pair, rows())


def labelled(pair, *labels: list[int], **overrides: Any):
    data = Dataset.from_list([{"input_ids": list(range(len(row))), "labels": row} for row in labels])
    return make_trainer(
        recipe(args__assistant_only_loss=False, args__max_length=None, **overrides), *pair, data
    )


def test_rows_without_a_supervised_token(pair) -> None:
    end = pair[1].eos_token_id
    labelled(pair, [-100, 5, end], [-100, end])
    with pytest.raises(CourseError, match=r"1 of 2 rows have no supervised token \(the first is row 1\)"):
        labelled(pair, [-100, 5, end], [-100, -100])
    with pytest.raises(CourseError, match="2 of 2 rows"):
        labelled(pair, [-100, -100], [-100, -100])


def test_packing_may_cut_a_question_into_a_row_of_its_own(pair) -> None:
    end = pair[1].eos_token_id
    trainer = labelled(pair, [-100, 5, end], [-100, end])
    trainer.train_dataset = Dataset.from_list([{"labels": [-100, -100]}, {"labels": [5, end]}])
    trainer.args.packing = True
    check_supervision(trainer)
    trainer.train_dataset = trainer.train_dataset.select([0])
    with pytest.raises(CourseError, match="1 of 1 rows"):
        check_supervision(trainer)


def test_gpu_out_of_memory_is_one_sentence(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(recipe(), *pair, rows())

    def explode(*args: object, **kwargs: object) -> None:
        trainer.model.train()
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(trainer, "train", explode)
    with pytest.raises(CourseError, match=r"per_device_train_batch_size=4 \(CUDA out of memory\); lower it"):
        train(trainer)
    assert not trainer.model.training


def test_another_trainer_class_is_one_entry(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    import trl

    class Quiet(trl.SFTTrainer):
        pass

    monkeypatch.setattr(training, "Quiet", Quiet, raising=False)
    method = replace(training.METHODS["sft"], trainer="posttrain_helpers.training:Quiet")
    monkeypatch.setitem(training.METHODS, "sft", method)
    assert type(make_trainer(recipe(), *pair, rows())) is Quiet
