"""What `plan_memory` promises: true counts, an estimate near the measured peak, advice that saves."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from posttrain_helpers import memory_planner, out_of_memory
from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory_counts import count_activations, count_model, empty_model, read_config
from posttrain_helpers.memory_plan import ITEMS, NEEDS
from posttrain_helpers.memory_planner import free_memory, plan_memory, plan_recipe
from posttrain_helpers.profiles import get_profile
from posttrain_helpers.recipes import load_recipe, recipe_names
from posttrain_helpers.recipes.methods import METHODS
from posttrain_helpers.training import train

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import bench_memory_planner as bench

SHAPE = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
FAMILIES: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(vocab_size=1000, n_embd=64, n_layer=3, n_head=4),
    "pythia": GPTNeoXConfig(**SHAPE),
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=2),
    "llama tied": LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True),
}
# The config.json of Qwen/Qwen3-0.6B-Base, as far as it changes the counts.
QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
LORA = {"r": 4, "target_modules": "all-linear"}
RUN = {"method": "sft", "batch_size": 4, "sequence_length": 128, "device": "cpu"}


def plan(**changes: object):
    return plan_memory(FAMILIES["qwen3"], **{**RUN, **changes})


def really_kept(config: PreTrainedConfig, lora: dict | None, autocast: torch.dtype | None) -> int:
    """Bytes that autograd keeps of a forward pass of a model with weights, without the weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config)
    if lora:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora)).get_base_model()
    body = model.base_model.train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    mask = torch.ones(2, 1, 48, 48, dtype=torch.bool)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None),
    ):
        output = body(torch.zeros(2, 48, dtype=torch.long), attention_mask=mask, use_cache=False)
    assert output.last_hidden_state.requires_grad
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


# --- counts


def test_parameters_of_the_shape_of_qwen3_0_6b() -> None:
    counts = count_model(read_config(QWEN3), torch.float32)
    assert counts.parameters == counts.trained == 596_049_920  # what its model card calls 0.6B
    assert counts.tied
    assert counts.embedding == 151936 * 1024


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_model(family: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = FAMILIES[family]
    model = AutoModelForCausalLM.from_config(config)
    counts = count_model(config, torch.float32)
    assert counts.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert counts.layers == 3
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA))
    counts = count_model(config, torch.float32, LORA)
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert counts.trained == trained > 0
    assert counts.parameters == sum(parameter.numel() for parameter in adapted.parameters())
    assert not counts.head_trained


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_those_that_autograd_keeps(family: str, lora, autocast) -> None:
    config = FAMILIES[family]
    kept = count_activations(config, 2, 48, torch.float32, lora=lora, autocast=autocast)
    assert kept.rest + 3 * kept.layer == really_kept(config, lora, autocast)


def test_the_cache_has_keys_and_values_of_each_layer() -> None:
    kept = count_activations(FAMILIES["qwen3"], 2, 48, torch.float32)
    assert kept.cache_token == 3 * 2 * 2 * 16 * 4  # layers, keys and values, heads, their width, bytes
    assert kept.residual == 2 * 48 * 64 * 4


def test_nothing_is_loaded() -> None:
    model = empty_model(FAMILIES["llama"], torch.float32)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    reward = count_model(FAMILIES["llama"], torch.float32, head="reward")
    assert reward.vocabulary == 1
    assert not reward.head_trained


def test_a_directory_is_read_and_other_things_are_refused(random_model_dir: Path, tmp_path: Path) -> None:
    assert read_config(random_model_dir).hidden_size == 32
    with pytest.raises(CourseError, match=r"holds no config\.json; give a model's directory"):
        read_config(tmp_path)
    with pytest.raises(CourseError, match="the model config cannot be read"):
        read_config({"model_type": "no such model"})
    with pytest.raises(CourseError, match="the model config cannot be read"):
        read_config({"hidden_size": 3})
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}', encoding="utf-8")
    with pytest.raises(CourseError, match="the model config cannot be read"):
        read_config(tmp_path)
    for content in ("[1]", "[" * 100_000, '{"model_type": "qwen3", "num_hidden_layers": "four"}'):
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(CourseError, match="the model config cannot be read"):
            read_config(tmp_path)
    with pytest.raises(CourseError, match=r"no language model for a Qwen3Config .*negative dimension"):
        empty_model(read_config({"model_type": "qwen3", "vocab_size": -1}), torch.float32)


