"""What `estimate_memory` promises: true counts, and a total near the peak that a run really has."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory.estimate import (
    NEEDS,
    MemoryEstimate,
    ModelSize,
    _kept_per_token,
    estimate_memory,
    free_memory,
    measure_model,
)
from posttrain_helpers.recipes.methods import METHODS
from posttrain_helpers.stages.planning import empty_model

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import bench_memory_estimate as bench

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
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True),
}
LORA = {"r": 4, "target_modules": "all-linear"}
ARGUMENTS = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_length": 128,
    "max_completion_length": 64,
    "activation_checkpointing": False,
    "bf16": False,
    "fp16": False,
    "optim": "adamw_torch",
    "use_cpu": True,
    "steps_per_generation": None,
    "generation_batch_size": None,
}


def size(name: str = "qwen3", **changes: object) -> ModelSize:
    return measure_model(empty_model(FAMILIES[name], **changes))


def estimate(method: str = "sft", of: ModelSize | None = None, **changes: object) -> MemoryEstimate:
    return estimate_memory(of or size(), method, {**ARGUMENTS, **changes})


def at_peak(made: MemoryEstimate) -> dict[str, int]:
    return made.moments[made.peak]


# --- the model


def test_the_shape_of_qwen3_0_6b() -> None:
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    measured = measure_model(empty_model(config))
    assert measured.parameters == 596_049_920  # what its model card calls 0.6B
    assert measured.weights == measured.trained == 4 * measured.parameters
    assert measured.linear == 28 * (3 * 1024 * 3072 + 2 * 1024 * 2048 + 2 * 1024 * 1024)
    assert not measured.adapter


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_and_real_models_measure_the_same(family: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(FAMILIES[family])
    empty = size(family)
    assert {tensor.device.type for tensor in empty_model(FAMILIES[family]).parameters()} == {"meta"}
    assert empty.parameters == model.num_parameters()
    assert vars(measure_model(model)) | {"config": None} == vars(empty) | {"config": None}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA))
    empty = size(family, lora=LORA)
    assert vars(measure_model(adapted)) | {"config": None} == vars(empty) | {"config": None}
    trained, parameters = adapted.get_nb_trainable_parameters()
    assert (empty.trained, empty.parameters, empty.adapter) == (4 * trained, parameters, True)
    assert empty.linear_ends == trained / LORA["r"]  # so the advice knows what an adapter would take


def really_kept(config: PreTrainedConfig, layers: int, half_precision: bool) -> int:
    """Bytes that autograd keeps of a forward pass, without the weights."""
    from transformers import AutoModel

    config = type(config)(**{**config.to_diff_dict(), "num_hidden_layers": layers, "layer_types": None})
    model = AutoModel.from_config(config).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    mask = torch.ones(2, 1, 48, 48, dtype=torch.bool)  # as it comes out of a padded batch
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half_precision),
    ):
        model(torch.zeros(2, 48, dtype=torch.long), attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


@pytest.mark.parametrize("half_precision", [False, True])
# Pythia's MLP has no gate, and GPT-2's activation is written in many operations.
@pytest.mark.parametrize(
    ("family", "low", "high"),
    [
        ("gpt2", 0.6, 1),
        ("pythia", 1, 1.4),
        ("llama", 0.85, 1.1),
        ("qwen2", 0.85, 1.1),
        ("qwen3", 0.85, 1.1),
    ],
)
def test_a_layer_keeps_what_autograd_keeps(
    family: str, low: float, high: float, half_precision: bool
) -> None:
    config = FAMILIES[family]
    kept = really_kept(config, 2, half_precision) - really_kept(config, 1, half_precision)
    formula = 2 * 48 * _kept_per_token(size(family), 2 if half_precision else 4)
    if half_precision:
        formula += size(family).linear // 3 * 2
    assert low < formula / kept < high


@pytest.mark.parametrize("config", [MixtralConfig(**SHAPE), MambaConfig(vocab_size=100, hidden_size=32)])
def test_what_is_no_dense_transformer_is_refused(config: PreTrainedConfig) -> None:
    with pytest.raises(
        CourseError, match="knows dense transformers only, and a SimpleNamespace is none; measure"
    ):
        measure_model(SimpleNamespace(config=config))


# --- the run


def test_at_the_update_gradients_and_moments_are_there() -> None:
    made = estimate()
    update = made.moments["the update"]
    weights = 4 * made.size.parameters
    assert update["weights"] == weights
    assert update["gradients"] == weights + 1000 * 64 * 4  # of the tied embedding twice
    assert update["optimizer"] == 2 * weights
    assert made.total == max(sum(items.values()) for items in made.moments.values())
    untied = estimate(of=size("llama")).moments["the update"]
    assert untied["gradients"] == untied["weights"]


def test_what_changes_an_estimate() -> None:
    full = at_peak(estimate())
    assert at_peak(estimate(optim="sgd"))["optimizer"] == 0
    assert at_peak(estimate(optim="adamw_bnb_8bit"))["optimizer"] == full["optimizer"] // 4
    assert at_peak(estimate(of=size(dtype="bfloat16")))["weights"] == full["weights"] // 2
    assert at_peak(estimate(bf16=True))["activations"] < 0.8 * full["activations"]
    rows = 4 * 128 * (64 * 4 + 3 * _kept_per_token(size(), 2))
    copies = 2 * size().linear  # of the weights, which autocast makes
    assert estimate(bf16=True).moments["the loss"]["activations"] == rows + copies
    assert at_peak(estimate(activation_checkpointing=True))["activations"] < full["activations"] / 2
    anew = estimate(activation_checkpointing=True).moments
    layer = 4 * 128 * _kept_per_token(size(), 4)  # of the tokens of a batch, one layer at a time
    assert anew["the backward pass"]["activations"] - anew["the loss"]["activations"] == layer
    accumulated = estimate(gradient_accumulation_steps=4).moments["the loss"]
    assert accumulated["gradients"] == full["gradients"] + full["weights"]
    adapter = size(lora=LORA)
    trained = at_peak(estimate(of=adapter))
    assert trained["optimizer"] == 2 * adapter.trained < full["optimizer"] / 5
    assert estimate(of=adapter).moments["the loss"]["gradients"] == 0  # the output layer has none
    assert (
        trained["weights"] - at_peak(estimate(of=adapter.quantized("8bit")))["weights"] == 3 * adapter.linear
    )
    four_bit = at_peak(estimate(of=adapter.quantized("4bit")))
    assert trained["weights"] - four_bit["weights"] == pytest.approx(adapter.linear * (4 - 0.516), rel=1e-3)


def test_what_methods_hold() -> None:
    sft = at_peak(estimate())
    dpo = at_peak(estimate("dpo"))
    assert dpo["reference"] == dpo["weights"]
    assert dpo["activations"] == 2 * sft["activations"]  # a pair is two rows
    assert at_peak(estimate("dpo", precompute_ref_log_probs=True))["reference"] == 0
    assert at_peak(estimate("dpo", of=size(lora=LORA)))["reference"] == 0
    for changes in ({"precompute_ref_log_probs": True}, {"of": size(lora=LORA)}):  # its own, not the parent
        made = estimate_memory(
            changes.pop("of", size()), "dpo", {**ARGUMENTS, **changes}, reference=7 * 10**6
        )
        assert at_peak(made)["reference"] == 7 * 10**6
    assert at_peak(estimate("grpo", beta=0.0))["reference"] == 0
    assert at_peak(estimate("grpo", beta=0.1))["reference"] == sft["weights"]
    for method in ("distill_offline", "distill_on_policy"):  # no adapter saves a teacher
        assert at_peak(estimate(method, of=size(lora=LORA)))["reference"] == size(lora=LORA).weights
    assert at_peak(estimate("reward"))["logits"] == 0
    assert at_peak(estimate("orpo"))["logits"] == 4 * 8 * 128 * 1000 * 4
    for bf16 in (False, True):  # autocast leaves their weights as they are
        arguments = {**ARGUMENTS, "beta": 0, "bf16": bf16}
        with_reward = estimate_memory(size(), "rloo", arguments, reward_models=2)
        assert at_peak(with_reward)["reward models"] == 2 * sft["weights"]
    shared = estimate("ppo", num_mini_batches=1, rollout_batch_size=8)
    assert shared.moments["the loss"]["logits"] == 4 * 4 * 64 * 1000 * 4  # of replies, not of prompts
    separate = estimate("ppo", num_mini_batches=1, rollout_batch_size=8, value_model="reward_model")
    assert separate.moments["the update"]["critic"] == 4 * sft["weights"]  # and gradients, and two averages
    assert separate.total > shared.total
    near_base = at_peak(estimate("kl_sft"))
    assert near_base["reference"] == near_base["weights"]
    assert near_base["logits"] == sft["logits"]  # TRL's tiles are as large
    half = {"bf16": True, "per_device_train_batch_size": 256}
    more = at_peak(estimate("kl_sft", **half))["logits"] - at_peak(estimate(**half))["logits"]
    assert more == int(8.25 * 2**24 * 4) - int(8.25 * 4096 * 1000 * 2)
    assert set(NEEDS) == set(METHODS)


def test_sampling_holds_the_cache_of_all_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    def sampled(**changes: object) -> dict[str, int]:
        return estimate("grpo", **changes).moments["sampling"]

    row = (256 + 64) * 2 * 2 * 16 * 4  # tokens, keys and values, heads, their width, bytes
    assert sampled()["generation cache"] == 4 * row * (3 + 1)  # three layers, one of them twice
    assert sampled()["activations"] == 3 * 4 * 256 * 160 * 4  # of the prompts, in an MLP
    assert sampled(gradient_accumulation_steps=3)["generation cache"] == 12 * row * 4
    assert sampled(steps_per_generation=2)["generation cache"] == 8 * row * 4
    assert sampled(generation_batch_size=5)["generation cache"] == 5 * row * 4
    # TRL fills in both once it knows them, and one of them counts the replies of all processes.
    both = {"steps_per_generation": 3, "generation_batch_size": 1000}
    assert sampled(**both)["generation cache"] == sampled(steps_per_generation=3)["generation cache"]
    monkeypatch.setattr("posttrain_helpers.memory.estimate.process_count", lambda: 2)
    assert sampled(generation_batch_size=10)["generation cache"] == 5 * row * 4
    settings = {"num_mini_batches": 8, "rollout_batch_size": 20}
    assert estimate("ppo", **settings).moments["sampling"]["generation cache"] == 20 * row * 4


def test_a_row_is_not_longer_than_the_model_has_positions() -> None:
    short = Qwen3Config(**SHAPE, head_dim=16, max_position_embeddings=100)
    measured = measure_model(empty_model(short))
    assert estimate(of=measured).length == 100
    assert estimate("orpo", of=measured).moments["the loss"]["logits"] == 4 * 8 * 100 * 1000 * 4
    assert estimate("grpo", of=measured).length == 100


def test_on_a_gpu_the_tile_is_worked_on_in_place_and_there_is_a_context() -> None:
    made = estimate(use_cpu=False, bf16=True, per_device_train_batch_size=64)
    loss = made.moments["the loss"]
    assert loss["logits"] == 4096 * 32768 * 2 + 64 * 128 * 64 * (2 + 4)
    assert loss["overhead"] > 500 * 2**20


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_length": None}, "max_length is not set, so a row may have any length; set args.max_length"),
        ({"max_length": 0}, "the length must be a whole number of at least 1, but it is 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be a whole number"),
        ({"gradient_accumulation_steps": None}, "gradient_accumulation_steps must be .* but it is None"),
        (
            {"optim": "lion_32bit"},
            "does not know what optim='lion_32bit' holds in memory; it knows adamw_torch,",
        ),
    ],
)
def test_what_makes_no_sense_is_one_sentence(changes: dict, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        estimate(**changes)


# --- the machine


def limit_this_machine(monkeypatch: pytest.MonkeyPatch, left: int, available: int) -> None:
    import psutil

    from posttrain_helpers.environment import limits

    own = psutil.Process().memory_info().rss
    monkeypatch.setattr(limits, "memory_limit", lambda: (own + left, "cgroup"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))


def test_the_sentence_says_whether_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    made = estimate()
    limit_this_machine(monkeypatch, 10**13, 10**12)
    assert made.sentence().startswith("sft (full) on 0.2 M parameters, 4 x 128 tokens: about ")
    assert made.sentence().endswith("; it fits into 1000.0 GB (what the machine has available).")
    largest = max(at_peak(made), key=at_peak(made).get)
    assert f"at the peak, in {made.peak} ({largest} " in made.sentence()
    limit_this_machine(monkeypatch, 10**13, 10**6)
    assert "it does not fit into 1 MB" in made.sentence()
    assert "sft (adapter)" in estimate(of=size(lora=LORA)).sentence()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "fit" not in estimate(use_cpu=False).sentence()


def test_the_limit_is_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_this_machine(monkeypatch, 10**9, 10**11)
    free, source = free_memory("cpu")
    assert free == pytest.approx(10**9, rel=0.05)
    assert source == "what the cgroup limit leaves"
    limit_this_machine(monkeypatch, 10**9, 10**8)
    assert free_memory("cpu") == (10**8, "what the machine has available")


def test_the_limit_of_a_gpu_counts_what_torch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert free_memory("cuda") == (None, "no GPU here")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5, 9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 4)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1)
    assert free_memory("cuda") == (8, "what the GPU has free")


# --- against measured peaks

MEASURED = ("sft", "lora", "dpo", "grpo")


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    """Estimates and peaks of four trainings, one after the other in one process of their own."""
    return bench.compare(list(MEASURED))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux records the exact CPU peak")
@pytest.mark.parametrize("case", MEASURED)
def test_the_estimate_is_within_a_quarter_of_the_measured_peak(case: str, measured: dict) -> None:
    assert measured[case]["planned"] == pytest.approx(measured[case]["measured"], rel=0.25)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_estimate_is_within_a_quarter_of_the_measured_peak_on_a_gpu() -> None:
    for case, result in bench.compare(list(bench.CASES), device="cuda").items():
        assert result["planned"] == pytest.approx(result["measured"], rel=0.25), case
