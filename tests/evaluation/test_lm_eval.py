"""EleutherAI's harness reads the directory of a stage, with the command that the README shows."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.report.export import export_stage
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.stages.save import save_stage

README = Path(__file__).resolve().parents[2] / "README.md"
SHOWN_STAGE = "trainer_output/tiny/stages/sft"
SHOWN_TASK = "arc_easy"
TASK = """\
task: sounds
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
ROWS = [
    {"question": "A cow says", "choices": ["moo", "woof"], "label": 0},
    {"question": "3 + 4 =", "choices": ["6", "7"], "label": 1},
    {"question": "An owl can", "choices": ["fly", "swim"], "label": 0},
]


def command_of_the_readme() -> list[str]:
    lines = README.read_text(encoding="utf-8").splitlines()
    return shlex.split(next(line for line in lines if line.startswith("lm_eval ")))


def test_the_readme_names_a_stage_and_a_task() -> None:
    words = command_of_the_readme()
    assert f"pretrained={SHOWN_STAGE}" in words
    assert words[words.index("--tasks") + 1] == SHOWN_TASK


@pytest.mark.slow
@pytest.mark.parametrize("exported", [False, True], ids=["stage", "exported adapter"])
def test_the_harness_measures_a_stage(
    output_root: Path, random_model_dir: Path, tmp_path: Path, exported: bool
) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install 'lm_eval[hf]>=0.4.13'")
    lora = {"r": 4, "target_modules": ["q_proj"]} if exported else None
    model, tokenizer = load_model_and_tokenizer(random_model_dir, lora=lora, verbose=False)
    recipe = load_recipe("sft", "tiny", {"model": str(random_model_dir)})
    stage = save_stage(model, "sft", recipe, tokenizer=tokenizer, as_it_is=True)
    if exported:
        stage = export_stage("sft", tmp_path / "exported", "tiny", merge=True)
    data, task = tmp_path / "sounds.jsonl", tmp_path / "sounds.yaml"
    data.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    task.write_text(TASK.format(data=data.as_posix()), encoding="utf-8")
    places = {f"pretrained={SHOWN_STAGE}": f"pretrained={stage}", SHOWN_TASK: str(task)}
    words = [places.get(word, word) for word in command_of_the_readme()[1:]]
    written = tmp_path / "results"
    finished = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words, "--device", "cpu", "--output_path", str(written)],
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    (results,) = written.rglob("results*.json")
    measured = json.loads(results.read_text(encoding="utf-8"))
    assert measured["n-samples"]["sounds"]["effective"] == len(ROWS)
    assert 0 <= measured["results"]["sounds"]["acc,none"] <= 1
