"""The benchmark of GPU settings, on a CPU and with a small model: that it measures, not what."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from posttrain_helpers.recipes import load_recipe

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import bench_gpu

SMALL = ["--steps", "4", "--longest", "30", "--set", "args.per_device_train_batch_size=2"]


@pytest.fixture
def model_dir(tmp_path: Path) -> str:
    from shrunken_qwen3 import write_model

    return str(write_model(tmp_path / "model"))


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
def test_a_case_is_measured_and_one_that_fails_says_why(
    model_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_gpu.main([model_dir, "--cases", "sft_source", "sft_packed_liger", *SMALL])
    first, second, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert first.startswith("sft_source ")
    assert "tokens/s" in first
    assert figures["sft_source"]["steps"] == 2
    assert figures["sft_source"]["tokens_per_second"] > 0
    assert figures["sft_source"]["planned_gb"] > 0
    assert second.startswith("sft_packed_liger ")
    if "failed" in figures["sft_packed_liger"]:  # without the package liger-kernel
        assert "liger" in second


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
