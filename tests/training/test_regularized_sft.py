"""The KL term has its closed form and gradient, and all else is TRL's SFT."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from rounding import ADAM_EPSILON, SAME_WEIGHTS, close
from small_models import small_qwen3
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from posttrain_helpers.environment.trl_on_cpu import attend_in_products
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.training import regularized_sft
from posttrain_helpers.training.regularized_sft import RegularizedSFTTrainer
from posttrain_helpers.training.regularized_sft_config import RegularizedSFTConfig
from posttrain_helpers.training.trainer import _method_of, make_trainer, train

pytestmark = pytest.mark.usefixtures("output_root")

REPLIES = ("Paris.", "The capital of France is Paris.", "A cow says moo.", "3 + 4 = 7.")
SETTINGS = {
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 1,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "adam_epsilon": ADAM_EPSILON,
    "train_sampling_strategy": "sequential",
    "assistant_only_loss": True,
    "max_length": 64,
}
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}


@pytest.fixture(scope="module")
def tokenizer(random_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(random_model_dir)


def rows(n: int = 16) -> Dataset:
    turns = [
        ({"role": "user", "content": "What is " * (1 + number % 3)}, REPLIES[number % 4])
        for number in range(n)
    ]
    return Dataset.from_list(
        [{"messages": [question, {"role": "assistant", "content": reply}]} for question, reply in turns]
    )


@pytest.fixture
def build(uneven_model, tokenizer, tmp_path: Path) -> Callable[..., Any]:
    """Return a trainer of a copy of the random model, or of the model that is given."""

    def build(model: Any = None, plain: bool = False, **settings: Any) -> Any:
        model = copy.deepcopy(uneven_model) if model is None else model
        options = {**SETTINGS, **settings}
        peft_config = options.pop("peft_config", None)
        reference = {"ref_model": options.pop("ref_model")} if "ref_model" in options else {}
        config, trainer = (
            (trl.SFTConfig, trl.SFTTrainer) if plain else (RegularizedSFTConfig, RegularizedSFTTrainer)
        )
        return trainer(
            model=model,
            args=config(str(tmp_path / "run"), **options),
            train_dataset=rows(),
            processing_class=tokenizer,
            peft_config=peft_config,
            **reference,
        )

    return build


def with_adapter(model: Any, **settings: Any) -> Any:
    """Return a model with an adapter that changes what it says."""
    made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{**LORA, **settings}))
    moved(made)
    return made


def moved(model: Any, by: float = 0.05) -> None:
    """Change what is trained, as a few steps would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(by * noise)


def first_batch(trainer: Any) -> dict[str, Any]:
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def measured(trainer: Any, batch: dict[str, Any] | None = None) -> tuple[torch.Tensor, float, float]:
    """Return loss, SFT loss and KL of a batch in training mode."""
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch or first_batch(trainer)))
    metrics = trainer._metrics["train"]
    return loss, metrics["sft_loss"][-1], metrics["kl"][-1]


