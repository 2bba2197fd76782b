"""`train --dry-run`: every shipped recipe passes, and nothing is trained, built or downloaded."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from posttrain_helpers import cli
from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.recipes import load_recipe, recipe_names
from posttrain_helpers.stages import build
from posttrain_helpers.stages.planning import plan_recipe, plan_training


@pytest.fixture(autouse=True)
def nothing_trains(output_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a dry run trains nothing")

    monkeypatch.setattr(build, "build_stage", refused)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_passes(name: str, output_root: Path) -> None:
    plan = dict(plan_training(load_recipe(name, "tiny")))
    assert list(plan) == ["from", "data", "steps", "memory", "stage"]
    assert "at the peak" in plan["memory"]
    assert not list(output_root.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("sft", "200, 16 rows or replies in each; at most 409,600 tokens"),
        ("grpo", "96, 32 rows or replies in each"),
        ("ppo", "64, 32 rows or replies in each"),
        ("dpo", "not known yet, 16 rows or replies in each"),  # its rows are sampled from SFT first
    ],
)
def test_the_plan_counts_steps(name: str, steps: str) -> None:
    plan = dict(plan_training(load_recipe(name, "tiny")))
    assert plan["steps"].startswith(steps)
    assert plan["from"] == ("base" if name == "sft" else "sft (to be built first)")


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"data.n_train": 3201}, "201, 16 rows or replies in each; at most 411,648 tokens"),
        ({"data.n_train": 3201, "args.dataloader_drop_last": True}, "200, 16"),
        ({"args.packing": True}, "not known yet, 16"),
        ({"args.packing": True, "args.max_steps": 3}, "3, 16"),
    ],
)
def test_every_row_is_in_a_step_that_is_planned(changes: dict, steps: str) -> None:
    assert dict(plan_training(load_recipe("sft", "tiny", changes)))["steps"].startswith(steps)


def test_a_pair_has_the_tokens_of_two_rows(tmp_path: Path) -> None:
    pair = {
        "prompt": [{"role": "user", "content": "Hi!"}],
        "chosen": [{"role": "assistant", "content": "Hello."}],
        "rejected": [{"role": "assistant", "content": "Moo."}],
    }
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(f"{json.dumps(pair)}\n" for _ in range(16)), encoding="utf-8")
    changes = {"data.source": str(file), "args.max_length": 32, "args.max_steps": 1}
    plan = dict(plan_training(load_recipe("dpo", "tiny", changes)))
    assert plan["steps"] == "1, 16 rows or replies in each; at most 1,024 tokens"


def test_the_plan_is_printed(capsys: pytest.CaptureFixture[str], output_root: Path) -> None:
    assert cli.main(["train", "sft", "--dry-run", "args.max_steps=5", "--name", "mine"]) == 0
    printed = capsys.readouterr().out
    assert "steps: 5, 16 rows" in printed
    assert f"stage: {output_root / 'tiny' / 'stages' / 'mine'}" in printed


@pytest.mark.parametrize("key", ["early_stopping=", "reference="])
def test_a_line_of_the_readme_is_planned(key: str) -> None:
    lines = (repository_root() / "README.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("python") and key in line]
    words = shlex.split(line, comments=True)
    assert cli.main([*words[words.index("train") :], "--dry-run"]) == 0


@pytest.mark.parametrize("lora", [{}, {"lora.r": 8, "lora.target_modules": "all-linear"}])
def test_the_plan_counts_a_reference_model(lora: dict, output_root: Path) -> None:
    changes = {"model": "sft", "stage": "second", **lora}
    plan = plan_training(load_recipe("dpo", "tiny", {**changes, "reference": "kto"}))
    assert [heading for heading, _ in plan] == ["from", "reference", "data", "steps", "memory", "stage"]
    assert dict(plan)["reference"] == "kto (to be built first), 8 MB of weights"
    alone, beside = (
        plan_recipe(load_recipe("dpo", "tiny", {**changes, **added})).moments["the update"]["reference"]
        for added in ({}, {"reference": "kto"})
    )
    assert beside > 7e6
    assert alone == (0 if lora else beside)
    assert not list(output_root.rglob("*.safetensors"))


def test_a_teacher_is_as_large_as_it_is(output_root: Path) -> None:
    small = {"lora.r": 8, "lora.target_modules": "all-linear", "quantization": "4bit"}
    whole, quantized = (
        plan_recipe(load_recipe("distill_on_policy", "tiny", changes)).moments["the update"]
        for changes in ({}, small)
    )
    assert quantized["weights"] < whole["weights"]
    assert quantized["reference"] == whole["reference"] == whole["weights"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("train sft args.learning_rat=1", "args.learning_rat does not exist; did you mean 'learning_rate'"),
        ("train sft arg.learning_rate=1", "does not exist"),
        ("train sft args.max_steps=many", "args.max_steps"),
        ("train sft args.lr_scheduler_type=cosin", "cosin"),
        (
            "train dpo data.source=tatsu-lab/alpaca",
            "read as conversations, but this recipe's method learns from",
        ),
        ("train sft data.source=absent.jsonl", "'absent.jsonl' does not exist"),
        ("train sft args.eval_strategy=epoch data.dev=absent.jsonl", "correct data.dev."),
        ("train sft model=./absent", "absent"),
        ("train dpo reference=./absent", "absent"),
        ("train dpo reference=stf", "did you mean 'sft'"),
        ("train orpo reference=sft", "the method 'orpo' has no reference model, but reference is 'sft'"),
        ("train sf", "did you mean 'sft'"),
    ],
)
def test_a_mistake_ends_in_one_sentence(line: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*line.split(), "--dry-run"]) == cli.EXIT_MISTAKE
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
