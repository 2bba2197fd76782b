"""SmolLM2 with its real weights: it answers, learns through adapters, and comes back from disk as it was.

These tests run where the model is there already, which `python -m posttrain_helpers fetch smollm2` sees to;
they never download anything. They take about a minute on one core.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain_helpers.environment.fetched import fetch_command, fetched_directory
from posttrain_helpers.generation.decoding import generate
from posttrain_helpers.models.manifest import MANIFEST
from posttrain_helpers.recipes import Recipe, load_recipe
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.stages.save import save_stage
from posttrain_helpers.training.trainer import make_trainer, train

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
DIRECTORY = fetched_directory(MODEL)
PROFILE = "smollm2"
STEPS = 3
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWERS = {"Poland": "Warsaw", "Japan": "Tokyo", "Peru": "Lima", "Kenya": "Nairobi"}

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.slow,
    pytest.mark.skipif(
        DIRECTORY is None, reason=f"the model is not there; `{fetch_command(MODEL)}` fetches it"
    ),
]


@pytest.fixture(autouse=True)
def output(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One output directory for the module, in which the fetched model is the base."""
    root = tmp_path_factory.getbasetemp() / "real_model"
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(root))
    monkeypatch.setenv("POSTTRAIN_MODEL", str(DIRECTORY))
    return root


def recipe_of_few_steps(method: str, parent: str = "base") -> Recipe:
    few = {"max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    changes = {f"args.{name}": value for name, value in few.items()}
    return load_recipe(method, PROFILE, {"model": parent, **changes})


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def rows(method: str) -> Any:
    from datasets import Dataset

    made = []
    for country, capital in ANSWERS.items():
        question = [turn("user", f"What is the capital of {country}?")]
        reply = [turn("assistant", f"It is {capital}, of course.")]
        other = [turn("assistant", f"I would not know that about {country}.")]
        if method == "sft":
            made.append({"messages": question + reply})
        else:
            made.append({"prompt": question, "chosen": reply, "rejected": other})
    return Dataset.from_list(made * 2)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[1, 4093, 198, 1780, 314]])).logits


def test_it_knows_the_capital_of_france() -> None:
    model, tokenizer = load_model_and_tokenizer("base", profile=PROFILE, verbose=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    (reply,) = generate(model, tokenizer, [QUESTION], max_new_tokens=16, batch_size=1)
    assert "Paris" in reply.text
    assert reply.stop_reason == "stop"


def test_its_tokenizer_is_the_publishers_as_far_as_that_is_known() -> None:
    model, tokenizer = load_model_and_tokenizer("base", profile=PROFILE, verbose=False)
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings == 49152
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    assert model.generation_config.eos_token_id == 2
    assert [tokenizer.decode(token) for token in tokenizer("  12 apples\n\n345")["input_ids"]] == [
        *("  ", "1", "2", " apples", "\n\n", "3", "4", "5")
    ]
    for text in ("Hello world", "é ü 東京 🙂", " ", "x = 1234567", "<|im_start|>user\nhi<|im_end|>\n"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_supervised_token_belongs_to_the_reply() -> None:
    recipe = recipe_of_few_steps("sft")
    model, tokenizer = load_model_and_tokenizer("base", lora=recipe.lora, profile=PROFILE, verbose=False)
    trainer = make_trainer(recipe, model, tokenizer, rows("sft"), verbose=False)
    checked = 0
    for batch in trainer.get_train_dataloader():
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            text = tokenizer.decode(ids[labels != -100])
            country = next(name for name in ANSWERS if name in tokenizer.decode(ids))
            assert text == f"It is {ANSWERS[country]}, of course.{tokenizer.eos_token}"
            checked += 1
    assert checked == 2 * len(ANSWERS)


def test_sft_and_dpo_train_adapters_that_come_back_from_disk(output: Path) -> None:
    base, _ = load_model_and_tokenizer("base", profile=PROFILE, verbose=False)
    outcomes = {"base": logits(base)}
    del base
    for method, name, parent in (("sft", "own-sft", "base"), ("dpo", "own-dpo", "own-sft")):
        recipe = recipe_of_few_steps(method, parent)
        model, tokenizer = load_model_and_tokenizer(parent, lora=recipe.lora, profile=PROFILE, verbose=False)
        assert torch.allclose(logits(model), outcomes[parent], atol=1e-3)  # a fresh adapter changes nothing
        trainer = make_trainer(recipe, model, tokenizer, rows(method), verbose=False)
        metrics = train(trainer)
        assert trainer.state.global_step == STEPS
        assert 0 < metrics["train_loss"] < 10
        directory = save_stage(trainer, name, recipe)
        assert json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["model"] == parent
        assert (directory / "adapter_model.safetensors").stat().st_size < 50e6
        # A trainer in bfloat16 wraps the model's forward pass; what is saved are the weights in float32.
        outcomes[name] = logits(trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False))
        assert not torch.allclose(outcomes[name], outcomes[parent], atol=1e-2)
    loaded, tokenizer = load_model_and_tokenizer("own-dpo", profile=PROFILE, verbose=False)
    assert torch.allclose(logits(loaded), outcomes["own-dpo"], atol=1e-3)
    (reply,) = generate(loaded, tokenizer, [QUESTION], max_new_tokens=16, batch_size=1)
    assert "Paris" in reply.text
