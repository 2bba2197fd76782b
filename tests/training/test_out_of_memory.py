"""What is said and freed when a GPU runs out of memory during training."""

from __future__ import annotations

import re
import weakref
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config
from trl import SFTConfig, SFTTrainer

from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory.estimate import MemoryEstimate, estimate_memory, measure_model
from posttrain_helpers.stages.planning import empty_model
from posttrain_helpers.training import out_of_memory
from posttrain_helpers.training.out_of_memory import memory_advice, plan_trainer
from posttrain_helpers.training.trainer import train
from posttrain_helpers.wording import readable_size

LORA = {"r": 16, "target_modules": "all-linear"}


@pytest.fixture
def trainer(random_model_dir: Path, tmp_path: Path):
    model = AutoModelForCausalLM.from_pretrained(random_model_dir, dtype=torch.float32)
    ids = [[5, 6, 7, 8] * 8] * 16
    arguments = SFTConfig(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        max_length=64,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
    )
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
        processing_class=AutoTokenizer.from_pretrained(random_model_dir),
    )


MESSAGE = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.77 GiB of which "
    "1.09 GiB is free. Process 1 has 14.6 GiB memory in use."
)


def explode_at_the_second_step(trainer, monkeypatch: pytest.MonkeyPatch, on_gpu: bool = False) -> list:
    """Let the second step of a real training run out of memory; return references to what it held.

    Only then does torch say that it has a GPU, if asked to: a build for CUDA would look for it in training.
    """
    step, held = trainer.training_step, []

    def failing(*args: object, **kwargs: object):
        loss = step(*args, **kwargs)
        if trainer.state.global_step:
            activations = torch.zeros(1000)
            moments = next(iter(trainer.optimizer.state.values()))["exp_avg"]
            held.extend([weakref.ref(activations), weakref.ref(moments)])
            if on_gpu:
                monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
            raise torch.OutOfMemoryError(MESSAGE)
        return loss

    monkeypatch.setattr(trainer, "training_step", failing)
    return held


