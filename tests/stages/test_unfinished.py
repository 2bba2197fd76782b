"""A training that is cut short goes on with --resume, and makes the stage that it would have made."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posttrain_helpers import cli
from posttrain_helpers.models.manifest import saved_stages, stage_path
from posttrain_helpers.stages import build, unfinished
from posttrain_helpers.training import trainer

ON_REQUEST = "POSTTRAIN_EVERY_LAUNCH"


@pytest.fixture
def line(random_model_dir: Path, output_root: Path, tmp_path: Path) -> str:
    """A training of twelve steps from the command line."""
    rows = tmp_path / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as file:
        for number in range(96):
            messages = [
                {"role": "user", "content": f"What is {number} + 1?"},
                {"role": "assistant", "content": f"It is {number + 1}."},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return (
        f"train sft model={random_model_dir} data.source={rows} args.max_steps=12 args.logging_steps=1 "
        "args.per_device_train_batch_size=4 args.learning_rate=3e-3 --save-steps 3 --name"
    )


def train(line: str) -> int:
    return cli.main(shlex.split(line))


def cut_short(line: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until Ctrl-C arrives after a step."""
    whole = build.checkpoint_callback

    def interrupted(every: int | None) -> object:
        callback = whole(every)
        on_step_begin = callback.on_step_begin

        def interrupt(args: object, state: object, control: object, **kwargs: object) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt
            on_step_begin(args, state, control, **kwargs)

        callback.on_step_begin = interrupt
        return callback

    with monkeypatch.context() as patch:
        patch.setattr(build, "checkpoint_callback", interrupted)
        assert train(line) == cli.EXIT_INTERRUPTED


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(stage_path(name, "tiny") / "model.safetensors")


def curve(name: str) -> list[float]:
    text = (stage_path(name, "tiny") / "training_log.json").read_text(encoding="utf-8")
    return [log["loss"] for log in json.loads(text) if "loss" in log]


def largest_difference(one: str, other: str) -> float:
    first, second = weights(one), weights(other)
    return max((first[key] - second[key]).abs().max().item() for key in first)


