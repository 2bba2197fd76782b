"""Each method trains a few steps from the command line, on a reader's own model and rows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from posttrain_helpers import cli
from posttrain_helpers.recipes.methods import METHODS

STEPS = "args.max_steps=2 args.logging_steps=1 args.learning_rate=1e-3"
SAMPLED = f"data.source=PROMPTS rewards=[SCORER] args.max_completion_length=6 {STEPS}"
LINES = {
    "sft": f"sft data.source=ROWS {STEPS}",
    "kl_sft": f"kl_sft data.source=ROWS {STEPS}",
    "reward": f"reward data.source=PAIRS {STEPS}",
    "dpo": f"dpo data.source=PAIRS {STEPS}",
    "kto": f"kto data.source=PAIRS {STEPS}",
    "orpo": f"orpo data.source=PAIRS {STEPS}",
    "cpo": f"simpo data.source=PAIRS {STEPS}",
    "grpo": f"grpo {SAMPLED} args.num_generations=4",
    "rloo": f"rloo {SAMPLED} args.per_device_train_batch_size=8",
    "ppo": f"ppo {SAMPLED} args.value_model=null args.total_episodes=64 args.num_mini_batches=1",
    "distill_offline": f"distill_offline data.source=ROWS teacher=TEACHER {STEPS}",
    "distill_on_policy": "distill_on_policy data.source=PROMPTS teacher=TEACHER args.max_completion_length=6 "
    f"{STEPS}",
}


@pytest.fixture(scope="module")
def places(random_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A reward model, a teacher, and rows for every method."""
    directory = tmp_path_factory.mktemp("methods")
    torch.manual_seed(3)
    scorer = AutoModelForSequenceClassification.from_pretrained(random_model_dir, num_labels=1)
    torch.nn.init.normal_(scorer.score.weight, std=0.3)
    teacher = AutoModelForCausalLM.from_pretrained(random_model_dir)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight += 0.05 * torch.randn_like(weight)
    for name, model in (("scorer", scorer), ("teacher", teacher)):
        model.save_pretrained(directory / name)
        AutoTokenizer.from_pretrained(random_model_dir).save_pretrained(directory / name)
    rows: dict[str, list[dict]] = {"ROWS": [], "PAIRS": [], "PROMPTS": []}
    for number in range(40):
        question = [{"role": "user", "content": f"What is {number} + 1?"}]
        good, bad = (
            [{"role": "assistant", "content": text}] for text in (f"It is {number + 1}.", f"Moo, {number}!")
        )
        rows["ROWS"].append({"messages": question + good})
        rows["PAIRS"].append({"prompt": question, "chosen": good, "rejected": bad})
        rows["PROMPTS"].append({"prompt": question})
    found = {"SCORER": directory / "scorer", "TEACHER": directory / "teacher"}
    for name, content in rows.items():
        found[name] = directory / f"{name.lower()}.jsonl"
        found[name].write_text("\n".join(map(json.dumps, content)), encoding="utf-8")
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_from_the_command_line(
    method: str,
    places: dict[str, Path],
    random_model_dir: Path,
    output_root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = f"train {LINES[method]} model={random_model_dir} --name mine"
    for name, place in places.items():
        line = line.replace(name, str(place))
    assert cli.main(shlex.split(line)) == 0, capsys.readouterr().err
    stage = output_root / "tiny" / "stages" / "mine"
    log = json.loads((stage / "training_log.json").read_text(encoding="utf-8"))
    assert log[-1]["step"] >= 2
    before, after = (load_file(place / "model.safetensors") for place in (random_model_dir, stage))
    shared = before.keys() & after.keys()
    assert len(shared) > 10
    assert any((after[key] - before[key]).abs().max() > 1e-4 for key in shared)
