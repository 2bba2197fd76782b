"""The benchmark of GPU settings, on a CPU and with a small model: that it measures, not what."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from posttrain_helpers.recipes import load_recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import bench_gpu

SMALL = ["--steps", "4", "--longest", "30", "--set", "args.per_device_train_batch_size=2"]


@pytest.mark.usefixtures("output_root")
@pytest.mark.parametrize("case", bench_gpu.CASES)
def test_every_case_is_a_recipe_with_changes_that_it_knows(case: str) -> None:
    method, changes = bench_gpu.CASES[case]
    changes = {key: value for key, value in changes.items() if key != "attention"}
    recipe = load_recipe(method, "qwen3", changes)
    for key, value in changes.items():
        section, name = key.split(".")
        assert getattr(recipe, section)[name] == value


@pytest.mark.slow
@pytest.mark.usefixtures("output_root")
def test_a_case_is_measured(
    random_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("POSTTRAIN_MODEL", "POSTTRAIN_PROFILE", "HF_HUB_OFFLINE"):  # which a case sets
        monkeypatch.setenv(variable, "")
    bench_gpu.main([str(random_model_dir), "--case", "sft_source", *SMALL])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["steps"] == 2
    assert figures["seconds_per_step"] > 0
    assert figures["tokens_per_second"] > 0
    assert figures["planned_gb"] > 0


def test_each_case_is_a_line_and_one_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {"seconds_per_step": 0.5, "tokens_per_second": 100.0, "peak_gb": 1.0, "planned_over_peak": 1.2}

    def child(command: list[str], **options: object) -> SimpleNamespace:
        if "sft_packed_liger" in command:
            return SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nImportError: no liger\n")
        assert command[2:] == ["/model", "--case", "sft_source", *SMALL[:4], "--cap", "0", *SMALL[4:]]
        return SimpleNamespace(returncode=0, stdout=f"a card\n{json.dumps(measured)}\n", stderr="")

    monkeypatch.setattr(bench_gpu.subprocess, "run", child)
    monkeypatch.setattr(bench_gpu.Path, "resolve", lambda path: path)
    bench_gpu.main(["/model", "--cases", "sft_source", "sft_packed_liger", *SMALL])
    first, second, last = capsys.readouterr().out.splitlines()
    failure = {"failed": "ImportError: no liger"}
    shown = "sft_source 0.50 s/step 100 tokens/s peak 1.0 GB planned x 1.20"
    assert " ".join(first.split()) == shown
    assert " ".join(second.split()) == "sft_packed_liger FAILED: ImportError: no liger"
    assert json.loads(last) == {"sft_source": measured, "sft_packed_liger": failure}


def small_model(tied: bool) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            tie_word_embeddings=tied,
            attn_implementation="eager",
        )
    )


@pytest.mark.parametrize("tied", [True, False])
def test_the_operations_of_a_training_are_those_that_pytorch_counts(tied: bool) -> None:
    length, model = 48, small_model(tied)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False).logits.sum().backward()
    # Eager attention also multiplies with the half that the mask hides, and norms are no products.
    width, layers = 4 * 16, 2
    hidden_half = 3 * 4 * layers * width * length / 2 * length
    ours = length * bench_gpu.training_flops_per_token(model, length)
    assert ours + hidden_half == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_reference_adds_a_forward_pass_and_frozen_weights_need_no_gradient_of_their_own() -> None:
    model = small_model(tied=True)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert bench_gpu.training_flops_per_token(model, 0) == 6 * weights
    assert bench_gpu.training_flops_per_token(model, 0, references=1) == 8 * weights
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    adapter = 2 * (2 * 32 + 2 * 64)
    assert bench_gpu.training_flops_per_token(adapted, 0) == 4 * (weights + adapter) + 2 * adapter


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Some accelerator", None),
    ],
)
def test_a_card_is_known_by_its_name(name: str, teraflops: float | None) -> None:
    assert bench_gpu.peak_flops(name) == (None if teraflops is None else teraflops * 1e12)


def test_the_first_steps_and_the_summary_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([11.0, 12.0, 14.0])  # no clock is read before the end of the warm-up
    monkeypatch.setattr(bench_gpu, "now", lambda: next(times))
    timer = bench_gpu.StepTimer()
    callback = timer.callback()
    for step in range(1, 5):
        callback.on_log(None, SimpleNamespace(global_step=step), None, {"num_tokens": 100.0 * step})
    callback.on_log(None, SimpleNamespace(global_step=4), None, {"train_runtime": 99.0, "num_tokens": 0.0})
    assert timer.figures() == {"steps": 2, "seconds_per_step": 1.5, "tokens_per_second": 200 / 3}


def test_a_trainer_that_counts_no_tokens_has_seconds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 3.0])
    monkeypatch.setattr(bench_gpu, "now", lambda: next(times))
    timer = bench_gpu.StepTimer()
    callback = timer.callback()
    for step in (2, 3):
        callback.on_log(None, SimpleNamespace(global_step=step), None, {"loss": 1.0})
    assert timer.figures() == {"steps": 1, "seconds_per_step": 3.0, "tokens_per_second": None}


def test_rows_have_the_form_that_a_method_needs(tmp_path: Path) -> None:
    columns = {
        "sft": {"messages"},
        "dpo": {"prompt", "chosen", "rejected"},
        "grpo": {"prompt", "answer"},
        "ppo": {"prompt"},
    }
    for method, expected in columns.items():
        mean = bench_gpu.write_rows(method, tmp_path / method, longest=900)
        rows = [json.loads(line) for line in (tmp_path / method).read_text(encoding="utf-8").splitlines()]
        assert len(rows) == bench_gpu.ROWS
        assert {frozenset(row) for row in rows} == {frozenset(expected)}
        words = [len(json.dumps(row).split()) for row in rows]
        assert 40 < mean < max(words)
