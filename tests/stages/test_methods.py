"""Each method trains a few steps from the command line, on a reader's own model and rows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from safetensors.torch import load_file

from posttrain_helpers import cli
from posttrain_helpers.recipes.methods import METHODS

STEPS = "args.max_steps=2 args.logging_steps=1 args.learning_rate=1e-3"
SHORT = f"args.max_completion_length=6 {STEPS}"
SAMPLED = f"data.source={{prompts}} rewards=[{{scorer}}] {SHORT}"
LINES = {
    "sft": f"sft data.source={{sft}} {STEPS}",
    "kl_sft": f"kl_sft data.source={{sft}} {STEPS}",
    "reward": f"reward data.source={{dpo}} {STEPS}",
    "dpo": f"dpo data.source={{dpo}} {STEPS}",
    "kto": f"kto data.source={{dpo}} {STEPS}",
    "orpo": f"orpo data.source={{dpo}} {STEPS}",
    "cpo": f"simpo data.source={{dpo}} {STEPS}",
    "grpo": f"grpo {SAMPLED} args.num_generations=4",
    "rloo": f"rloo {SAMPLED} args.per_device_train_batch_size=8",
    "ppo": f"ppo {SAMPLED} args.value_model=null args.total_episodes=64 args.num_mini_batches=1",
    "distill_offline": f"distill_offline data.source={{sft}} teacher={{teacher}} {STEPS}",
    "distill_on_policy": f"distill_on_policy data.source={{prompts}} teacher={{teacher}} {SHORT}",
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_from_the_command_line(
    method: str,
    reader_files: dict[str, Path],
    output_root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = f"train {LINES[method]} model={{model}} --name mine".format(**reader_files)
    assert cli.main(shlex.split(line)) == 0, capsys.readouterr().err
    stage = output_root / "tiny" / "stages" / "mine"
    log = json.loads((stage / "training_log.json").read_text(encoding="utf-8"))
    assert log[-1]["step"] >= 2
    before, after = (load_file(place / "model.safetensors") for place in (reader_files["model"], stage))
    shared = before.keys() & after.keys()
    assert len(shared) > 10
    assert any((after[key] - before[key]).abs().max() > 1e-4 for key in shared)