def test_a_model_that_is_no_language_model_is_refused() -> None:
    from transformers import ViTConfig

    with pytest.raises(CourseError, match="has no language model for a ViTConfig"):
        empty_model(ViTConfig(), torch.float32)
    with pytest.raises(CourseError, match=r"LoRA settings .* do not fit"):
        empty_model(FAMILIES["llama"], torch.float32, {"r": 4, "target_modules": ["nowhere"]})


def test_a_mixture_of_experts_is_refused_in_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    from transformers import MixtralConfig

    config = MixtralConfig(**SHAPE, num_key_value_heads=2)
    with pytest.raises(CourseError, match="activations of a MixtralConfig cannot be counted without weights"):
        count_activations(config, 2, 16, torch.float32)
    assert "Traceback" not in capfd.readouterr().err
    with pytest.raises(CourseError, match="LoRA settings"):
        count_activations(config, 2, 16, torch.float32, lora={"r": 4, "target_modules": ["nowhere"]})


def test_the_config_of_a_loaded_model_does(random_model_dir: Path) -> None:
    """What loading and training leave in a config must not be built again: kernels of a GPU, quantization."""
    from transformers import BitsAndBytesConfig

    config = read_config(random_model_dir)
    plain = count_activations(config, 2, 16, torch.float32)
    config._attn_implementation = "flash_attention_2"
    config.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    assert count_activations(config, 2, 16, torch.float32) == plain
    assert config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_under_autocast_the_cache_stays_in_float32(family: str) -> None:
    """Rotated keys are float32, and transformers' cache stores the values in the type of the keys."""
    from transformers import AutoModelForCausalLM

    config = FAMILIES[family]
    kept = count_activations(config, 2, 48, torch.float32, autocast=torch.bfloat16)
    assert kept.cache_token == 3 * 2 * 2 * 16 * 4
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cache = model(torch.zeros(1, 5, dtype=torch.long), use_cache=True).past_key_values
    assert cache.layers[0].keys.dtype == cache.layers[0].values.dtype == torch.float32


# --- plans


def test_a_plan_adds_up_what_a_step_holds() -> None:
    made = plan()
    weights = made.counts.parameters * 4
    step = made.moments["the optimizer step"]
    assert step["weights"] == step["gradients"] == weights
    assert step["optimizer"] == 2 * weights
    assert step["activations"] == step["logits"] == step["reference"] == 0
    assert set(step) == set(ITEMS)
    assert made.total == max(sum(items.values()) for items in made.moments.values())
    table = made.table()
    assert table.loc["total"].max() == pytest.approx(made.total / 2**20, abs=0.3)
    assert "reference" not in table.index


def test_what_changes_a_plan() -> None:
    full = plan()
    assert plan(optimizer="sgd")["optimizer"] == 0
    assert plan(optimizer="adamw_8bit")["optimizer"] == full["optimizer"] // 4
    assert plan(dtype="bfloat16")["weights"] == full["weights"] // 2
    assert plan(activation_checkpointing=True)["activations"] < full["activations"] / 2
    adapter = plan(training="lora", lora=LORA)
    assert adapter["optimizer"] == 2 * 4 * adapter.counts.trained < full["optimizer"]
    four_bit, eight_bit = plan(training="4bit", lora=LORA), plan(training="8bit", lora=LORA)
    linear = adapter.counts.linear
    assert adapter["weights"] - four_bit["weights"] == pytest.approx(linear * (4 - 0.516), rel=0.01)
    assert adapter["weights"] - eight_bit["weights"] == linear * 3
    accumulated = plan(gradient_accumulation_steps=4)
    assert accumulated.moments["the loss"]["gradients"] > full.moments["the loss"]["gradients"]
    assert plan(completion_length=8)["logits"] < full["logits"]


