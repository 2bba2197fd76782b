"""The reference model that a recipe names is the one in the loss, for each method, with an adapter too."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from posttrain_helpers.errors import CourseError
from posttrain_helpers.models import loading
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.recipes.methods import METHODS
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.stages.save import save_stage
from posttrain_helpers.training import frozen
from posttrain_helpers.training.checks import check_reference
from posttrain_helpers.training.frozen import load_reference, load_teacher
from posttrain_helpers.training.out_of_memory import plan_trainer
from posttrain_helpers.training.trainer import make_trainer, train

pytestmark = pytest.mark.usefixtures("output_root")

SMALL = {"args.per_device_train_batch_size": 4, "args.max_steps": 2, "args.logging_steps": 1}
LORA = {"r": 4, "target_modules": "all-linear"}
REPLIES = ("Paris.", "The capital of France is Paris.", "A cow says moo.", "3 + 4 = 7.")


def shaken(place: Path, target: Path, seed: int) -> Path:
    """Save a model near another one."""
    model, tokenizer = load_model_and_tokenizer(place, verbose=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


@pytest.fixture
def reference(random_model_dir: Path, tmp_path: Path) -> Path:
    return shaken(random_model_dir, tmp_path / "reference", 1)


@pytest.fixture
def made(random_model_dir: Path, reference: Path) -> Callable[..., Any]:
    """Return a function that makes the trainer of a method with this reference model."""

    def made(method: str, lora: Any = None, **changes: Any) -> Any:
        values = {**SMALL, "reference": str(reference), **changes}
        if method == "ppo":
            values |= {"args.value_model": None, "args.max_completion_length": 6, "args.total_episodes": 16}
            values |= {"args.num_mini_batches": 1, "args.gradient_accumulation_steps": 4}
            values["args.max_steps"] = -1
        recipe = load_recipe(method, "tiny", values)
        model, tokenizer = load_model_and_tokenizer(random_model_dir, lora=lora, verbose=False)
        rewards = {
            "reward_funcs": [lambda completion_ids, **_: [float(ids[0] % 7) for ids in completion_ids]]
        }
        return make_trainer(
            recipe, model, tokenizer, rows(method), verbose=False, **(rewards if method == "ppo" else {})
        )

    return made


def rows(method: str) -> Dataset:
    prompts = [[{"role": "user", "content": "What is " * (1 + number % 3)}] for number in range(16)]
    good, bad = (
        [[{"role": "assistant", "content": REPLIES[(number + shift) % 4]}] for number in range(16)]
        for shift in (0, 1)
    )
    return Dataset.from_dict(
        {
            "dpo": {"prompt": prompts, "chosen": good, "rejected": bad},
            "kto": {
                "prompt": prompts,
                "completion": good,
                "label": [n * n % 7 < 3 for n in range(16)],
            },
            "kl_sft": {"messages": [[*p, *r] for p, r in zip(prompts, good, strict=True)]},
            "ppo": {"prompt": prompts},
        }[method]
    )


def log_probs(model: Any, ids: torch.Tensor, seen: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return the summed log-probability of the counted tokens of each row, read without padding."""
    sums = []
    with torch.no_grad():
        for row, real, wanted in zip(ids, seen.bool(), counted.bool(), strict=True):
            logits = model(row[real][None]).logits[0].double().log_softmax(-1)
            tokens, places = row[real], wanted[real].nonzero().flatten()
            sums.append(logits[places - 1, tokens[places]].sum())
    return torch.stack(sums)


def log_ratios(random_model_dir: Path, reference: Path, *row: torch.Tensor) -> torch.Tensor:
    """Return policy against reference, both read from disk: TRL has patched those of the trainer."""
    policy, other = (AutoModelForCausalLM.from_pretrained(place) for place in (random_model_dir, reference))
    return log_probs(policy, *row) - log_probs(other, *row)


def first_loss(trainer: Any) -> tuple[float, Any]:
    batch = trainer.data_collator(list(trainer.train_dataset.select(range(4))))
    trainer.model.eval()
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, dict(batch)).item(), batch


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("ahead", [False, True])
def test_the_loss_of_dpo_is_that_with_this_reference(
    lora: Any, ahead: bool, made: Any, reference: Path, random_model_dir: Path
) -> None:
    trainer = made("dpo", lora, **{"args.precompute_ref_log_probs": ahead, "args.beta": 0.1})
    loss, batch = first_loss(trainer)
    ratios = log_ratios(
        random_model_dir, reference, batch["input_ids"], batch["attention_mask"], batch["completion_mask"]
    )
    chosen, rejected = ratios.chunk(2)
    by_hand = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean().item()
    assert loss == pytest.approx(by_hand, abs=1e-5)
    assert abs(loss - math.log(2)) > 1e-3
    assert ("ref_chosen_logps" in batch) == ahead


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("ahead", [False, True])
def test_the_loss_of_kto_is_that_with_this_reference(
    lora: Any, ahead: bool, made: Any, reference: Path, random_model_dir: Path
) -> None:
    trainer = made("kto", lora, **{"args.precompute_ref_log_probs": ahead, "args.beta": 0.1})
    loss, batch = first_loss(trainer)
    ratios, mismatched = (
        log_ratios(
            random_model_dir,
            reference,
            *(batch[prefix + name] for name in ("input_ids", "attention_mask", "completion_mask")),
        )
        for prefix in ("", "KL_")
    )
    kl = mismatched.mean().clamp(min=0)
    signs = torch.tensor([1.0 if label else -1.0 for label in batch["label"]])
    by_hand = (1 - torch.sigmoid(0.1 * signs * (ratios - kl))).mean().item()
    assert loss == pytest.approx(by_hand, abs=1e-5)
    assert abs(loss - 0.5) > 0.005


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_kl_term_of_kl_sft_is_that_to_this_reference(
    lora: Any, made: Any, reference: Path, random_model_dir: Path
) -> None:
    trainer = made("kl_sft", lora)
    _, batch = first_loss(trainer)
    policy, other = (AutoModelForCausalLM.from_pretrained(place) for place in (random_model_dir, reference))
    trained = batch["labels"][:, 1:] != -100
    forward = trainer.args.kl_direction == "forward"
    with torch.no_grad():
        read = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        own, its = (
            model(**read).logits[:, :-1].double().log_softmax(-1)[trained] for model in (policy, other)
        )
        p, q = (its, own) if forward else (own, its)
        values = (p.exp() * (p - q)).sum(-1)
    assert trainer._metrics["eval"]["kl"][0] == pytest.approx(values.mean().item(), abs=1e-5)
    assert values.mean() > 0.01


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.reference == "any"])
def test_a_reference_is_frozen_and_a_training_leaves_it_as_it_is(
    method: str, lora: Any, made: Any, reference: Path
) -> None:
    trainer = made(method, lora)
    train(trainer)
    before = AutoModelForCausalLM.from_pretrained(reference).state_dict()
    model = trainer.accelerator.unwrap_model(trainer.ref_model)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    if method == "ppo":  # the first rollout is that of the policy as it was
        first = next(log for log in trainer.state.log_history if "objective/kl" in log)
        assert abs(first["objective/kl"]) > 0.01
        assert trainer.rollouts.ref_model is model