def test_out_of_memory_frees_the_device_and_says_numbers(trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    held = explode_at_the_second_step(trainer, monkeypatch, on_gpu=True)
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    with pytest.raises(CourseError) as caught:
        train(trainer)
    text = str(caught.value)
    assert (
        "per_device_train_batch_size=4 (20.00 GiB more were asked for, 1.09 GiB of 15.77 GiB were free)"
        in text
    )
    assert "by the estimate this run takes" in text
    assert "activations" in text
    assert "set args.activation_checkpointing=true (saves about" in text
    assert ", or set args.per_device_train_batch_size=2 args.gradient_accumulation_steps=2 (saves" in text
    assert text.count(". ") == 0  # one sentence
    assert len(text) < 700
    # The error itself must not keep the frames of the failed step alive.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert [reference() for reference in held] == [None, None]
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert emptied
    assert not trainer.model.training


def test_after_out_of_memory_training_can_start_again(trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    explode_at_the_second_step(trainer, monkeypatch)
    with pytest.raises(CourseError, match="the GPU is out of memory"):
        train(trainer)
    monkeypatch.undo()
    assert train(trainer)["train_loss"] > 0


def test_the_gradients_of_a_critic_are_freed_too(trainer) -> None:
    critic = torch.nn.Linear(2, 2)
    trainer.actor_critic = torch.nn.ModuleList([trainer.model, critic])
    critic.weight.grad = torch.ones(2, 2)
    out_of_memory.after_out_of_memory(trainer, None, "CUDA out of memory.")
    assert critic.weight.grad is None


def test_out_of_memory_has_advice_even_without_an_estimate(trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = out_of_memory.after_out_of_memory(trainer, None, "CUDA out of memory.")
    assert text.startswith("the GPU is out of memory at per_device_train_batch_size=4: lower it and raise")
    assert "or lower max_length" in text

    def refuse(*args: object) -> None:
        raise CourseError("the shape is odd.")

    monkeypatch.setattr(out_of_memory, "plan_trainer", refuse)
    text = out_of_memory.after_out_of_memory(trainer, "sft", "CUDA out of memory.")
    assert "(there is no estimate: the shape is odd): lower it and raise" in text


def test_a_trainer_with_an_adapter_has_a_plan(trainer) -> None:
    whole = plan_trainer(trainer, "sft")
    assert not whole.size.adapter
    assert whole.arguments["per_device_train_batch_size"] == 4
    assert whole.length == 64
    trainer.model = get_peft_model(trainer.model, LoraConfig(task_type="CAUSAL_LM", **LORA))
    made = plan_trainer(trainer, "sft")
    assert made.size.adapter
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    assert made.size.trained == 4 * trained


# --- advice

MODEL = Qwen3Config(
    vocab_size=50_000,
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    tie_word_embeddings=True,
)
RUN = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_length": 1024,
    "max_completion_length": 400,
    "activation_checkpointing": False,
    "bf16": True,
    "fp16": False,
    "optim": "adamw_torch",
    "use_cpu": False,
    "steps_per_generation": None,
    "generation_batch_size": None,
}


def estimate(method: str = "sft", lora: dict | None = None, **changes: object) -> MemoryEstimate:
    return estimate_memory(measure_model(empty_model(MODEL, lora=lora)), method, {**RUN, **changes})


def saving(advice: list[str], change: str) -> str:
    """What one piece of advice says that it saves."""
    (found,) = [text for text in advice if text.startswith(change)]
    return re.search(r"\(saves about (.*)\)$", found)[1]


def test_advice_saves_what_it_says() -> None:
    made = estimate()
    advice = memory_advice(made)
    assert advice[0].startswith("set args.activation_checkpointing=true (saves about ")
    checkpointing = estimate(activation_checkpointing=True)
    assert saving(advice, "set args.activation_") == readable_size(made.total - checkpointing.total)
    halved = estimate(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    change = "set args.per_device_train_batch_size=4 args.gradient_accumulation_steps=2 ("
    assert saving(advice, change) == readable_size(made.total - halved.total)
    change = "train an adapter: lora.r=16 lora.target_modules=all-linear ("
    assert saving(advice, change) == readable_size(made.total - estimate(lora=LORA).total)
    shorter = estimate(max_length=512)
    assert saving(advice, "set args.max_length=512 (") == readable_size(made.total - shorter.total)


def test_advice_leaves_out_what_is_done_already_or_saves_little() -> None:
    done = memory_advice(
        estimate(activation_checkpointing=True, per_device_train_batch_size=1, max_length=100)
    )
    assert [text.split(" (")[0] for text in done] == [
        "train an adapter: lora.r=16 lora.target_modules=all-linear",
        "set args.optim=adamw_bnb_8bit",
    ]
    small = {"activation_checkpointing": True, "per_device_train_batch_size": 1, "max_length": 100}
    assert len(memory_advice(estimate(use_cpu=True, **small))) == 1  # bitsandbytes is for GPUs
    adapter = memory_advice(estimate(lora=LORA, max_length=64, per_device_train_batch_size=1))
    assert not any("train an adapter" in text for text in adapter)
    assert any(text.startswith("store the base in 4 bits: quantization=4bit (") for text in adapter)


def test_a_batch_of_kto_keeps_two_rows(trainer) -> None:
    for batch, halved in ((2, False), (4, True)):
        advice = memory_advice(estimate("kto", per_device_train_batch_size=batch))
        assert any("args.per_device_train_batch_size=" in text for text in advice) == halved
        trainer.args.per_device_train_batch_size = batch
        text = out_of_memory.after_out_of_memory(trainer, "kto", "CUDA out of memory.")
        assert ("gradient_accumulation_steps" in text) == halved


def test_advice_for_sampling_shortens_completions() -> None:
    advice = memory_advice(estimate("grpo"))
    shorter = estimate("grpo", max_completion_length=200)
    saved = readable_size(estimate("grpo").total - shorter.total)
    assert saving(advice, "set args.max_completion_length=200 (") == saved
