"""Both trainers compute the divergence in its slow form, and what would be compared wrongly is refused."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.recipes.methods import trainer_class
from posttrain_helpers.stages import build
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.stages.save import other_models
from posttrain_helpers.training.distillation import _same_predictions, check_same_vocabulary
from posttrain_helpers.training.frozen import load_teacher
from posttrain_helpers.training.trainer import make_trainer, train

pytestmark = pytest.mark.usefixtures("output_root")

REPLIES = ("Paris.", "The capital of France is Paris.", "A cow says moo.", "3 + 4 = 7.")
SMALL = {"args.per_device_train_batch_size": 4, "args.max_steps": 2, "args.logging_steps": 1}


@pytest.fixture
def models(random_model_dir: Path, tmp_path: Path) -> tuple[Any, Any, str]:
    """Return a student, its tokenizer, and where a teacher stands."""
    student, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    teacher, _ = load_model_and_tokenizer(random_model_dir, verbose=False)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return student, tokenizer, str(tmp_path / "teacher")


def rows(method: str) -> Dataset:
    prompts = [[{"role": "user", "content": "What is " * (1 + number % 3)}] for number in range(8)]
    if method == "distill_on_policy":
        return Dataset.from_dict({"prompt": prompts})
    replies = [[{"role": "assistant", "content": REPLIES[number % 4]}] for number in range(8)]
    return Dataset.from_dict({"messages": [[*p, *r] for p, r in zip(prompts, replies, strict=True)]})


def trainer_of(method: str, models: tuple[Any, Any, str], **changes: Any) -> Any:
    student, tokenizer, teacher = models
    short = {"args.max_completion_length": 6} if method == "distill_on_policy" else {}
    recipe = load_recipe(method, "tiny", {**SMALL, **short, "teacher": teacher, **changes})
    return make_trainer(recipe, student, tokenizer, rows(method), verbose=False)


def slow_divergence(student: list[float], teacher: list[float], beta: float, temperature: float) -> float:
    """Compute one place, entry by entry."""

    def softmax(logits: list[float]) -> list[float]:
        exponentials = [math.exp((value - max(logits)) / temperature) for value in logits]
        return [value / sum(exponentials) for value in exponentials]

    def kl(p: list[float], q: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)

    p, q = softmax(teacher), softmax(student)
    if beta in (0, 1):
        return kl(q, p) if beta else kl(p, q)
    mixture = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)


def slow_loss(
    trainer: Any, ids: torch.Tensor, attention: torch.Tensor, trained: torch.Tensor, **how: float
) -> float:
    """Return the mean over trained tokens, each predicted at the place before it; one row at a time."""
    values = []
    with torch.no_grad():
        for row, seen, wanted in zip(ids, attention.bool(), trained.bool(), strict=True):
            # Without padding, so that a padded batch is held against rows that have none.
            logits = [
                model(row[seen][None]).logits[0].double() for model in (trainer.model, trainer.teacher_model)
            ]
            for place in wanted[seen].nonzero().flatten().tolist():
                pair = (each[place - 1].tolist() for each in logits)
                values.append(slow_divergence(*pair, **how))
    return sum(values) / len(values)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_on_policy_loss_has_its_slow_form(models: Any, beta: float, temperature: float) -> None:
    trainer = trainer_of("distill_on_policy", models, **{"args.beta": beta, "args.temperature": temperature})
    batch = trainer._generate_and_score_completions(list(trainer.train_dataset.select(range(4))))
    ids, attention = (
        torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], 1) for name in ("ids", "mask")
    )
    trained = torch.cat([torch.zeros_like(batch["prompt_mask"]), batch["completion_mask"]], 1)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch).item()
    assert loss == pytest.approx(
        slow_loss(trainer, ids, attention, trained, beta=beta, temperature=temperature), abs=1e-5
    )


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_offline_loss_has_its_slow_form(models: Any, beta: float) -> None:
    trainer = trainer_of("distill_offline", models, **{"args.beta": beta})
    batch = trainer.data_collator(list(trainer.train_dataset.select(range(4))))
    trained = batch["labels"] != -100
    loss = trainer.compute_loss(trainer.model, batch).item()
    slow = slow_loss(trainer, batch["input_ids"], batch["attention_mask"], trained, beta=beta, temperature=1)
    assert loss == pytest.approx(slow, abs=1e-5)
    # With accumulation the sum is divided by the tokens of the whole step.
    half = trainer.compute_loss(trainer.model, batch, num_items_in_batch=2 * trained.sum()).item()
    assert half == pytest.approx(slow / 2, abs=1e-5)


@pytest.mark.parametrize("method", ["distill_offline", "distill_on_policy"])
def test_a_training_brings_the_student_nearer(method: str, models: Any) -> None:
    trainer = trainer_of(method, models, **{"args.max_steps": 12, "args.learning_rate": 3e-3})
    assert type(trainer) is trainer_class(method)
    train(trainer)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    assert not any(weight.requires_grad for weight in trainer.teacher_model.parameters())


@pytest.mark.parametrize("lora", [None, {"r": 4, "target_modules": "all-linear"}])
def test_a_teacher_that_is_the_student_is_noted(
    lora: Any, models: Any, random_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an adapter too, whose weights have other names."""
    _, tokenizer, teacher = models
    student, _ = load_model_and_tokenizer(random_model_dir, lora=lora, verbose=False)
    trainer_of("distill_offline", (student, tokenizer, teacher))
    assert "nothing to learn" not in capsys.readouterr().out
    mode = student.training
    trainer_of("distill_offline", (student, tokenizer, str(random_model_dir)))
    assert "there is nothing to learn from it" in capsys.readouterr().out
    assert student.training == mode


