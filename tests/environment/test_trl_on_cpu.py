from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.utils as trl_utils
from datasets import Dataset
from rounding import ADAM_EPSILON, SAME_WEIGHTS
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from posttrain_helpers.environment.runtime import prepare_trainers
from posttrain_helpers.environment.trl_on_cpu import skip_untrained_positions
from posttrain_helpers.recipes.methods import config_class

LENGTHS = (5, 9, 12, 20, 7, 30, 14, 6, 25, 11, 8, 16, 10, 28, 13, 22)


@pytest.fixture(autouse=True)
def trl_as_it_is() -> Iterator[None]:
    """Each test starts with TRL's own choice and leaves what it found."""
    found = trl_utils._use_triton
    trl_utils._use_triton = getattr(found, "without_cpu", found)
    yield
    trl_utils._use_triton = found


@pytest.fixture
def rows() -> Dataset:
    """16 tokenized rows of many lengths; the first half of each is not trained."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(10, 300, (length,), generator=generator).tolist() for length in LENGTHS]
    labels = [[-100] * (len(row) // 2) + row[len(row) // 2 :] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def new_trainer(model_dir: Path, rows: Dataset, output: Path, **args: Any) -> SFTTrainer:
    defaults = {
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "adam_epsilon": ADAM_EPSILON,
        "per_device_train_batch_size": 8,
        "max_steps": 3,
    }
    return SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model_dir),
        args=SFTConfig(str(output), **{**defaults, **args}),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(model_dir),
    )


def loss_and_gradients(trainer: SFTTrainer, batch: dict[str, torch.Tensor]) -> tuple[float, torch.Tensor]:
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients)


def weights(trainer: SFTTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_only_trained_positions_are_projected(
    random_model_dir: Path, rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = new_trainer(random_model_dir, rows, tmp_path)
    batch = trainer.data_collator(list(rows))
    projected: list[int] = []
    apply = trl_utils._ChunkedLogProbFunction.apply

    def counting(hidden: torch.Tensor, *arguments: Any) -> Any:
        projected.append(len(hidden))
        return apply(hidden, *arguments)

    monkeypatch.setattr(trl_utils._ChunkedLogProbFunction, "apply", counting)
    loss_and_gradients(trainer, batch)
    assert skip_untrained_positions()
    loss_and_gradients(trainer, batch)
    trained = int((batch["labels"][:, 1:] != -100).sum())
    assert projected == [len(LENGTHS) * (max(LENGTHS) - 1), trained]


def test_loss_and_gradients_are_those_of_trl(random_model_dir: Path, rows: Dataset, tmp_path: Path) -> None:
    trainer = new_trainer(random_model_dir, rows, tmp_path)
    batch = trainer.data_collator(list(rows))
    loss, gradients = loss_and_gradients(trainer, batch)
    assert gradients.abs().max() > 1e-3
    skip_untrained_positions()
    other_loss, other_gradients = loss_and_gradients(trainer, batch)
    assert other_loss == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close(other_gradients, gradients, atol=1e-6, rtol=0)


def test_loss_is_that_of_the_plain_model(random_model_dir: Path, rows: Dataset, tmp_path: Path) -> None:
    trainer = new_trainer(random_model_dir, rows, tmp_path)
    batch = trainer.data_collator(list(rows))
    skip_untrained_positions()
    loss, gradients = loss_and_gradients(trainer, batch)
    plain = AutoModelForCausalLM.from_pretrained(random_model_dir).train()
    expected = plain(**batch).loss
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(
        gradients, torch.cat([p.grad.flatten() for p in plain.parameters()]), atol=1e-6, rtol=0
    )


def test_batch_without_trained_positions_gives_a_finite_zero(
    random_model_dir: Path, rows: Dataset, tmp_path: Path
) -> None:
    trainer = new_trainer(random_model_dir, rows, tmp_path)
    batch = trainer.data_collator(list(rows))
    batch["labels"] = torch.full_like(batch["labels"], -100)
    skip_untrained_positions()
    loss, gradients = loss_and_gradients(trainer, batch)
    assert loss == 0.0
    assert gradients.abs().max() == 0.0


def test_training_gives_the_same_weights_and_metrics(
    random_model_dir: Path, rows: Dataset, tmp_path: Path
) -> None:
    unmodified = new_trainer(random_model_dir, rows, tmp_path / "unmodified")
    before = weights(unmodified)
    unmodified.train()
    skip_untrained_positions()
    trainer = new_trainer(random_model_dir, rows, tmp_path / "skipping")
    trainer.train()
    assert (weights(unmodified) - before).abs().max() > 1e-3
    torch.testing.assert_close(weights(trainer), weights(unmodified), atol=SAME_WEIGHTS, rtol=0)
    for entry, expected in zip(
        trainer.state.log_history[:-1], unmodified.state.log_history[:-1], strict=True
    ):
        for name in ("loss", "grad_norm", "entropy", "mean_token_accuracy", "num_tokens", "learning_rate"):
            assert entry[name] == pytest.approx(expected[name], rel=1e-5), name


def test_trained_model_saves_reloads_and_generates(
    random_model_dir: Path, rows: Dataset, tmp_path: Path
) -> None:
    skip_untrained_positions()
    trainer = new_trainer(random_model_dir, rows, tmp_path / "run")
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    trained = trainer.model.eval()
    prompt = torch.tensor([rows[0]["input_ids"]])
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    torch.testing.assert_close(trained(prompt).logits, reloaded(prompt).logits)
    assert torch.equal(trained.generate(prompt, **options), reloaded.generate(prompt, **options))


def test_rebalanced_micro_batches_train_as_one_random_batch(
    random_model_dir: Path, rows: Dataset, tmp_path: Path
) -> None:
    """One step learns the same from 16 rows at once and from two micro-batches sorted by length."""
    skip_untrained_positions()
    one_step = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0}
    whole = new_trainer(
        random_model_dir, rows, tmp_path / "whole", per_device_train_batch_size=16, **one_step
    )
    rebalanced = new_trainer(
        random_model_dir,
        rows,
        tmp_path / "rebalanced",
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        train_sampling_strategy="batch_rebalance",
        **one_step,
    )
    shapes = [tuple(batch["input_ids"].shape) for batch in rebalanced.get_train_dataloader()]
    assert sum(height for height, _ in shapes) == len(LENGTHS)
    assert sum(height * width for height, width in shapes) < 0.8 * len(LENGTHS) * max(LENGTHS)
    before = weights(whole)
    whole.train()
    rebalanced.train()
    assert rebalanced.state.global_step == 1
    assert (weights(whole) - before).abs().max() > 1e-3
    torch.testing.assert_close(weights(rebalanced), weights(whole), atol=SAME_WEIGHTS, rtol=0)
    assert rebalanced.state.log_history[0]["loss"] == pytest.approx(
        whole.state.log_history[0]["loss"], abs=1e-5
    )


def test_rebalanced_epochs_differ_and_use_every_row(
    random_model_dir: Path, rows: Dataset, tmp_path: Path
) -> None:
    trainer = new_trainer(
        random_model_dir,
        rows,
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        train_sampling_strategy="batch_rebalance",
    )
    loader = trainer.get_train_dataloader()
    epochs = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        epochs.append([row for batch in loader for row in batch["attention_mask"].sum(1).tolist()])
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(LENGTHS)
    assert epochs[0] != epochs[1]


def test_only_the_cpu_changes_and_only_once() -> None:
    original = trl_utils._use_triton
    assert skip_untrained_positions()
    assert skip_untrained_positions()
    assert trl_utils._use_triton(torch.device("cpu"))
    for name in ("cuda", "mps"):
        assert trl_utils._use_triton(torch.device(name)) == original(torch.device(name))
    assert trl_utils._use_triton.without_cpu is original


def test_another_trl_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trl_utils, "_use_triton")
    assert not skip_untrained_positions()
    assert not hasattr(trl_utils, "_use_triton")


def test_a_config_class_changes_nothing_and_preparing_trainers_does() -> None:
    config_class("sft")
    assert not hasattr(trl_utils._use_triton, "without_cpu")
    prepare_trainers()
    assert trl_utils._use_triton(torch.device("cpu"))


@pytest.mark.parametrize(
    ("args", "attention"),
    [
        ({"bf16": True, "max_length": 128}, "eager"),
        ({"bf16": True, "max_length": 1024}, "sdpa"),  # a matrix of all pairs of positions would be large
        ({"bf16": True, "max_length": None}, "sdpa"),
        ({"bf16": False, "max_length": 128}, "sdpa"),
    ],
)
def test_short_texts_in_bfloat16_are_attended_to_in_products(
    random_model_dir: Path, rows: Dataset, tmp_path: Path, args: dict[str, Any], attention: str
) -> None:
    prepare_trainers()
    trainer = new_trainer(random_model_dir, rows, tmp_path, max_steps=1, **args)
    trainer.train()
    assert trainer.model.config._attn_implementation == attention


def test_attention_in_products_gives_the_same_loss_and_gradients(
    random_model_dir: Path, rows: Dataset, tmp_path: Path
) -> None:
    trainer = new_trainer(random_model_dir, rows, tmp_path, bf16=True)
    batch = trainer.data_collator(list(rows))
    loss, gradients = loss_and_gradients(trainer, batch)
    trainer.model.set_attn_implementation("eager")
    other_loss, other_gradients = loss_and_gradients(trainer, batch)
    assert other_loss == pytest.approx(loss, rel=1e-3)
    assert torch.nn.functional.cosine_similarity(gradients, other_gradients, dim=0) > 0.999
