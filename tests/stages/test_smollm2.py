"""The profile `smollm2` with a small Llama in its model's place: adapters one after the other."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from small_models import environment
from small_trainings import length

from posttrain_helpers.data.loading import load_data
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.recipes.methods import METHODS
from posttrain_helpers.stages.build import load_stage
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.training.trainer import make_trainer, train

pytestmark = pytest.mark.slow
# So large that the SFT model and the base differ by far more than rounding.
LEARNED = {"POSTTRAIN_OVERRIDES": " sft.args.learning_rate=2e-2 sft.args.warmup_steps=0"}
FIRST_LOG = {
    "dpo": "rewards/margins",
    "ipo": "rewards/margins",
    "grpo": "kl",
    "rloo": "kl",
    "ppo": "objective/kl",
}


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def small_course(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model and stages that all tests share: what is built for one is there for the next."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value + LEARNED.get(name, ""))


@pytest.mark.usefixtures("small_course")
@pytest.mark.parametrize("chain", [("sft", "dpo"), ("sft", "reward_model", "ppo"), ("sft", "grpo")])
def test_adapters_of_a_chain_stand_on_their_merged_parents(chain: tuple[str, ...]) -> None:
    stages = load_stage(chain[-1], "smollm2").parent
    recipes = {"reward_model": "reward"}
    for name in chain:
        manifest = json.loads((stages / name / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["recipe_hash"] == load_recipe(recipes.get(name, name), "smollm2").hash
        assert manifest["settings"]["lora"] == {"r": 16, "target_modules": "all-linear"}
        assert (stages / name / "adapter_config.json").is_file()
    model, tokenizer = load_model_and_tokenizer(chain[-1], profile="smollm2", verbose=False)
    assert list(model.peft_config) == ["default"]
    # A published assistant keeps its own template, with marks around what it says.
    assert "[INST]" in tokenizer.chat_template
    assert "generation" in tokenizer.chat_template
    ids = tokenizer("A cow says moo.", return_tensors="pt")["input_ids"]
    plain, _ = load_model_and_tokenizer(chain[-1], merge=True, profile="smollm2", verbose=False)
    assert not hasattr(plain, "peft_config")
    assert_equal_logits(plain, model, ids)
    with model.disable_adapter():
        assert_equal_logits(model, loaded("sft"), ids)
    if "reward_model" in chain:
        scoring = loaded("reward_model")
        with scoring.disable_adapter(), torch.no_grad():
            states = [body.get_base_model().model(ids)[0] for body in (scoring, loaded("sft"))]
        torch.testing.assert_close(*states, atol=1e-3, rtol=0)


@pytest.mark.usefixtures("small_course")
@pytest.mark.parametrize("method", FIRST_LOG)
def test_the_reference_model_is_the_sft_model_and_not_the_bare_base(method: str) -> None:
    load_stage("sft", "smollm2")
    overrides = {"args.max_steps": 1, "args.logging_steps": 1, "args.bf16": False}
    if method in ("grpo", "rloo"):
        overrides |= {"args.beta": 0.1, "args.steps_per_generation": 1}
    if method == "ppo":
        overrides |= {"args.value_model": None}  # a critic of its own needs no reward model
    recipe = load_recipe(method, "smollm2", overrides)
    model, tokenizer = load_model_and_tokenizer(
        recipe.model, lora=recipe.lora, profile="smollm2", verbose=False
    )
    ids = tokenizer("A cow says moo.", return_tensors="pt")["input_ids"]
    with model.disable_adapter():
        assert_equal_logits(model, loaded("sft"), ids)
        with pytest.raises(AssertionError):
            assert_equal_logits(model, loaded("base"), ids)
    rows, _ = load_data(recipe, verbose=False, tokenizer=tokenizer)
    rewards = [length] if METHODS[recipe.method].rewards else None
    trainer = make_trainer(recipe, model, tokenizer, rows, verbose=False, reward_funcs=rewards)
    train(trainer)
    # Before the first step the policy is the SFT model, so that it is nowhere away from its reference.
    log = next(entry for entry in trainer.state.log_history if FIRST_LOG[method] in entry)
    assert log[FIRST_LOG[method]] == pytest.approx(0.0, abs=1e-4)


def loaded(name: str) -> Any:
    return load_model_and_tokenizer(name, profile="smollm2", verbose=False)[0]


def assert_equal_logits(model: Any, other: Any, ids: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, other(ids).logits, atol=1e-3, rtol=0)