def test_what_methods_hold() -> None:
    full = plan()
    dpo = plan(method="dpo")
    assert dpo["reference"] == dpo["weights"]
    assert dpo["activations"] > 1.9 * full["activations"]  # a pair is two rows
    assert plan(method="dpo", reference=False)["reference"] == 0
    assert plan(method="dpo", training="lora")["reference"] == 0
    grpo = plan(method="grpo", completion_length=64, gradient_accumulation_steps=2)
    assert grpo.request.sampled_rows == 8
    cache = grpo.moments["sampling"]["generation cache"]
    assert cache == 8 * 128 * 3 * 2 * 2 * 16 * 4 * 4 // 3  # and one layer of three twice
    assert grpo["reference"] == 0
    assert plan(method="grpo", reference=True)["reference"] == full["weights"]
    assert plan(method="rloo", reward_models=2)["reward models"] == 2 * full["weights"]
    reward = plan(method="reward")
    assert reward["logits"] == 0
    assert plan(method="orpo")["logits"] == 4 * 8 * 128 * 1000 * 4
    assert set(NEEDS) == set(METHODS)


def test_on_a_gpu_the_tile_is_worked_on_in_place_and_there_is_a_context() -> None:
    gpu = plan(device="cuda", autocast="bfloat16", limit=16 * 10**9)
    assert gpu.moments["the loss"]["logits"] == 4 * 128 * 32768 * 2 + 4 * 128 * 64 * 6
    assert gpu["overhead"] > 500 * 2**20


def test_the_sentence_says_whether_it_fits() -> None:
    small, large = plan(limit=10**12), plan(limit=10**6)
    assert small.fits
    assert large.fits is False
    assert "it fits into 1000.0 GB (as given)" in small.sentence()
    assert "it does not fit into 1 MB (as given)" in large.sentence()
    assert "4 x 128 tokens" in small.sentence()
    biggest = small.largest(1)[0]
    assert biggest[1] == max(small.moments[small.peak].values())
    assert biggest[0] in small.sentence()


def test_advice_saves_what_it_says() -> None:
    made = plan_memory(
        QWEN3, batch_size=8, sequence_length=1024, autocast="bfloat16", device="cuda", limit=16 * 10**9
    )
    assert not made.fits
    advice = made.advice()
    assert advice[0].settings == {"activation_checkpointing": True}
    assert str(advice[0]).startswith("set args.activation_checkpointing=true (saves about 1")
    for item in advice:
        assert item.saved == made.total - made.replace(**item.settings).total > 0
    halved = next(item for item in advice if "per_device_train_batch_size=4" in item.change)
    assert halved.settings["gradient_accumulation_steps"] == 2
    assert any("lora.r=16" in item.change for item in advice)
    best = made.replace(activation_checkpointing=True, batch_size=1, gradient_accumulation_steps=8)
    assert best.fits
    assert not any("activation_checkpointing" in item.change for item in best.advice())
    adapter = made.replace(training="lora", lora=LORA)
    assert any("quantization=4bit" in item.change for item in adapter.advice())