def test_an_interrupted_training_goes_on(
    line: str, output_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(f"{line} whole") == 0
    run = output_root / "tiny" / "runs"
    assert not (run / "whole").exists(), "a stage that is whole needs no checkpoint"
    cut_short(f"{line} cut", 8, monkeypatch)
    assert "goes on with --resume" in capsys.readouterr().err
    assert [path.name for path in (run / "cut").glob("checkpoint-*")] == ["checkpoint-6"]
    assert saved_stages("tiny") == ["whole"]

    assert train(f"{line} cut") == cli.EXIT_MISTAKE
    refused = capsys.readouterr().err
    assert "unfinished run, saved after step 6 of 12; --resume goes on with it, and --rebuild" in refused
    assert train(f"{line} cut --resume args.learning_rate=1e-3") == cli.EXIT_MISTAKE
    assert "but its recipe changed since" in capsys.readouterr().err

    assert train(f"{line} cut --resume") == 0
    assert "it goes on after step 6" in capsys.readouterr().out
    assert largest_difference("cut", "whole") < 1e-6
    assert curve("cut") == pytest.approx(curve("whole"), abs=1e-5)
    assert not (run / "cut").exists()


def test_a_training_goes_on_beside_its_reference_model(
    reader_files: dict[str, Path],
    output_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reference = Path(shutil.copytree(reader_files["teacher"], tmp_path / "reference"))
    line = (
        f"train dpo model={reader_files['model']} data.source={reader_files['dpo']} reference={reference} "
        "args.max_steps=6 args.logging_steps=1 args.per_device_train_batch_size=4 args.learning_rate=1e-3 "
        "--save-steps 2 --name"
    )
    assert train(f"{line} whole") == 0
    cut_short(f"{line} cut", 5, monkeypatch)
    assert train(f"{line} cut --resume reference=null") == cli.EXIT_MISTAKE
    assert "recipe changed since" in capsys.readouterr().err
    weights_file = reference / "model.safetensors"
    kept = weights_file.read_bytes()
    shutil.copy(reader_files["model"] / "model.safetensors", weights_file)
    assert train(f"{line} cut --resume") == cli.EXIT_MISTAKE
    assert f"but its reference {str(reference)!r} changed since" in capsys.readouterr().err
    weights_file.write_bytes(kept)
    assert train(f"{line} cut --resume") == 0
    assert curve("cut") == pytest.approx(curve("whole"), abs=1e-5)
    assert abs(curve("whole")[0] - math.log(2)) > 1e-3


def test_early_stopping_keeps_the_best_weights_also_when_it_is_resumed(
    line: str, output_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = (
        "args.eval_strategy=steps args.eval_steps=2 data.dev=24 early_stopping=2 args.learning_rate=5e-2"
    )
    line = line.replace("max_steps=12", "max_steps=60").replace("--name", f"{watched} --name")
    kept: dict[str, torch.Tensor] = {}

    def keep(run: unfinished.Run) -> None:
        for path in run.directory.glob("checkpoint-*"):
            kept[path.name] = load_file(path / "model.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(unfinished.Run, "drop", keep)
        assert train(f"{line} whole") == 0
    said = re.search(r"after step (\d+) of 60 and kept the weights of step (\d+)", capsys.readouterr().out)
    ended, best = map(int, said.groups())
    assert ended == best + 4 < 60
    found = dev_curve("whole")
    assert min(found, key=found.get) == best
    assert list(found) == list(range(2, ended + 1, 2))
    assert set(kept) == {f"checkpoint-{best}"}
    for key, weight in weights("whole").items():
        assert torch.equal(weight, kept[f"checkpoint-{best}"][key])

    cut_short(f"{line} cut", best + 3, monkeypatch)
    assert train(f"{line} cut --resume") == 0
    assert largest_difference("cut", "whole") < 1e-6
    assert dev_curve("cut") == pytest.approx(found, abs=1e-5)


def dev_curve(name: str) -> dict[int, float]:
    text = (stage_path(name, "tiny") / "training_log.json").read_text(encoding="utf-8")
    return {log["step"]: log["eval_loss"] for log in json.loads(text) if "eval_loss" in log}


def test_what_is_not_asked_for_is_not_resumed(
    line: str, output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(f"{line} early", 2, monkeypatch)  # before the first checkpoint: there is nothing to go on from
    assert train(f"{line} early") == 0
    cut_short(f"{line} cut", 4, monkeypatch)
    assert train(f"{line} cut --rebuild") == 0
    assert largest_difference("cut", "early") < 1e-6
    assert train(f"{line} fresh --resume") == 0  # a loop that restarts a job may always say it


def test_a_stage_knows_what_its_rows_and_its_dev_rows_were(output_root: Path, tmp_path: Path) -> None:
    from posttrain_helpers.recipes import load_recipe
    from posttrain_helpers.stages.save import data_identities

    rows, dev = tmp_path / "rows.jsonl", tmp_path / "dev.jsonl"
    for file in (rows, dev):
        file.write_text("{}\n", encoding="utf-8")
    changes = {"data.source": str(rows), "data.dev": str(dev), "args.eval_strategy": "epoch"}
    recipe = load_recipe("sft", "tiny", changes)
    before = data_identities(recipe)
    dev.write_text("{}\n{}\n", encoding="utf-8")
    after = data_identities(recipe)
    assert set(before) == {"data.source", "data.dev"}
    assert {key for key in before if after[key] != before[key]} == {"data.dev"}


def test_a_file_that_has_changed_makes_another_stage(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, line = tmp_path / "rows.jsonl", line.replace("max_steps=12", "max_steps=6")
    cut_short(f"{line} cut", 4, monkeypatch)
    assert train(f"{line} mine") == 0
    assert train(f"{line} mine") == 0
    assert "is already there, made by this recipe" in capsys.readouterr().out
    rows.write_text(rows.read_text(encoding="utf-8").replace("It is 7.", "It is 8."), encoding="utf-8")
    assert train(f"{line} mine") == cli.EXIT_MISTAKE
    assert "made in another way (the file of data.source has changed)" in capsys.readouterr().err
    assert train(f"{line} cut --resume") == cli.EXIT_MISTAKE
    assert "but its file of data.source changed since" in capsys.readouterr().err
    manifest = stage_path("mine", "tiny") / "manifest.json"
    former = json.loads(manifest.read_text(encoding="utf-8"))
    del former["data_identities"]  # as stages had it before
    manifest.write_text(json.dumps(former), encoding="utf-8")
    assert train(f"{line} mine") == 0


def test_a_file_that_changes_while_a_stage_trains_is_not_what_it_learned(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, line = tmp_path / "rows.jsonl", line.replace("max_steps=12", "max_steps=2")
    trained = trainer.train

    def train_while_somebody_edits(*arguments: Any) -> dict[str, float]:
        metrics = trained(*arguments)
        rows.write_text(rows.read_text(encoding="utf-8").replace("It is 7.", "It is 8."), encoding="utf-8")
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", train_while_somebody_edits)
        assert train(f"{line} mine") == 0
    assert train(f"{line} mine") == cli.EXIT_MISTAKE
    assert "the file of data.source has changed" in capsys.readouterr().err


def test_a_second_training_of_the_same_stage_is_refused(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from filelock import FileLock

    target = stage_path("busy", "tiny")
    target.parent.mkdir(parents=True)
    with FileLock(target.with_name(".busy.lock")):
        assert train(f"{line} busy") == cli.EXIT_MISTAKE
    assert "another process trains the stage 'busy' at this moment" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(ON_REQUEST), reason=f"takes minutes; set {ON_REQUEST}=1")
@pytest.mark.parametrize(
    ("method", "moment"), [("sft", n) for n in range(3)] + [(m, n) for m in ("dpo", "grpo") for n in range(5)]
)
def test_a_training_that_is_killed_at_any_moment_goes_on(
    line: str, random_model_dir: Path, output_root: Path, tmp_path: Path, method: str, moment: int
) -> None:
    line = line.replace("max_steps=12", "max_steps=60")
    if method != "sft":
        line = line.replace("train sft", f"train {method}").replace("rows.jsonl", f"{method}.jsonl")
        write_rows(tmp_path / f"{method}.jsonl", method)
    if method == "grpo":
        sizes = "args.num_generations=4 args.max_completion_length=6 args.num_iterations=2"
        line = line.replace(
            "--save-steps", f"{sizes} rewards=[{scorer(random_model_dir, tmp_path)}] --save-steps"
        )
    assert train(f"{line} whole") == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "posttrain_helpers", *shlex.split(f"{line} cut")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        assert any("building stage" in printed for printed in process.stdout)
        time.sleep(random.uniform(0, 6))
        process.kill()
        process.communicate()
    finally:
        watchdog.cancel()
    assert train(f"{line} cut --resume") == 0
    assert largest_difference("cut", "whole") < 1e-5
    assert curve("cut") == pytest.approx(curve("whole"), abs=1e-4)
    assert not list((output_root / "tiny" / "stages").glob(".*.tmp"))
    assert not (output_root / "tiny" / "runs" / "cut").exists()


def write_rows(path: Path, method: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in range(96):
            prompt = [{"role": "user", "content": f"What is {number} + 1?"}]
            texts = (
                {"chosen": f"It is {number + 1}.", "rejected": f"Moo, {number}!"} if method == "dpo" else {}
            )
            replies = {key: [{"role": "assistant", "content": text}] for key, text in texts.items()}
            file.write(json.dumps({"prompt": prompt, **replies}) + "\n")


def scorer(model: Path, directory: Path) -> Path:
    """Write a reward model of random weights."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(3)
    scoring = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    torch.nn.init.normal_(scoring.score.weight, std=0.3)
    scoring.save_pretrained(directory / "scorer")
    AutoTokenizer.from_pretrained(model).save_pretrained(directory / "scorer")
    return directory / "scorer"
