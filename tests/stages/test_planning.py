"""What `plan_recipe` promises: every recipe has an estimate, from its config alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import Qwen3Config, ViTConfig

from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory.estimate import MemoryEstimate
from posttrain_helpers.recipes import load_recipe, recipe_names
from posttrain_helpers.stages.planning import plan_recipe

# The config.json of Qwen/Qwen3-0.6B-Base, as far as it changes an estimate.
QWEN3 = Qwen3Config(
    vocab_size=151936,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=32768,
    tie_word_embeddings=True,
)
# Three models at once: these need a larger card, as their files say.
GPU_GIB = {"ppo": 24, "ppo_ultrafeedback": 24, "rloo": 24, "grpo_reward_model": 24}


def planned(name: str, **changes: object) -> MemoryEstimate:
    """The estimate of a recipe of qwen3 on a GPU."""
    on_gpu = {"args.use_cpu": False, "args.bf16": True}
    return plan_recipe(load_recipe(name, "qwen3", {**on_gpu, **changes}), QWEN3)


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_of_the_tiny_profile_has_an_estimate(name: str, output_root: Path) -> None:
    made = plan_recipe(load_recipe(name, "tiny"))
    assert 10**8 < made.total < 2.5 * 10**9
    assert made.size.parameters < 5e6
    assert not (output_root / "tiny" / "stages").exists()  # no stage was built for it


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_of_qwen3_fits_the_gpu_that_it_is_meant_for(name: str, output_root: Path) -> None:
    made = planned(name)
    assert made.total <= GPU_GIB.get(name, 16) * 2**30, made.sentence()


def test_a_recipe_is_read_completely(output_root: Path) -> None:
    sft = planned("sft")
    assert sft.sentence().startswith("sft (full) on 596.0 M parameters, 8 x 128 tokens: about ")
    assert sft.arguments["gradient_accumulation_steps"] == 2
    assert planned("dpo").arguments["activation_checkpointing"]
    assert planned("sft", **{"args.bf16": False}).total > sft.total
    weights = 4 * 596_049_920
    rloo = planned("rloo").moments["sampling"]
    assert rloo["reference"] == rloo["reward models"] == weights
    assert planned("grpo").moments["sampling"]["reference"] == 0
    assert planned("dpo").moments["the loss"]["reference"] == weights
    assert planned("dpo", **{"args.precompute_ref_log_probs": True}).moments["the loss"]["reference"] == 0
    reward = planned("reward")
    assert reward.moments["the loss"]["logits"] == 0
    assert reward.size.parameters == 596_049_920 + 1024  # a head that gives one number
    adapter = {"lora.r": 8, "lora.target_modules": "all-linear"}
    lora, four_bit = planned("dpo", **adapter), planned("dpo", quantization="4bit", **adapter)
    assert lora.size.adapter
    assert lora.size.parameters - 596_049_920 == 8 * lora.size.linear_ends
    assert four_bit.size.weights < lora.size.weights / 2


def test_what_no_model_can_be_made_of_is_one_sentence(output_root: Path) -> None:
    recipe = load_recipe("sft", "tiny")
    for config in (ViTConfig(), Qwen3Config(vocab_size=-1)):
        with pytest.raises(
            CourseError, match=r"no language model can be made from the config of 'base' .*\("
        ):
            plan_recipe(recipe, config)
    with pytest.raises(CourseError, match="choose another model, or correct lora"):
        plan_recipe(load_recipe("sft", "tiny", {"lora.r": 4, "lora.target_modules": ["nowhere"]}))
    with pytest.raises(CourseError, match="max_length is not set"):
        plan_recipe(load_recipe("sft", "tiny", {"args.max_length": None}))


def test_a_recipe_takes_the_shape_of_the_model_that_it_names(
    output_root: Path, random_model_dir: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("sft", "tiny", {"model": str(random_model_dir)})
    assert plan_recipe(recipe).size.config.hidden_size == 32
    adapter = output_root / "tiny" / "stages" / "mine"
    adapter.mkdir(parents=True)
    text = f'{{"base_model_name_or_path": "{random_model_dir.as_posix()}"}}'
    (adapter / "adapter_config.json").write_text(text, encoding="utf-8")
    assert plan_recipe(load_recipe("sft", "tiny", {"model": "mine"})).size.config.hidden_size == 32