def by_hand(batch: dict[str, Any], policy: Any, base: Any, direction: str) -> float:
    """Return the mean of sum p log(p / q) over the trained tokens, written out."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    divergences = []
    with torch.no_grad():
        pairs = [model(**inputs).logits.double().log_softmax(-1) for model in (base, policy)]
    p, q = pairs if direction == "forward" else reversed(pairs)
    for row, labels in enumerate(batch["labels"]):
        for place in range(1, len(labels)):
            if labels[place] != -100:
                log_p, log_q = p[row, place - 1], q[row, place - 1]
                divergences.append((log_p.exp() * (log_p - log_q)).sum().item())
    return sum(divergences) / len(divergences)


def logs_of(trainer: Any, name: str) -> list[float]:
    return [log[name] for log in trainer.state.log_history if name in log]


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def assert_same_weights(first: Any, second: Any, atol: float = SAME_WEIGHTS) -> None:
    torch.testing.assert_close(weights_of(first), weights_of(second), atol=atol, rtol=0)


# --- the term


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_term_is_the_mean_divergence_over_trained_tokens(build, uneven_model, direction: str) -> None:
    trainer = build(kl_beta=0.7, kl_direction=direction)
    batch = first_batch(trainer)
    loss, sft_loss, kl = measured(trainer, batch)
    assert kl == 0  # it is the base still
    assert loss.item() == close(sft_loss)
    moved(trainer.model)
    expected = by_hand(batch, trainer.model, uneven_model, direction)
    assert expected > 0.05
    loss, sft_loss, kl = measured(trainer, batch)
    assert kl == pytest.approx(expected, rel=1e-4)
    assert loss.item() == close(sft_loss + 0.7 * kl)


def test_the_directions_are_two_divergences(build) -> None:
    values = []
    for direction in ("forward", "reverse"):
        trainer = build(kl_direction=direction)
        moved(trainer.model, 0.2)
        values.append(measured(trainer)[2])
    assert values[0] != pytest.approx(values[1], rel=0.02)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_gradient_is_that_of_finite_differences(build, tokenizer, direction: str) -> None:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": len(tokenizer)}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(**sizes, **dropout)).double()  # all of its layers stay in float64
    moved(model, 0.3)
    trainer = build(model, kl_beta=1.0, kl_direction=direction)
    moved(model, 0.1)
    batch = first_batch(trainer)
    weights = [model.transformer.h[0].mlp.c_fc.weight, model.transformer.wte.weight]  # wte is the head, too

    def gradients(beta: float) -> list[torch.Tensor]:
        trainer.args.kl_beta = beta
        return list(torch.autograd.grad(measured(trainer, batch)[0], weights))

    with_term, without = gradients(1.0), gradients(0.0)
    step = 1e-6
    for weight, one, other in zip(weights, with_term, without, strict=True):
        gradient = one - other
        for index in gradient.abs().flatten().topk(5).indices:
            place = weight.data.view(-1)
            values = []
            for move in (step, -2 * step):
                place[index] += move
                values.append(measured(trainer, batch)[2])
            place[index] += step
            expected = (values[0] - values[1]) / (2 * step)
            assert gradient.flatten()[index].item() == pytest.approx(expected, rel=1e-5)


def test_no_weight_of_the_base_gets_a_gradient_or_moves(build, uneven_model) -> None:
    trainer = build(max_steps=2)
    trainer.train()
    assert all(weight.grad is None and not weight.requires_grad for weight in trainer.ref_model.parameters())
    assert_same_weights(trainer.ref_model, uneven_model, atol=0)
    with pytest.raises(AssertionError):
        assert_same_weights(trainer.model, uneven_model)


def test_a_reference_of_ones_own_is_frozen_and_the_divergence_is_from_it(build, uneven_model) -> None:
    reference = copy.deepcopy(uneven_model)
    moved(reference, 0.2)
    trainer = build(ref_model=reference.train())
    assert trainer.ref_model is reference
    assert not any(module.training for module in reference.modules())
    assert not any(weight.requires_grad for weight in reference.parameters())
    batch = first_batch(trainer)
    expected = by_hand(batch, trainer.model, reference, "forward")
    assert measured(trainer, batch)[2] == pytest.approx(expected, rel=1e-4)


def test_the_copy_is_without_dropout_and_follows_the_attention_of_the_policy(build, uneven_model) -> None:
    trainer = build(uneven_model.train())
    assert not any(module.training for module in trainer.ref_model.modules())
    assert trainer.ref_model.config._attn_implementation != "eager"
    trainer.model.set_attn_implementation("eager")
    batch = first_batch(trainer)
    assert measured(trainer, batch)[2] == 0
    assert trainer.ref_model.config._attn_implementation == "eager"


def test_the_share_of_a_batch_counts_the_processes(build) -> None:
    trainer = build()
    tokens, all_tokens = torch.tensor(5), torch.tensor(20)
    trainer.accelerator = SimpleNamespace(num_processes=2, parallelism_config=None)
    assert trainer._share(tokens, all_tokens).item() == close(2 / 20)  # DDP divides by 2
    trainer.args.average_tokens_across_devices = False
    assert trainer._share(tokens, all_tokens).item() == close(1 / 20)
    assert trainer._share(tokens, None).item() == close(1 / 5)


def test_few_logits_at_a_time_give_the_same_loss_and_gradient(build, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build(kl_beta=0.5)
    moved(trainer.model)
    weight = trainer.model.get_input_embeddings().weight
    results = []
    for most in (regularized_sft.KL_LOGITS, 3 * trainer.model.config.vocab_size):
        monkeypatch.setattr(regularized_sft, "KL_LOGITS", most)
        loss = measured(trainer)[0]
        results.append((loss.detach(), *torch.autograd.grad(loss, weight)))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-5)


def test_a_batch_without_trained_tokens_is_a_zero_that_can_be_trained(build) -> None:
    trainer = build()
    batch = first_batch(trainer)
    loss, sft_loss, kl = measured(trainer, {**batch, "labels": torch.full_like(batch["labels"], -100)})
    assert (loss.item(), sft_loss, kl) == (0, 0, 0)
    loss.backward()


def test_half_precision_is_that_of_the_policy(build) -> None:
    attend_in_products()  # as the course does on a CPU; the base follows
    kls = []
    for bf16 in (False, True):
        trainer = build(kl_beta=0.1, bf16=bf16, max_steps=4)
        trainer.train()
        kls.append(logs_of(trainer, "kl"))
    exact, half = kls
    assert half[0] == exact[0] == 0  # the base reads in the same precision
    assert half[1:] == pytest.approx(exact[1:], rel=0.1)
    assert half[1:] != exact[1:]


# --- the training


def test_with_beta_0_it_trains_as_sft_does(build) -> None:
    own = build(kl_beta=0.0, max_steps=4, gradient_accumulation_steps=2, per_device_train_batch_size=4)
    theirs = build(plain=True, max_steps=4, gradient_accumulation_steps=2, per_device_train_batch_size=4)
    for trainer in (own, theirs):
        trainer.train()
    for name in ("loss", "entropy", "mean_token_accuracy", "num_tokens"):
        assert logs_of(own, name) == pytest.approx(logs_of(theirs, name), abs=1e-6)
    assert_same_weights(own.model, theirs.model, atol=1e-6)
    assert logs_of(own, "kl")[-1] > 0  # it is measured all the same


def test_a_high_price_leaves_the_model_where_it_was(build) -> None:
    kls = {}
    for beta in (0.0, 1e4):
        trainer = build(kl_beta=beta, max_steps=12, learning_rate=1e-4)
        trainer.train()
        kls[beta] = measured(trainer)[2]
    assert kls[1e4] < 0.02 * kls[0.0]
    assert kls[1e4] < 1e-4


def test_two_micro_batches_are_one_step(build) -> None:
    one = build(kl_beta=0.5, max_steps=3, per_device_train_batch_size=8)
    two = build(kl_beta=0.5, max_steps=3, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    for trainer in (one, two):
        trainer.train()
    assert logs_of(two, "loss") == pytest.approx(logs_of(one, "loss"), rel=1e-5)
    assert_same_weights(one.model, two.model)


@pytest.mark.parametrize("settings", [{"packing": True}, {"padding_free": True, "max_length": None}])
def test_rows_behind_each_other_are_read_as_rows_beside_each_other(build, settings: dict) -> None:
    padded = build(per_device_train_batch_size=16)
    flat = build(per_device_train_batch_size=16, **settings)
    for trainer in (padded, flat):
        moved(trainer.model)
    batch = first_batch(flat)
    assert batch["input_ids"].shape[0] == 1
    (loss, sft_loss, kl), (flat_loss, *flat_parts) = measured(padded), measured(flat, batch)
    assert flat_parts == pytest.approx([sft_loss, kl], rel=1e-4)
    assert flat_loss.item() == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("adapter", [False, True])
def test_a_training_that_resumes_ends_where_another_does(build, uneven_model, adapter: bool) -> None:
    def trainer() -> Any:
        torch.manual_seed(0)
        model = copy.deepcopy(uneven_model)
        if adapter:
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA))
        return build(model, kl_beta=0.5, max_steps=4, save_strategy="steps", save_steps=2)

    whole, resumed = trainer(), trainer()
    whole.train()
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / "checkpoint-2"))
    assert logs_of(resumed, "kl")[-2:] == pytest.approx(logs_of(whole, "kl")[-2:], rel=1e-5)
    assert_same_weights(whole.model, resumed.model, atol=1e-6)


def test_logs_and_evaluation(build) -> None:
    trainer = build(kl_beta=0.5, max_steps=3)
    train(trainer)
    assert logs_of(trainer, "kl")[0] == 0
    for loss, sft_loss, kl in zip(
        *(logs_of(trainer, name) for name in ("loss", "sft_loss", "kl")), strict=True
    ):
        assert loss == pytest.approx(sft_loss + 0.5 * kl, rel=1e-4)
    metrics = trainer.evaluate(rows(8))
    assert metrics["eval_loss"] == pytest.approx(
        trainer.state.log_history[-1]["eval_sft_loss"] + 0.5 * trainer.state.log_history[-1]["eval_kl"],
        rel=1e-4,
    )
    assert not trainer.model.base_model._forward_hooks


def test_the_outputs_that_a_caller_asks_for_are_those_of_the_policy(build) -> None:
    trainer = build(kl_beta=0.5)
    moved(trainer.model)
    batch = first_batch(trainer)
    with pytest.warns(FutureWarning, match="return_outputs"):
        loss, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
    assert loss.item() == close(measured(trainer, batch)[0].item())
    assert outputs.logits.shape[:2] == batch["input_ids"].shape
    loss.backward()


# --- adapters


def test_with_an_adapter_the_base_is_the_model_without_it(build, uneven_model) -> None:
    adapted = build(with_adapter(copy.deepcopy(uneven_model)))
    assert adapted.ref_model is None
    whole = build()
    merged = copy.deepcopy(adapted.model)
    for layer in merged.modules():  # the copy's forward is bound to the original
        vars(layer).pop("forward", None)
    merged = merged.merge_and_unload()
    whole.model.load_state_dict(merged.state_dict())
    kl = measured(adapted)[2]
    assert kl > 0.01
    assert kl == pytest.approx(measured(whole)[2], rel=1e-3)


def test_an_adapter_that_the_trainer_makes_begins_at_the_base(build) -> None:
    trainer = build(peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA), max_steps=3, learning_rate=1e-2)
    trainer.train()
    assert trainer.ref_model is None
    assert logs_of(trainer, "kl")[0] == 0 < logs_of(trainer, "kl")[-1]


def test_the_base_of_a_trained_output_layer_is_the_original_one(build, tokenizer) -> None:
    torch.manual_seed(0)
    model = small_qwen3(tokenizer, tie_word_embeddings=False)
    moved(model, 0.3)
    base = copy.deepcopy(model)
    trainer = build(with_adapter(model, modules_to_save=["lm_head"]))
    batch = first_batch(trainer)
    expected = by_hand(batch, trainer.model, base, "forward")
    assert measured(trainer, batch)[2] == pytest.approx(expected, rel=1e-4)


def test_the_base_reads_without_dropout_and_the_policy_with_it(build, tokenizer) -> None:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": len(tokenizer)}
    model = get_peft_model(
        GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.5)),
        LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True),
    )
    trainer = build(model)
    batch = first_batch(trainer)
    kls = {measured(trainer, batch)[2] for _ in range(2)}
    assert len(kls) == 2
    assert trainer.model.training
    inputs = {**batch, "use_cache": False}
    assert torch.equal(trainer._base_states(inputs), trainer._base_states(inputs))
    assert trainer.model.training


# --- what it refuses


@pytest.mark.parametrize("beta", [-0.1, float("nan"), float("inf"), "much", True, None])
def test_a_price_that_is_none(beta: Any) -> None:
    with pytest.raises(CourseError, match="kl_beta must be a number of at least 0, but it is"):
        RegularizedSFTConfig("run", use_cpu=True, kl_beta=beta)


@pytest.mark.parametrize("direction", ["backward", "Forward", None])
def test_a_direction_that_does_not_exist(direction: Any) -> None:
    with pytest.raises(CourseError, match=r"kl_direction must be 'forward'.*or 'reverse'.*but it is"):
        RegularizedSFTConfig("run", use_cpu=True, kl_direction=direction)


def test_arguments_of_another_class_and_a_name_for_a_model(build, tokenizer, uneven_model) -> None:
    given = {"train_dataset": rows(), "processing_class": tokenizer}
    with pytest.raises(CourseError, match="needs a RegularizedSFTConfig, but a SFTConfig was given"):
        RegularizedSFTTrainer(uneven_model, trl.SFTConfig("run", use_cpu=True, bf16=False), **given)
    with pytest.raises(CourseError, match="needs a loaded model, but the name 'base' was given"):
        RegularizedSFTTrainer("base", RegularizedSFTConfig("run", use_cpu=True, bf16=False), **given)


def test_a_model_that_another_trainer_has_patched(build) -> None:
    used = build().model
    with pytest.raises(CourseError, match="forward was replaced by another trainer"):
        build(used)


def test_logits_that_are_scaled(build, uneven_model) -> None:
    uneven_model.config.final_logit_softcapping = 30.0
    with pytest.raises(CourseError, match=r"changes what its output layer returns \(final_logit_softcapping"):
        build(uneven_model)
    uneven_model.config.final_logit_softcapping = None
    uneven_model.config.logit_scale = 1.0
    assert measured(build(uneven_model))[2] == 0


@pytest.mark.parametrize(
    "name",
    [
        "final_logit_softcapping",
        "logit_scale",
        "output_multiplier",
        "lm_head_multiplier",
        "logits_scaling",
    ],
)
def test_every_way_to_scale_logits_is_known(build, uneven_model, name: str) -> None:
    reference = copy.deepcopy(uneven_model)
    setattr(reference.config, name, 2.0)
    for given in ({"model": reference}, {"ref_model": reference}):
        with pytest.raises(CourseError, match=rf"changes what its output layer returns \({name}=2.0\)"):
            build(**given)


def test_a_reference_of_another_vocabulary(build, uneven_model) -> None:
    reference = copy.deepcopy(uneven_model)
    reference.resize_token_embeddings(reference.config.vocab_size + 1)
    with pytest.raises(CourseError, match=r"logits for 332 tokens and the reference model for 333, so there"):
        build(ref_model=reference)


def test_compiled_weights(build) -> None:
    with pytest.raises(CourseError, match="in one process or with DDP"):
        build(torch_compile=True)


@pytest.mark.parametrize(
    ("adapter", "fault"),
    [
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "tokens before the text"),
        (LoraConfig(task_type="CAUSAL_LM", init_lora_weights="pissa", **LORA), "changing the base weights"),
        (LoraConfig(task_type="CAUSAL_LM", bias="lora_only", **LORA), "trains biases of the base"),
    ],
)
def test_an_adapter_without_which_the_model_is_not_the_base(build, adapter: Any, fault: str) -> None:
    with pytest.raises(CourseError, match=f"the adapter .*{fault}.* is not the base that the KL term needs"):
        build(peft_config=adapter)


@pytest.mark.parametrize("start", ["pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "PiSSA"])
def test_every_start_that_changes_the_base_is_known(start: str) -> None:
    config = SimpleNamespace(is_prompt_learning=False, init_lora_weights=start, bias="none")
    model = SimpleNamespace(peft_config={"default": config})
    with pytest.raises(
        CourseError, match=rf"begins by changing the base weights \(init_lora_weights='{start}'"
    ):
        regularized_sft._check_adapter(model)
    for usual in (True, False, "gaussian", "eva"):
        config.init_lora_weights = usual
        regularized_sft._check_adapter(model)


# --- the recipe


def test_the_recipe_builds_this_trainer(random_model_dir: Path, tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_model_dir)
    recipe = load_recipe("kl_sft", "tiny", {"args.max_steps": 2, "args.logging_steps": 1})
    trainer = make_trainer(recipe, model, tokenizer, rows(), verbose=False)
    assert type(trainer) is RegularizedSFTTrainer
    assert _method_of(trainer) == "kl_sft"
    train(trainer)
    assert len(logs_of(trainer, "kl")) == 2
