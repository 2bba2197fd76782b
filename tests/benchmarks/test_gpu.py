"""What only a GPU can show; every test here skips without one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from posttrain_helpers import MemoryMonitor, load_recipe, make_trainer, train
from posttrain_helpers.environment.runtime import setup
from posttrain_helpers.errors import CourseError
from posttrain_helpers.stages.loading import load_model_and_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import bench_gpu

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
MB = 2**20


@pytest.fixture
def model_dir(tmp_path: Path) -> str:
    """A Qwen3 of 40 million random parameters with a vocabulary that is large for it."""
    from small_models import write_qwen3
    from transformers import Qwen3Config, Qwen3ForCausalLM

    directory = write_qwen3(tmp_path / "model")
    config = Qwen3Config(
        vocab_size=32_000,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return str(directory)


@pytest.fixture(autouse=True)
def _whole_card(monkeypatch: pytest.MonkeyPatch, output_root: Path) -> Iterator[None]:
    monkeypatch.setenv("POSTTRAIN_PROFILE", "qwen3")
    torch.cuda.empty_cache()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def trainer_of(model_dir: str, tmp_path: Path, batch_size: int, callbacks: list) -> object:
    """Return a trainer of the recipe sft on invented rows."""
    rows = tmp_path / "rows.jsonl"
    bench_gpu.write_rows("sft", rows, longest=200)
    from posttrain_helpers import load_data

    setup("qwen3")
    recipe = load_recipe(
        "sft",
        "qwen3",
        {
            "model": model_dir,
            "data.source": str(rows),
            "args.max_steps": 5,
            "args.logging_steps": 1,
            "args.per_device_train_batch_size": batch_size,
            "args.gradient_accumulation_steps": 1,
            "args.activation_checkpointing": False,
        },
    )
    model, tokenizer = load_model_and_tokenizer(recipe.model, profile="qwen3", verbose=False)
    assert model.device.type == "cuda"
    return make_trainer(recipe, model, tokenizer, load_data(recipe, verbose=False)[0], callbacks)


def test_the_monitor_agrees_with_torch_and_nvml(model_dir: str, tmp_path: Path) -> None:
    memory, speed = MemoryMonitor("sft"), bench_gpu.StepTimer()
    trainer = trainer_of(model_dir, tmp_path, 4, [memory.callback(), speed.callback()])
    torch.cuda.reset_peak_memory_stats()
    with memory:
        train(trainer)
    gpu = memory.summary()["gpus"][0]
    assert gpu["allocated_peak_mb"] == pytest.approx(torch.cuda.max_memory_allocated() / MB, abs=1)
    assert gpu["reserved_peak_mb"] >= gpu["allocated_peak_mb"]
    if gpu["device_after_mb"] is not None:
        assert gpu["device_after_mb"] >= torch.cuda.memory_reserved() / MB
    assert speed.figures()["tokens_per_second"] > 0


def test_out_of_memory_ends_in_advice_and_a_device_that_works_on(model_dir: str, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2e9 / whole)
    with pytest.raises(CourseError, match="GPU"):
        train(trainer_of(model_dir, tmp_path, 128, []))
    assert torch.cuda.memory_reserved() < 1.5e9  # what is left is the model, not the step that failed
    train(trainer_of(model_dir, tmp_path, 1, []))


@pytest.mark.parametrize("case", ["sft_packed", "sft_lora", "dpo", "grpo", "ppo"])
def test_the_benchmark_measures_a_case(case: str, model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench_gpu.main([model_dir, "--cases", case, "--steps", "4", "--longest", "100"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])[case]
    assert "failed" not in figures, figures
    assert 0 < figures["peak_gb"] <= figures["reserved_gb"]