def test_advice_for_sampling_shortens_completions() -> None:
    made = plan(method="grpo", sequence_length=512, completion_length=400)
    change = next(item for item in made.advice() if "max_completion_length" in item.change)
    assert change.change == "set args.max_completion_length=200"
    assert change.settings == {"sequence_length": 312, "completion_length": 200}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "sftt"}, r"method 'sftt' is not known; did you mean 'sft'\?"),
        ({"dtype": "float64"}, "dtype 'float64' is not known"),
        ({"training": "qlora"}, "training 'qlora' is not known"),
        ({"optimizer": "lion"}, "optimizer 'lion' is not known"),
        ({"autocast": "float32"}, "autocast 'float32' is not known"),
        ({"device": "tpu"}, "device 'tpu' is not known"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but it is 0"),
        ({"sequence_length": 1.5}, "sequence_length must be a whole number"),
        ({"gradient_accumulation_steps": True}, "gradient_accumulation_steps must be a whole number"),
        ({"completion_length": 129}, "completion_length is 129, but a row has only 128 tokens"),
        ({"lora": LORA}, "lora was given, but training is 'full'"),
        ({"reference": True}, "sft has no reference model"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(changes: dict, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        plan(**changes)


def test_the_limit_is_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    from posttrain_helpers import memory_readings

    own = psutil.Process().memory_info().rss
    monkeypatch.setattr(memory_readings, "memory_limit", lambda: (own + 10**9, "cgroup"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**11))
    free, source = free_memory("cpu")
    assert free == pytest.approx(10**9, rel=0.05)
    assert source == "what the cgroup limit leaves"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**8))
    assert free_memory("cpu") == (10**8, "what the machine has available")


def test_the_limit_of_a_gpu_counts_what_torch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert free_memory("cuda") == (None, "no GPU here")
    assert plan(device="cuda").fits is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5, 9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 4)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1)
    assert free_memory("cuda") == (8, "what the GPU has free")


# --- recipes


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_of_the_tiny_profile_has_a_plan(name: str, output_root: Path) -> None:
    recipe = load_recipe(name, "tiny")
    made = plan_recipe(recipe)
    assert made.fits
    assert made.request.method == recipe.method
    assert made.request.batch_size == recipe.args["per_device_train_batch_size"]
    assert made.counts.parameters < 5e6
    assert not (output_root / "tiny" / "stages").exists()  # no stage was built for it


# Three models at once: these need a larger card, as their files say.
GPU_GIB = {"ppo": 24, "rloo": 24, "grpo_reward_model": 24}


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "judge"])
def test_each_recipe_of_qwen3_fits_the_gpu_that_it_is_meant_for(name: str, output_root: Path) -> None:
    limit = GPU_GIB.get(name, get_profile("qwen3").min_gpu_gb) * 2**30
    plan = plan_recipe(load_recipe(name, "qwen3"), model=QWEN3, device="cuda", limit=int(limit))
    assert plan.fits, plan.sentence()


def test_a_recipe_is_read_completely(output_root: Path) -> None:
    asked = plan_recipe(load_recipe("sft", "qwen3"), model=QWEN3, device="cuda").request
    assert (asked.batch_size, asked.sequence_length, asked.gradient_accumulation_steps) == (8, 1024, 2)
    assert (asked.autocast, asked.device, asked.optimizer) == ("bfloat16", "cuda", "adamw")
    assert asked.activation_checkpointing
    grpo = plan_recipe(load_recipe("grpo", "qwen3"), model=QWEN3, prompt_length=300).request
    assert (grpo.sequence_length, grpo.completion_length, grpo.sampled_rows) == (812, 512, 32)
    assert grpo.activation_checkpointing
    assert not grpo.reference
    rloo = plan_recipe(load_recipe("rloo", "qwen3"), model=QWEN3).request
    assert rloo.reference
    assert rloo.reward_models == 1
    lora = load_recipe("dpo", "qwen3", ["lora.r=8", "lora.target_modules=all-linear", "quantization=4bit"])
    four_bit = plan_recipe(lora, model=QWEN3, sequence_length=512, completion_length=100).request
    assert (four_bit.training, four_bit.lora["r"], four_bit.reference) == ("4bit", 8, False)
    assert (four_bit.sequence_length, four_bit.completion_length) == (512, 100)
    ppo = plan_recipe(load_recipe("ppo", "qwen3", ["args.rollout_batch_size=500"]), model=QWEN3).request
    assert ppo.sampled_rows == 2 * 16 * 4
    precomputed = load_recipe("dpo", "qwen3", ["args.precompute_ref_log_probs=true"])
    assert not plan_recipe(precomputed, model=QWEN3).request.reference


