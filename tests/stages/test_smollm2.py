"""The profile `smollm2` with a small Llama in its model's place: adapters one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_models import environment

from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.stages.build import load_stage
from posttrain_helpers.stages.loading import load_model_and_tokenizer

pytestmark = pytest.mark.slow


def test_an_adapter_of_dpo_stands_on_the_merged_adapter_of_sft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(tmp_path, "llama").items():
        monkeypatch.setenv(name, value)
    stage = load_stage("dpo", "smollm2")
    manifests = {
        name: json.loads((stage.parent / name / "manifest.json").read_text(encoding="utf-8"))
        for name in ("sft", "dpo")
    }
    for name, manifest in manifests.items():
        assert manifest["recipe_hash"] == load_recipe(name, "smollm2").hash
        assert manifest["settings"]["lora"] == {"r": 16, "target_modules": "all-linear"}
        assert (stage.parent / name / "adapter_config.json").is_file()
    model, tokenizer = load_model_and_tokenizer("dpo", profile="smollm2", verbose=False)
    assert hasattr(model, "peft_config")
    # A published assistant keeps its own template, with marks around what it says.
    assert "[INST]" in tokenizer.chat_template
    assert "generation" in tokenizer.chat_template
