"""Speed of a run: what is counted, over which steps, and against which arithmetic."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, Qwen3Config, Qwen3ForCausalLM

from posttrain_helpers import throughput
from posttrain_helpers.errors import CourseError
from posttrain_helpers.throughput import Throughput, peak_flops, training_flops_per_token

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}


def config(**changes: Any) -> Qwen3Config:
    return Qwen3Config(**{**SHAPE, "tie_word_embeddings": True, **changes})


def counted_flops(settings: Qwen3Config, length: int, backward: bool) -> int:
    """What PyTorch counts for one sequence, matrix products only."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    settings._attn_implementation = "eager"
    model = Qwen3ForCausalLM(settings)
    ids = torch.randint(0, settings.vocab_size, (1, length))
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


class TestFlops:
    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("trained", [True, False])
    def test_they_are_those_that_pytorch_counts(self, tied: bool, trained: bool) -> None:
        length, settings = 48, config(tie_word_embeddings=tied)
        ours = length * training_flops_per_token(settings, length, trained=trained)
        # Eager attention also multiplies with the half that the mask hides, and norms are no products.
        width, layers = 4 * 16, 2
        hidden_half = 4 * layers * width * length / 2 * (3 if trained else 1) * length
        assert ours + hidden_half == pytest.approx(counted_flops(settings, length, trained), rel=0.01)

    def test_without_attention_training_costs_six_for_each_weight(self) -> None:
        settings = config()
        weights = sum(parameter.numel() for parameter in Qwen3ForCausalLM(settings).parameters())
        assert training_flops_per_token(settings, 0) == 6 * weights
        assert training_flops_per_token(settings, 0, trained=False) == 2 * weights
        assert training_flops_per_token(settings, 0, references=1) == 8 * weights

    def test_frozen_weights_need_no_gradient_of_their_own(self) -> None:
        settings = config()
        lora = {"r": 2, "target_modules": ["q_proj"]}
        weights = sum(parameter.numel() for parameter in Qwen3ForCausalLM(settings).parameters())
        adapter = 2 * (2 * 32 + 2 * 64)
        assert training_flops_per_token(settings, 0, lora=lora) == 4 * (weights + adapter) + 2 * adapter

    def test_a_reward_model_has_no_vocabulary_to_multiply_with(self) -> None:
        difference = training_flops_per_token(config(), 0) - training_flops_per_token(
            config(), 0, head="reward"
        )
        assert difference == 6 * (64 * 32 - 32)

    def test_other_families_have_their_own_names_for_sizes(self) -> None:
        settings = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=64)
        longer = training_flops_per_token(settings, 20) - training_flops_per_token(settings, 10)
        assert longer == 3 * 4 * 2 * 32 * (20 - 10) / 2


class TestPeak:
    @pytest.mark.parametrize(
        ("name", "teraflops"),
        [
            ("NVIDIA H200", 989),
            ("NVIDIA H100 80GB HBM3", 989),
            ("NVIDIA H100 PCIe", 756),
            ("NVIDIA A100-SXM4-40GB", 312),
            ("NVIDIA A10G", 70),
            ("NVIDIA L4", 121),
            ("NVIDIA L40S", 362),
            ("Tesla T4", 65),
            ("NVIDIA GeForce RTX 4090", 165),
            ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
            ("Some accelerator", None),
        ],
    )
    def test_a_card_is_known_by_its_name(self, name: str, teraflops: float | None) -> None:
        assert peak_flops(name) == (None if teraflops is None else teraflops * 1e12)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
    def test_without_a_gpu_there_is_none(self) -> None:
        assert peak_flops() is None


def logged(speed: Throughput, times: list[float], monkeypatch: pytest.MonkeyPatch, **logs: Any) -> None:
    """Let a trainer log at these times, 100 tokens a step."""
    clock = iter(times)
    monkeypatch.setattr(throughput, "_now", lambda: next(clock))
    callback = speed.callback()
    callback.on_train_begin(None, None, None)
    for step in range(1, len(times) + 1):
        entry = {"loss": 1.0, "num_tokens": 100.0 * step, **logs}
        entry = {name: value for name, value in entry.items() if value is not None}
        callback.on_log(None, SimpleNamespace(global_step=step), None, entry)
    summary = {"train_runtime": 99.0, "num_tokens": 0.0}
    callback.on_log(None, SimpleNamespace(global_step=len(times)), None, summary)


class TestThroughput:
    def test_the_first_steps_and_the_summary_do_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        speed = Throughput(warmup_steps=2)
        # No clock is read before the end of the warm-up.
        logged(speed, [10.0, 11.0, 13.0, 13.0], monkeypatch)
        measured = speed.measurement
        assert (measured.steps, measured.seconds, measured.tokens) == (2, 3.0, 200)
        assert measured.tokens_per_second == pytest.approx(200 / 3)

    def test_the_sentence_names_the_share_of_a_known_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        speed = Throughput(warmup_steps=1)
        logged(speed, [0.0, 1.0, 2.0], monkeypatch)
        needed = 100 * training_flops_per_token(config(), 10)
        monkeypatch.setitem(throughput.PEAK_FLOPS, "Abacus", 4 * needed)
        text = speed.sentence(config(), 10, device_name="The Abacus")
        assert text == "100 tokens/s, 25% of the device's arithmetic (MFU)"
        assert speed.sentence(config(), 10, device_name="unknown") == "100 tokens/s"

    def test_a_trainer_that_counts_no_tokens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        speed = Throughput(warmup_steps=1)
        logged(speed, [0.0, 3.0], monkeypatch, num_tokens=None)
        assert speed.measurement.tokens_per_second is None
        assert speed.sentence(config(), 10) == "3.00 s for a step; this trainer counts no tokens"

    @pytest.mark.parametrize(("steps", "words"), [(1, "there is none"), (2, "there is one")])
    def test_too_short_a_run_says_so(self, steps: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
        speed = Throughput(warmup_steps=2)
        logged(speed, [1.0] * steps, monkeypatch)
        with pytest.raises(CourseError, match=f"{words}; train more steps or set args.logging_steps=1"):
            _ = speed.measurement

    def test_a_run_without_warm_up_is_refused(self) -> None:
        with pytest.raises(CourseError, match="at least 1, but it is 0"):
            Throughput(warmup_steps=0)

    def test_a_real_run_is_measured(self, random_model_dir: Path, output_root: Path) -> None:
        from posttrain_helpers import load_data, load_model_and_tokenizer, load_recipe, make_trainer, train

        changes = {
            "model": str(random_model_dir),
            "data.n_train": 24,
            "args.max_steps": 4,
            "args.logging_steps": 1,
        }
        recipe = load_recipe("sft", "tiny", changes)
        model, tokenizer = load_model_and_tokenizer(recipe.model, verbose=False)
        rows, _ = load_data(recipe, verbose=False)
        speed = Throughput()
        trainer = make_trainer(recipe, model, tokenizer, rows, [speed.callback()], verbose=False)
        started = time.perf_counter()
        train(trainer)
        whole = time.perf_counter() - started
        log = [entry["num_tokens"] for entry in trainer.state.log_history if "loss" in entry]
        measured = speed.measurement
        assert (measured.steps, measured.tokens) == (2, log[3] - log[1])
        assert 0 < measured.seconds < whole