def test_a_recipe_without_a_length_or_with_an_unknown_optimizer_is_refused(output_root: Path) -> None:
    with pytest.raises(CourseError, match="max_length is not set"):
        plan_recipe(load_recipe("sft", "tiny", {"args.max_length": None}))
    with pytest.raises(CourseError, match="does not know what optim='lion_32bit' holds"):
        plan_recipe(load_recipe("sft", "tiny", {"args.optim": "lion_32bit"}))
    with pytest.raises(CourseError, match="device 'gpu' is not known"):
        plan_recipe(load_recipe("sft", "tiny"), device="gpu")


def test_a_recipe_takes_the_shape_of_the_model_that_it_names(
    output_root: Path, random_model_dir: Path
) -> None:
    recipe = load_recipe("sft", "tiny", {"model": str(random_model_dir)})
    assert plan_recipe(recipe).counts.hidden == 32
    adapter = output_root / "tiny" / "stages" / "mine"
    adapter.mkdir(parents=True)
    text = f'{{"base_model_name_or_path": "{random_model_dir.as_posix()}"}}'
    (adapter / "adapter_config.json").write_text(text, encoding="utf-8")
    assert plan_recipe(load_recipe("sft", "tiny", {"model": "mine"})).counts.hidden == 32


# --- out of memory


@pytest.fixture
def trainer(random_model_dir: Path, tmp_path: Path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(random_model_dir, dtype=torch.float32)
    config = METHODS["sft"].config
    assert config == "trl:SFTConfig"
    from trl import SFTConfig, SFTTrainer

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


def explode_at_the_second_step(trainer, monkeypatch: pytest.MonkeyPatch) -> list:
    """Let the second step of a real training run out of memory; return references to what it held."""
    step, held = trainer.training_step, []

    def failing(*args: object, **kwargs: object):
        loss = step(*args, **kwargs)
        if trainer.state.global_step:
            activations = torch.zeros(1000)
            moments = next(iter(trainer.optimizer.state.values()))["exp_avg"]
            held.extend([weakref.ref(activations), weakref.ref(moments)])
            raise torch.OutOfMemoryError(MESSAGE)
        return loss

    monkeypatch.setattr(trainer, "training_step", failing)
    return held


def test_out_of_memory_frees_the_device_and_says_numbers(trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    held = explode_at_the_second_step(trainer, monkeypatch)
    emptied = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    monkeypatch.setattr(memory_planner, "free_memory", lambda device: (None, ""))
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
    from peft import LoraConfig, get_peft_model

    whole = memory_planner.plan_trainer(trainer, "sft")
    assert (whole.request.training, whole.request.batch_size) == ("full", 4)
    trainer.model = get_peft_model(trainer.model, LoraConfig(task_type="CAUSAL_LM", **LORA))
    made = memory_planner.plan_trainer(trainer, "sft")
    assert made.request.training == "lora"
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    assert made.counts.trained == trained


# --- against measured peaks


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux records the exact CPU peak")
@pytest.mark.parametrize("case", ["sft", "dpo", "grpo"])
def test_the_estimate_is_within_a_fifth_of_the_measured_peak(case: str) -> None:
    result = bench.compared(case)
    assert 0.8 < result["ratio"] < 1.2, result


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("case", list(bench.CASES))
def test_the_estimate_is_within_a_fifth_of_the_measured_peak_on_a_gpu(case: str) -> None:
    result = bench.compared(case, device="cuda")
    assert 0.8 < result["ratio"] < 1.2, result