def test_predictions_are_compared_without_dropout_and_closely() -> None:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 50}
    student = GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.5, embd_pdrop=0.5)).train()
    teacher = copy.deepcopy(student)
    assert _same_predictions(student, teacher)
    assert student.training
    with torch.no_grad():
        teacher.transformer.wte.weight[7] *= 1.01
    assert not _same_predictions(student, teacher)


def test_a_missing_teacher_is_refused_under_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "process_count", lambda: 2)
    recipe = load_recipe("distill_on_policy", "tiny", {"model": "base"})
    with pytest.raises(CourseError, match="is needed, and it does not exist yet"):
        build._resolved_others(recipe)


def test_sampling_is_left_to_the_trainer_that_counts_right(models: Any) -> None:
    with pytest.raises(CourseError, match="take the method distill_on_policy"):
        trainer_of("distill_offline", models, **{"args.lmbda": 0.5})


def test_gkd_counts_the_replies_that_sampled_ones_replace(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason for the refusal; where this fails, TRL has mended it."""
    trainer = trainer_of("distill_offline", models, **{"args.max_steps": 1})
    trainer.lmbda, trainer.generation_config.max_new_tokens = 1.0, 3
    counted, asked = [], []

    def noted(student: Any, teacher: Any, labels: torch.Tensor, num_items_in_batch: Any, **how: Any) -> Any:
        counted.append((int(num_items_in_batch), int((labels != -100).sum())))
        asked.append(how.get("temperature"))
        return original(student, teacher, labels=labels, num_items_in_batch=num_items_in_batch, **how)

    original = trainer.generalized_jsd_loss

    def by_name(student_logits: Any, teacher_logits: Any, **how: Any) -> Any:
        return noted(student_logits, teacher_logits, **how)

    monkeypatch.setattr(trainer, "generalized_jsd_loss", by_name)
    train(trainer)
    ((given, sampled),) = counted
    assert sampled <= 4 * 3 < given  # four replies of three tokens at most
    assert asked == [None]  # the sampling is at args.temperature, the divergence at 1


def test_another_vocabulary_is_refused(models: Any) -> None:
    _, tokenizer, _ = models
    check_same_vocabulary(tokenizer, tokenizer)
    vocabulary = tokenizer.get_vocab()
    first, second = sorted(vocabulary)[-2:]
    swapped = {**vocabulary, first: vocabulary[second], second: vocabulary[first]}
    other = SimpleNamespace(get_vocab=lambda: swapped)
    more = SimpleNamespace(get_vocab=lambda: {**vocabulary, "<more>": len(vocabulary)})
    for pair in ((tokenizer, more), (more, tokenizer)):
        with pytest.raises(CourseError, match=r"1 of them not in the same place, such as '<more>'"):
            check_same_vocabulary(*pair)
    with pytest.raises(
        CourseError, match=rf"2 of them not in the same place, such as {re.escape(repr(first))}"
    ):
        check_same_vocabulary(tokenizer, other)


def test_a_teacher_belongs_to_a_method_that_distils() -> None:
    with pytest.raises(CourseError, match="the method 'sft' has no teacher, but teacher is 'grpo'"):
        load_recipe("sft", "tiny", {"teacher": "grpo"})
    with pytest.raises(CourseError, match="learns from a teacher, but the recipe names none"):
        load_recipe("distill_on_policy", "tiny", {"teacher": None})
    recipe = load_recipe("distill_on_policy", "tiny")
    assert other_models(recipe) == ["grpo"]
    assert recipe.content()["teacher"] == "grpo"
    assert load_recipe("distill_on_policy", "tiny", {"teacher": "sft"}).hash != recipe.hash


def test_a_teacher_that_is_not_there_is_one_sentence() -> None:
    recipe = replace(load_recipe("distill_on_policy"), teacher="nobody")
    with pytest.raises(CourseError, match=r"the teacher 'nobody' is not there yet; load_stage"):
        load_teacher(recipe, None)