def test_a_reference_with_an_adapter_is_merged(
    made: Any, reference: Path, random_model_dir: Path, tmp_path: Path
) -> None:
    adapted, tokenizer = load_model_and_tokenizer(reference, lora=LORA, verbose=False)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    trainer = made("dpo", LORA, reference=str(tmp_path / "adapter"))
    assert not hasattr(trainer.ref_model, "peft_config")
    loss, batch = first_loss(trainer)
    row = (batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    policy = AutoModelForCausalLM.from_pretrained(random_model_dir)
    chosen, rejected = (log_probs(policy, *row) - log_probs(adapted, *row)).chunk(2)
    beta = trainer.args.beta
    by_hand = -torch.nn.functional.logsigmoid(beta * (chosen - rejected)).mean().item()
    assert loss == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize(
    ("method", "key", "load"),
    [("dpo", "reference", load_reference), ("distill_on_policy", "teacher", load_teacher)],
)
def test_a_frozen_model_is_loaded_for_the_profile_of_its_recipe(
    method: str, key: str, load: Callable[..., Any], random_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    profiles, original = [], loading.load_repaired

    def noted(*place: Any, **options: Any) -> Any:
        profiles.append(options.get("profile"))
        return original(*place, **options)

    monkeypatch.setattr(loading, "load_repaired", noted)
    load(load_recipe(method, "smollm2", {key: str(random_model_dir)}), tokenizer)
    assert profiles == ["smollm2"]


# --- what is refused ---


def test_a_trainer_that_looks_at_another_model_is_refused(made: Any, reference: Path) -> None:
    trainer = made("dpo")
    check_reference(trainer)
    trainer.ref_model = AutoModelForCausalLM.from_pretrained(reference)
    with pytest.raises(CourseError, match=r"does not use the reference model .* but another"):
        check_reference(trainer)
    trainer.ref_model = None
    with pytest.raises(CourseError, match=r"does not use the reference model .* but the policy itself"):
        check_reference(trainer)


def test_a_reference_of_another_vocabulary(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = frozen._loaded
    other = SimpleNamespace(get_vocab=lambda: {"moo": 0})
    monkeypatch.setattr(frozen, "_loaded", lambda *names: (loaded(*names)[0], other))
    with pytest.raises(CourseError, match=r"has another vocabulary than the policy, whose tokens it would"):
        made("dpo")


def test_logits_of_another_number_have_no_divergence(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = frozen._loaded

    def padded(*names: str) -> Any:
        model, tokenizer = loaded(*names)
        model.resize_token_embeddings(model.get_input_embeddings().num_embeddings + 8)
        return model, tokenizer

    monkeypatch.setattr(frozen, "_loaded", padded)
    made("dpo")  # compares log-probabilities of tokens, which both have
    with pytest.raises(CourseError, match="so there is no KL divergence between them"):
        made("kl_sft")


def test_a_reference_that_is_updated_needs_all_weights(made: Any) -> None:
    made("dpo", **{"args.sync_ref_model": True})
    with pytest.raises(CourseError, match="sync_ref_model=True` while using a PEFT model"):
        made("dpo", LORA, **{"args.sync_ref_model": True})


def test_a_stage_does_not_say_a_reference_that_it_had_not(made: Any, reference: Path) -> None:
    trainer = made("dpo", reference=None)
    train(trainer)
    recipe = load_recipe("dpo", "tiny", {"model": "base", "reference": str(reference)})
    with pytest.raises(CourseError, match="but the trainer was made without it; make it with make_trainer"):
        save_stage(trainer, "mine", recipe)


def test_out_of_memory_counts_the_reference_beside_an_adapter(made: Any) -> None:
    alone, beside = (
        plan_trainer(made("dpo", LORA, **changes), "dpo") for changes in ({"reference": None}, {})
    )
    assert alone.moments["the update"]["reference"] == 0
    assert beside.moments["the update"]["reference"] == beside.size.weights - beside.size.trained
