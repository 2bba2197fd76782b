from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_models import small_qwen3
from transformers import AutoTokenizer

from posttrain_helpers.data import loading as data
from posttrain_helpers.environment import profiles
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.manifest import MANIFEST, is_complete, saved_stages, stage_path
from posttrain_helpers.recipes import Recipe, load_recipe, shipped
from posttrain_helpers.stages import build as stages
from posttrain_helpers.stages import save as stage_saving
from posttrain_helpers.stages.build import build_stage, load_stage, resolve_model
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.stages.planning import plan_training
from posttrain_helpers.stages.save import save_stage
from posttrain_helpers.tinyworld import tasks
from posttrain_helpers.training.trainer import make_trainer, train

# The same small course for this process and for the processes that are killed.
SMALL_COURSE = """
from dataclasses import replace
from posttrain_helpers import recipes
from posttrain_helpers.environment import profiles
from posttrain_helpers.stages import build as stages
from posttrain_helpers.stages import save as stage_saving
from posttrain_helpers.tinyworld import tasks

def turns(question, reply):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}

def build(n_train, seed):
    return [turns(f"question {n}", f"reply {n + seed}") for n in range(n_train)], {"entities": []}

SMALL = {
    "data.n_train": 8,
    "args.per_device_train_batch_size": 4,
    "args.gradient_accumulation_steps": 1,
}

def small_recipe(name, profile=None, overrides=None):
    return recipes.load_recipe(name, profile, {**SMALL, **(overrides or {})})

def install(base):
    profiles.PROFILES["tiny"] = replace(profiles.PROFILES["tiny"], base_model=base)
    tasks.build_sft_data = build
    stages.load_recipe = stage_saving.load_recipe = small_recipe
"""


@pytest.fixture
def base_dir(random_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_model_dir, tmp_path / "base"))


def small_course(base: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Make the "sft" stage a matter of two steps; `["overrides"]` of what is returned changes its recipe."""
    namespace: dict = {"overrides": {}}
    exec(SMALL_COURSE, namespace)
    own = replace(profiles.PROFILES["tiny"], base_model=str(base))
    monkeypatch.setitem(profiles.PROFILES, "tiny", own)
    monkeypatch.setattr(tasks, "build_sft_data", namespace["build"])
    for module in (stages, stage_saving):
        monkeypatch.setattr(
            module,
            "load_recipe",
            lambda name, profile=None: namespace["small_recipe"](name, profile, namespace["overrides"]),
        )
    monkeypatch.setenv("POSTTRAIN_PROFILE", "tiny")
    return namespace


@pytest.fixture
def course(base_dir: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    return small_course(base_dir, monkeypatch)


@pytest.fixture(scope="module")
def trained_once(random_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The "sft" stage of the small course, for tests that need one and do not look at how it is built."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("POSTTRAIN_OUTPUT", str(tmp_path_factory.mktemp("trained_once")))
        small_course(random_model_dir, monkeypatch)
        return load_stage("sft")


@pytest.fixture
def built(course: dict, trained_once: Path) -> Path:
    return Path(shutil.copytree(trained_once, stage_path("sft")))


@pytest.fixture
def recipe(course: dict) -> Recipe:
    return course["small_recipe"]("sft")


def loaded(base: Path | str):
    return load_model_and_tokenizer(base, verbose=False)


def leftovers(target: Path) -> list[str]:
    """Everything beside the stages themselves, except the lock files, which stay."""
    if not target.parent.exists():
        return []
    return [
        path.name for path in target.parent.iterdir() if path.name.startswith(".") and path.suffix != ".lock"
    ]


# --- paths and names ---


def test_path_is_below_output_and_profile(output_root: Path) -> None:
    assert stage_path("sft", "qwen3") == output_root / "qwen3" / "stages" / "sft"


@pytest.mark.parametrize("name", ["base", "../sft", "a/b", "", ".hidden", "a.b"])
def test_names_that_cannot_be_stages(name: str) -> None:
    with pytest.raises(CourseError, match="cannot name a stage"):
        stage_path(name, "tiny")


@pytest.mark.usefixtures("course")
def test_resolving_names(base_dir: Path, built: Path) -> None:
    assert resolve_model("base") == str(base_dir)
    assert resolve_model("sft") == str(built)
    assert resolve_model("Qwen/Qwen3-0.6B-Base") == "Qwen/Qwen3-0.6B-Base"
    assert resolve_model("gpt2") == "gpt2"
    assert resolve_model(str(base_dir)) == str(base_dir)
    assert load_stage("base") == base_dir


@pytest.mark.usefixtures("course")
def test_adapters_are_built_beside_weights_of_32_and_of_4_bits(base_dir: Path) -> None:
    pytest.importorskip("bitsandbytes")
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    small_qwen3(tokenizer, hidden_size=64, max_position_embeddings=256).save_pretrained(base_dir)
    for name, quantization in {"lora": None, "qlora": "4bit"}.items():
        settings = json.loads((load_stage(name) / MANIFEST).read_text(encoding="utf-8"))["settings"]
        assert settings["quantization"] == quantization
        model, _ = load_model_and_tokenizer(name, quantization=quantization, verbose=False)
        assert set(model.peft_config["default"].target_modules) == {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.usefixtures("course")
def test_qlora_without_bitsandbytes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain_helpers.models.loading.is_installed", lambda package: False)
    with pytest.raises(CourseError, match="needs bitsandbytes; run `pip install bitsandbytes`"):
        load_stage("qlora")
    assert not stage_path("qlora").exists()


def test_building_a_recipe_of_ones_own(
    course: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "method: sft\nparent: base\ndata: {source: tinyworld/sft, n_train: 8}\n"
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe(tmp_path / "mine.yaml", "tiny")
    assert build_stage(recipe) == stage_path("mine")
    assert "stage 'mine' from 'base' (asked for) … done in" in capsys.readouterr().out
    assert load_stage("mine") == stage_path("mine")


@pytest.mark.usefixtures("course")
def test_unknown_stage_names_the_closest() -> None:
    with pytest.raises(CourseError, match=r"'sfft' does not exist; did you mean 'sft'\?"):
        load_stage("sfft")


# --- building and saving ---


def test_a_missing_stage_is_built_and_says_so_in_one_line(
    course: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    target = load_stage("sft")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("building stage 'sft' from 'base' (it does not exist yet) … done in ")
    assert is_complete(target)
    assert saved_stages() == ["sft"]
    assert leftovers(target) == []
    assert load_stage("sft") == target
    assert capsys.readouterr().out == ""


def test_manifest_tells_where_the_stage_comes_from(built: Path, recipe: Recipe) -> None:
    manifest = json.loads((built / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["recipe_hash"] == recipe.hash
    assert manifest["settings"] == recipe.content()
    assert manifest["model"] == "base"
    assert manifest["seed"] == 0
    assert manifest["metrics"]["train_loss"] > 0
    assert {"torch", "transformers", "trl"} <= set(manifest["versions"])
    assert manifest["weights"]["model.safetensors"]["bytes"] == (built / "model.safetensors").stat().st_size


def test_a_stage_holds_no_pickle(built: Path) -> None:
    assert not [path.name for path in built.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_a_stage_loads_by_name_and_was_trained(built: Path, base_dir: Path) -> None:
    import torch

    model, _ = loaded("sft")
    base, _ = loaded(base_dir)
    assert not torch.equal(model.get_input_embeddings().weight, base.get_input_embeddings().weight)


def test_building_leaves_the_random_state_alone(course: dict) -> None:
    import random

    import torch

    random.seed(5)
    torch.manual_seed(5)
    load_stage("sft")
    assert random.random() == random.Random(5).random()
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))


def test_building_twice_gives_the_same_weights(built: Path) -> None:
    def identity() -> str:
        return json.loads((built / MANIFEST).read_text(encoding="utf-8"))["identity"]

    first = identity()
    load_stage("sft", rebuild=True)
    assert identity() == first


def test_a_model_can_be_saved_under_a_name_of_its_own(course: dict, base_dir: Path, recipe: Recipe) -> None:
    model, tokenizer = loaded(base_dir)
    path = save_stage(model.train(), "my_experiment", recipe, metrics={"loss": 1.5}, tokenizer=tokenizer)
    assert not model.training  # so that what is generated next is what the stage generates
    assert load_stage("my_experiment") == path
    assert resolve_model("my_experiment") == str(path)
    assert json.loads((path / MANIFEST).read_text(encoding="utf-8"))["metrics"] == {"loss": 1.5}
    with pytest.raises(CourseError, match="needs a tokenizer"):
        save_stage(model, "other", recipe)


def test_metrics_that_json_cannot_hold_are_left_out(course: dict, base_dir: Path, recipe: Recipe) -> None:
    model, tokenizer = loaded(base_dir)
    path = save_stage(
        model, "x", recipe, metrics={"a": 1, "b": float("nan"), "c": "text"}, tokenizer=tokenizer
    )
    assert json.loads((path / MANIFEST).read_text(encoding="utf-8"))["metrics"] == {"a": 1}


def test_sampling_settings_do_not_lose_a_training(course: dict, base_dir: Path, recipe: Recipe) -> None:
    model, tokenizer = loaded(base_dir)
    model.generation_config.temperature = 0.3
    assert is_complete(save_stage(model, "x", recipe, tokenizer=tokenizer))


def test_an_adapter_stage_finds_its_parent_by_name(course: dict, base_dir: Path, output_root: Path) -> None:
    course["overrides"] = {"lora.r": 2, "lora.target_modules": "all-linear"}
    target = load_stage("sft")
    assert (target / "adapter_model.safetensors").is_file()
    assert not (target / "model.safetensors").exists()
    # The path that PEFT wrote is of another machine.
    settings = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = "/somewhere/else"
    (target / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    model, _ = loaded("sft")
    assert type(model).__name__.startswith("Peft")


def test_every_weight_is_trained_on_an_adapter_as_parent(
    course: dict, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    course["overrides"] = {"lora.r": 2, "lora.target_modules": "all-linear"}
    load_stage("sft")
    build_stage(replace(recipe, stage="full", model="sft"))
    assert (stage_path("full") / "model.safetensors").is_file()
    before, after = (dict(loaded(name)[0].named_parameters()) for name in ("base", "full"))
    assert not any(torch.equal(weight, after[name]) for name, weight in before.items() if weight.dim() > 1)


# --- stages with a name of their own, reward models ---

SFT = """
method: sft
parent: base
args: {max_steps: 2, assistant_only_loss: true, learning_rate: 1e-2, per_device_train_batch_size: 4}
data: {source: tinyworld/sft, n_train: 8}
"""
REWARD = """
method: reward
stage: reward_model
parent: sft
args: {max_steps: 2, learning_rate: 1e-2, per_device_train_batch_size: 4}
data: {source: tinyworld/sft, n_train: 8}
"""


@pytest.fixture
def preference_course(
    base_dir: Path, output_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A course of recipe files: "sft", and "reward", which makes the stage "reward_model" from it."""
    from datasets import Dataset

    namespace: dict = {}
    exec(SMALL_COURSE, namespace)
    own = replace(profiles.PROFILES["tiny"], base_model=str(base_dir))
    monkeypatch.setitem(profiles.PROFILES, "tiny", own)
    monkeypatch.setenv("POSTTRAIN_PROFILE", "tiny")
    monkeypatch.setattr(shipped, "DIRECTORY", tmp_path / "recipes")
    (tmp_path / "recipes").mkdir()
    for name, text in (("sft", SFT), ("reward", REWARD)):
        (tmp_path / "recipes" / f"{name}.yaml").write_text(text, encoding="utf-8")

    def load_rows(recipe: Recipe, verbose: bool = True, tokenizer: Any = None) -> tuple:
        rows, _ = namespace["build"](8, recipe.seed)
        if recipe.method != "sft":
            rows = [
                {
                    "prompt": row["messages"][:1],
                    "chosen": row["messages"][1:],
                    "rejected": [{"role": "assistant", "content": "moo."}],
                }
                for row in rows
            ]
        return Dataset.from_list(rows), None, []

    monkeypatch.setattr(data, "load_rows", load_rows)
    return tmp_path / "recipes"


def test_a_stage_is_found_by_its_own_name(
    preference_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = load_stage("reward_model")
    printed = capsys.readouterr().out
    assert printed.index("stage 'sft' from 'base'") < printed.index("stage 'reward_model' from 'sft'")
    assert target == stage_path("reward_model")
    assert saved_stages() == ["reward_model", "sft"]
    assert resolve_model("reward_model") == str(target)
    manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    assert (manifest["stage"], manifest["recipe"], manifest["model"]) == ("reward_model", "reward", "sft")
    assert load_stage("reward_model") == target
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("call", [load_stage, resolve_model])
def test_the_name_of_a_recipe_is_not_that_of_its_stage(
    preference_course: Path, call: Callable[[str], object]
) -> None:
    with pytest.raises(
        CourseError, match=r"'reward' does not exist; the recipe 'reward' makes the stage 'reward_model'"
    ):
        call("reward")


def test_a_recipe_may_start_from_a_stage_with_its_own_name(preference_course: Path) -> None:
    text = REWARD.replace("parent: sft", "parent: reward_model").replace("reward_model\nparent", "x\nparent")
    (preference_course / "second.yaml").write_text(text, encoding="utf-8")
    load_stage("x")
    assert saved_stages() == ["reward_model", "sft", "x"]
    manifest = json.loads((stage_path("x") / MANIFEST).read_text(encoding="utf-8"))
    parent = json.loads((stage_path("reward_model") / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["parent_identity"] == parent["identity"]


def test_the_command_line_saves_a_recipe_under_its_stage(
    preference_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from posttrain_helpers import cli

    assert cli.main(["train", "reward", "--profile", "tiny"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"stage: {stage_path('reward_model')}"
    assert is_complete(stage_path("reward_model"))


def test_a_reward_model_scores_the_same_after_saving(preference_course: Path) -> None:
    from posttrain_helpers.rewards.reward_model import score_replies

    recipe = load_recipe("reward", "tiny", {"model": "base"})
    model, tokenizer = load_model_and_tokenizer("base", head="reward", verbose=False)
    trainer = make_trainer(recipe, model, tokenizer, data.load_data(recipe)[0])
    train(trainer)
    save_stage(trainer, "scorer", recipe)
    prompts = [[{"role": "user", "content": f"question {number}"}] for number in range(3)]
    replies = ["reply 1", "moo.", "A cow says moo."]
    before = score_replies(model, tokenizer, prompts, replies)
    loaded_model, loaded_tokenizer = loaded("scorer")
    assert (score_replies(loaded_model, loaded_tokenizer, prompts, replies) == before).all()
    assert len(set(before)) == 3
    save_stage(loaded_model, "scorer_again", recipe, tokenizer=loaded_tokenizer)
    again, _ = loaded("scorer_again")
    assert (score_replies(again, tokenizer, prompts, replies) == before).all()


def test_building_a_reward_model_twice_gives_the_same_weights(preference_course: Path) -> None:
    import torch

    def identity() -> str:
        return json.loads((load_stage("reward_model") / MANIFEST).read_text(encoding="utf-8"))["identity"]

    first = identity()
    torch.rand(1)  # the fresh head is drawn by the recipe's seed, whatever was drawn before
    load_stage("reward_model", rebuild=True)
    assert identity() == first


def test_the_adapter_of_a_reward_model_is_a_stage(preference_course: Path) -> None:
    path = preference_course / "reward.yaml"
    path.write_text(REWARD + "lora: {r: 2, target_modules: all-linear}\n", encoding="utf-8")
    target = load_stage("reward_model")
    assert (target / "adapter_model.safetensors").is_file()
    model, _ = loaded("reward_model")
    assert type(model).__name__ == "PeftModelForSequenceClassification"


def test_a_language_method_refuses_a_reward_model_as_parent(preference_course: Path) -> None:
    text = SFT.replace("parent: base", "parent: reward_model")
    (preference_course / "other.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=r"is a reward model: it has a score head and cannot write text"):
        load_stage("other")
    assert not stage_path("other").exists()


def test_the_reference_adapter_of_dpo_is_not_kept(preference_course: Path) -> None:
    text = REWARD.replace("method: reward\nstage: reward_model", "method: dpo")
    (preference_course / "dpo.yaml").write_text(text + "lora: {r: 2}\n", encoding="utf-8")
    target = load_stage("dpo")
    assert (target / "adapter_model.safetensors").is_file()
    assert not (target / "ref").exists()
    loaded("dpo")


def test_a_reference_stage_is_built_first_and_noted(
    preference_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = SFT.replace("seed: ", "seed: 1") if "seed: " in SFT else SFT + "seed: 1\n"
    dpo = REWARD.replace("method: reward\nstage: reward_model", "method: dpo")
    (preference_course / "other.yaml").write_text(other, encoding="utf-8")
    (preference_course / "first.yaml").write_text(dpo, encoding="utf-8")
    second = dpo.replace("parent: sft", "parent: first") + "reference: other\n"
    (preference_course / "second.yaml").write_text(second, encoding="utf-8")
    load_stage("second")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("'")[1] for line in printed if "… done in" in line] == [
        "sft",
        "first",
        "other",
        "second",
    ]
    assert manifest_of("second")["reward_identities"] == {"other": manifest_of("other")["identity"]}
    assert manifest_of("second")["settings"]["reference"] == "other"
    load_stage("second")
    assert capsys.readouterr().out == ""
    (preference_course / "other.yaml").write_text(other.replace("seed: 1", "seed: 2"), encoding="utf-8")
    load_stage("second")
    assert "stage 'second' from 'first' (the reference 'other' has changed)" in capsys.readouterr().out


def test_a_stage_without_its_reference_model_is_not_saved(course: dict, recipe: Recipe) -> None:
    trainer = trained(recipe)
    with pytest.raises(
        CourseError, match=r"'sft' names the reference 'polite', but the trainer was made wit"
    ):
        save_stage(trainer, "mine", replace(recipe, reference="polite"))
    assert saved_stages() == []


# --- stages that learn from a reward model ---

POLICY = """
method: rloo
parent: sft
rewards: [reward_model, format]
args: {max_steps: 1, per_device_train_batch_size: 4, num_generations: 2, max_completion_length: 4}
data: {source: tinyworld/prompts, n_prompts: 4}
"""


@pytest.fixture
def policy_course(preference_course: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Add "policy" to the course, which learns from the stage "reward_model" and a verifier."""
    from datasets import Dataset

    from posttrain_helpers.rewards import verifiers

    def length(completions: list, **kwargs: object) -> list[float]:
        return [float(len(completion[0]["content"])) for completion in completions]

    monkeypatch.setitem(verifiers.VERIFIERS, "format", length)
    (preference_course / "policy.yaml").write_text(POLICY, encoding="utf-8")
    original = data.load_rows

    def load_rows(recipe: Recipe, verbose: bool = True, tokenizer: Any = None) -> tuple:
        rows, dev, items = original(recipe, verbose)
        if recipe.method == "rloo":
            rows = Dataset.from_list([{"prompt": row["prompt"]} for row in rows])
        return rows, dev, items

    monkeypatch.setattr(data, "load_rows", load_rows)
    return preference_course


def manifest_of(name: str) -> dict:
    return json.loads((stage_path(name) / MANIFEST).read_text(encoding="utf-8"))


def test_a_model_that_chooses_the_rows_is_one_that_the_recipe_learns_from(recipe: Recipe) -> None:
    for scorer, others in (("gold", []), ("reward_model", ["reward_model"])):
        chosen = replace(recipe, data={**recipe.data, "scorer": scorer})
        assert stage_saving.other_models(chosen) == others


def test_the_reward_model_is_built_first_and_noted(
    policy_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_stage("policy")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("'")[1] for line in printed] == ["sft", "reward_model", "policy"]
    assert all("… done in" in line for line in printed)
    identities = manifest_of("policy")["reward_identities"]
    assert identities == {"reward_model": manifest_of("reward_model")["identity"]}
    assert manifest_of("policy")["settings"]["rewards"] == ["reward_model", "format"]
    assert "reward_identities" not in manifest_of("sft")
    load_stage("policy")
    assert capsys.readouterr().out == ""


def test_a_recipe_of_ones_own_builds_the_reward_model_too(
    policy_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_stage(load_recipe("policy"))
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("'")[1] for line in printed] == ["sft", "reward_model", "policy"]
    assert all("… done in" in line for line in printed)


def test_another_reward_model_rebuilds_the_policy(
    policy_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_stage("policy")
    capsys.readouterr()
    text = REWARD.replace("learning_rate: 1e-2", "learning_rate: 2e-2")
    (policy_course / "reward.yaml").write_text(text, encoding="utf-8")
    load_stage("policy")
    printed = capsys.readouterr().out
    assert "stage 'reward_model' from 'sft' (its recipe has changed)" in printed
    assert "stage 'policy' from 'sft' (the reward model 'reward_model' has changed)" in printed
    identities = manifest_of("policy")["reward_identities"]
    assert identities == {"reward_model": manifest_of("reward_model")["identity"]}
    load_stage("policy")
    assert capsys.readouterr().out == ""


def test_a_reward_model_in_a_directory_is_noted_by_its_weights(
    policy_course: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = Path(shutil.copytree(load_stage("reward_model"), tmp_path / "judge"))
    text = POLICY.replace("reward_model, format", json.dumps(str(judge)))
    (policy_course / "policy.yaml").write_text(text, encoding="utf-8")
    load_stage("policy")
    noted = manifest_of("policy")["reward_identities"]
    assert noted == {str(judge): manifest_of("reward_model")["identity"]}
    capsys.readouterr()
    (judge / MANIFEST).unlink()
    model, _ = loaded(judge)
    model.score.weight.data.add_(1.0)
    model.save_pretrained(judge)
    load_stage("policy")
    assert "has changed)" in capsys.readouterr().out


# --- out of date ---


def rebuilt(capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    load_stage("sft")
    return capsys.readouterr().out


def test_a_changed_recipe_rebuilds(built: Path, course: dict, capsys: pytest.CaptureFixture[str]) -> None:
    course["overrides"] = {"args.learning_rate": 1e-3}
    assert "(its recipe has changed)" in rebuilt(capsys)
    assert rebuilt(capsys) == ""


def test_a_changed_parent_rebuilds(built: Path, base_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = loaded(base_dir)
    model.get_input_embeddings().weight.data.mul_(1.1)
    model.save_pretrained(base_dir)
    assert "('base' has changed)" in rebuilt(capsys)
    assert rebuilt(capsys) == ""


def test_another_seed_is_another_stage(built: Path, course: dict, capsys: pytest.CaptureFixture[str]) -> None:
    course["overrides"] = {"seed": 1}
    assert "its recipe has changed" in rebuilt(capsys)


def test_parents_are_built_first(
    course: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = stages.load_recipe

    def with_child(name: str, profile: object = None) -> Recipe:
        if name != "child":
            return small(name, profile)
        return replace(small("sft", profile), name="child", stage="child", parent="sft", model="sft")

    for module in (stages, stage_saving):
        monkeypatch.setattr(module, "load_recipe", with_child)
        monkeypatch.setattr(module, "stage_recipes", lambda: {"child": "child", "sft": "sft"})
    target = load_stage("child")
    printed = capsys.readouterr().out
    assert printed.index("stage 'sft' from 'base'") < printed.index("stage 'child' from 'sft'")
    assert saved_stages() == ["child", "sft"]
    course["overrides"] = {"args.learning_rate": 1e-3}
    load_stage("child")
    assert is_complete(target)
    assert capsys.readouterr().out.count("building stage") == 2


# --- what the reader made is never replaced ---


def trained(recipe: Recipe, seed: int = 0, **arguments: object):
    """Train as a notebook does, with arguments changed by hand."""
    from transformers import set_seed

    set_seed(seed)
    model, tokenizer = loaded(resolve_model(recipe.model))
    changed = replace(recipe, args={**recipe.args, **arguments})
    trainer = make_trainer(changed, model, tokenizer, data.load_data(recipe, verbose=False)[0], verbose=False)
    train(trainer)
    return trainer


def identity_of(name: str) -> str:
    return json.loads((stage_path(name) / MANIFEST).read_text(encoding="utf-8"))["identity"]


def maker_of(name: str) -> str:
    return json.loads((stage_path(name) / MANIFEST).read_text(encoding="utf-8"))["made_by"]


def test_the_manifest_says_who_made_a_stage(built: Path, recipe: Recipe) -> None:
    assert maker_of("sft") == "recipe"
    save_stage(trained(recipe), "sft", recipe)
    assert maker_of("sft") == "recipe"
    save_stage(trained(recipe), "other_name", recipe)
    assert maker_of("other_name") == "reader"
    for changed in ({"learning_rate": 0.5}, {"max_steps": 1}):
        save_stage(trained(recipe, **changed), "sft", recipe)
        assert maker_of("sft") == "reader"
    early = trained(recipe)
    early.control.should_training_stop, early.state.max_steps = True, early.state.max_steps + 1
    save_stage(early, "sft", recipe)
    assert maker_of("sft") == "reader"  # a callback ended the training before its last step
    model, tokenizer = loaded("sft")
    save_stage(model, "only_a_model", recipe, tokenizer=tokenizer)
    assert maker_of("only_a_model") == "reader"


@pytest.mark.parametrize(
    "changed",
    [{"weight_decay": 0.1}, {"num_train_epochs": 2}],
    ids=["set by the recipe", "left to its default"],
)
def test_any_argument_that_was_changed_by_hand_makes_a_stage_the_readers(
    preference_course: Path, changed: dict[str, float]
) -> None:
    text = SFT.replace("max_steps: 2", "weight_decay: 0.0")
    (preference_course / "sft.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe("sft", "tiny")
    for arguments, maker in (({}, "recipe"), (changed, "reader")):
        save_stage(trained(recipe, **arguments), "sft", recipe)
        assert maker_of("sft") == maker


def test_a_trainer_can_go_on_after_its_stage_is_saved(course: dict, recipe: Recipe) -> None:
    trainer = trained(recipe)
    rows = trainer.train_dataset
    before = trainer.evaluate(rows)["eval_loss"]
    save_stage(trainer, "sft", recipe)
    assert trainer.evaluate(rows)["eval_loss"] == before


def test_a_trainer_can_train_after_its_recipe_is_planned(course: dict, recipe: Recipe) -> None:
    model, tokenizer = loaded("base")
    rows = data.load_data(recipe, verbose=False)[0]
    trainer = make_trainer(recipe, model, tokenizer, rows, verbose=False)
    plan_training(recipe)
    assert train(trainer)["train_loss"] > 0


@pytest.mark.parametrize("variable", ["POSTTRAIN_MODEL", "POSTTRAIN_OVERRIDES"])
def test_a_stage_made_with_a_variable_is_the_readers(
    preference_course: Path, base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    other = shutil.copytree(base_dir, tmp_path / "other")
    value = {"POSTTRAIN_MODEL": str(other), "POSTTRAIN_OVERRIDES": "sft.args.learning_rate=2e-2"}[variable]
    monkeypatch.setenv(variable, value)
    load_stage("reward_model")
    # The recipe of the reward model is the course's, but what it started from is not.
    assert (maker_of("sft"), maker_of("reward_model")) == ("reader", "reader")
    if variable == "POSTTRAIN_MODEL":
        return  # the same weights lie in both directories, so nothing is out of date
    mine = identity_of("sft"), identity_of("reward_model")
    monkeypatch.delenv(variable)
    load_stage("reward_model")
    assert (identity_of("sft-kept-1"), identity_of("reward_model-kept-1")) == mine
    assert (maker_of("sft"), maker_of("reward_model")) == ("recipe", "recipe")


def test_a_rebuild_keeps_what_the_reader_made(
    built: Path, course: dict, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = loaded("sft")
    model.get_input_embeddings().weight.data.mul_(1.1)
    save_stage(model, "sft", recipe, tokenizer=tokenizer)
    mine = identity_of("sft")
    course["overrides"] = {"args.learning_rate": 1e-3}
    (line,) = rebuilt(capsys).splitlines()
    assert re.search(
        r"recipe has changed\) … done in .*'sft' was your own and is now 'sft-kept-1'.*delete", line
    )
    assert identity_of("sft-kept-1") == mine != identity_of("sft")
    assert manifest_of("sft-kept-1")["stage"] == "sft-kept-1"
    assert load_stage("sft-kept-1") == stage_path("sft-kept-1")
    loaded("sft-kept-1")
    # What the recipe made goes when the recipe changes.
    course["overrides"] = {"args.learning_rate": 2e-3}
    assert "kept" not in rebuilt(capsys)
    assert saved_stages() == ["sft", "sft-kept-1"]


def test_a_changed_parent_keeps_what_the_reader_made(
    built: Path, base_dir: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    save_stage(trained(recipe, learning_rate=0.5), "sft", recipe)
    mine = identity_of("sft")
    model, _ = loaded(base_dir)
    model.get_input_embeddings().weight.data.mul_(1.1)
    model.save_pretrained(base_dir)
    assert "is now 'sft-kept-1'" in rebuilt(capsys)
    assert identity_of("sft-kept-1") == mine


def test_a_rebuild_that_was_asked_for_keeps_it_too(built: Path, recipe: Recipe) -> None:
    save_stage(trained(recipe, learning_rate=0.5), "sft", recipe)
    mine = identity_of("sft")
    load_stage("sft", rebuild=True)
    assert identity_of("sft-kept-1") == mine


def test_saving_over_ones_own_stage_keeps_the_former(
    course: dict, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    identities = []
    for rate in (0.1, 0.2, 0.3):
        save_stage(trained(recipe, learning_rate=rate), "mine", recipe)
        identities.append(identity_of("mine"))
    assert [identity_of(name) for name in ("mine-kept-1", "mine-kept-2", "mine")] == identities
    printed = capsys.readouterr().out.splitlines()
    assert [re.search(r"is now '(\S+)'", line).group(1) for line in printed] == ["mine-kept-1", "mine-kept-2"]
    # The same weights again need no second copy, and neither do those that are kept already.
    save_stage(trained(recipe, learning_rate=0.3), "mine", recipe)
    save_stage(trained(recipe, learning_rate=0.1), "mine", recipe)
    save_stage(trained(recipe, learning_rate=0.2), "mine", recipe)
    assert saved_stages() == ["mine", "mine-kept-1", "mine-kept-2", "mine-kept-3"]
    assert identity_of("mine-kept-3") == identities[2]


def test_half_a_copy_is_no_reason_to_throw_the_stage_away(
    course: dict, base_dir: Path, recipe: Recipe
) -> None:
    models = [loaded(base_dir)[0] for _ in range(2)]
    models[1].get_input_embeddings().weight.data.mul_(1.1)
    tokenizer = loaded(base_dir)[1]
    for number in (0, 1, 0):
        save_stage(models[number], "mine", recipe, tokenizer=tokenizer)
    former = identity_of("mine")
    assert identity_of("mine-kept-1") == former
    (stage_path("mine-kept-1") / "model.safetensors").write_bytes(b"half")
    save_stage(models[1], "mine", recipe, tokenizer=tokenizer)
    assert saved_stages() == ["mine", "mine-kept-2", "mine-kept-3"]
    assert identity_of("mine-kept-3") == former


def test_an_empty_directory_is_not_kept(course: dict, base_dir: Path, recipe: Recipe) -> None:
    stage_path("mine").mkdir(parents=True)
    model, tokenizer = loaded(base_dir)
    assert is_complete(save_stage(model, "mine", recipe, tokenizer=tokenizer))
    assert [path.name for path in stage_path("mine").parent.glob("mine*")] == ["mine"]


def test_a_model_that_was_only_copied_there_is_kept(
    course: dict, base_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(base_dir, stage_path("sft"))
    assert "is now 'sft-kept-1'" in rebuilt(capsys)
    assert (stage_path("sft-kept-1") / "model.safetensors").is_file()


def test_a_manifest_that_does_not_say_who_made_it_is_the_readers(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((built / MANIFEST).read_text(encoding="utf-8"))
    del manifest["made_by"]
    manifest |= {"parent_identity": "another", "identity": "that of other weights"}
    (built / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert "sft-kept-1" in rebuilt(capsys)


def test_an_adapter_finds_its_parent_where_it_was_kept(course: dict, recipe: Recipe) -> None:
    import torch

    def logits() -> torch.Tensor:
        model, _ = loaded("my_adapter")
        with torch.inference_mode():
            return model(input_ids=torch.tensor([[5, 6, 7]])).logits

    save_stage(trained(recipe, learning_rate=0.5), "sft", recipe)
    model, tokenizer = load_model_and_tokenizer("sft", lora={"r": 2}, verbose=False)
    save_stage(model, "my_adapter", replace(recipe, model="sft"), tokenizer=tokenizer)
    before = logits()
    course["overrides"] = {"args.learning_rate": 1e-3}
    load_stage("sft")
    assert torch.equal(logits(), before)
    shutil.rmtree(stage_path("sft-kept-1"))
    with pytest.raises(CourseError, match="was trained on another 'sft' than there is now"):
        loaded("my_adapter")


# --- train: a stage of its own ---


def run_train(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    from posttrain_helpers import cli

    capsys.readouterr()
    code = cli.main(["train", *words, "--profile", "tiny"])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_an_override_makes_a_stage_of_its_own(
    preference_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_stage("sft")
    course_stage = identity_of("sft")
    code, out, _ = run_train(capsys, "sft", "args.learning_rate=2e-2")
    name = f"sft-{load_recipe('sft', 'tiny', ['args.learning_rate=2e-2']).hash[:6]}"
    assert code == 0
    assert out.splitlines()[-2:] == [
        f"stage: {stage_path(name)}",
        f"compare: python -m posttrain_helpers evaluate {name} sft --profile tiny",
    ]
    assert maker_of(name) == "reader"
    load_stage("sft")
    assert saved_stages() == ["sft", name]
    assert identity_of("sft") == course_stage != identity_of(name)


def test_the_variables_make_a_stage_of_its_own_too(
    preference_course: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTTRAIN_OVERRIDES", "args.learning_rate=2e-2")
    assert run_train(capsys, "sft")[0] == 0
    (name,) = saved_stages()
    assert re.fullmatch(r"sft-[0-9a-f]{6}", name)


def test_a_name_can_be_chosen(preference_course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_train(capsys, "sft", "--name", "fast", "args.learning_rate=2e-2")[0] == 0
    assert run_train(capsys, "sft", "stage=faster", "args.learning_rate=3e-2")[0] == 0
    assert run_train(capsys, "sft", "--name", "sft")[0] == 0
    assert saved_stages() == ["fast", "faster", "sft"]
    for name in ("sft", "reward_model"):
        code, _, error = run_train(capsys, "sft", "--name", name, "args.learning_rate=2e-2")
        assert code == 2
        assert f"{name!r} is the name of a stage of the course" in error


def test_a_recipe_file_of_ones_own_is_never_the_courses(
    preference_course: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sft.yaml").write_text(SFT.replace("1e-2", "2e-2"), encoding="utf-8")
    (own / "mine.yaml").write_text(SFT.replace("1e-2", "2e-2"), encoding="utf-8")
    for name in ("sft", "mine"):
        assert run_train(capsys, str(own / f"{name}.yaml"))[0] == 0
    mine, copy = saved_stages()
    assert mine == "mine"
    assert re.fullmatch(r"sft-[0-9a-f]{6}", copy)


def test_a_stage_that_is_there_is_not_trained_again(
    preference_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("sft",), ("sft", "args.learning_rate=2e-2"), ("sft", "--name", "mine")):
        assert "done in" in run_train(capsys, *words)[1]
        code, out, _ = run_train(capsys, *words)
        assert code == 0
        assert "is already there" in out
        assert "done in" not in out
        assert "done in" in run_train(capsys, *words, "--rebuild")[1]
    assert len(saved_stages()) == 3


def test_another_content_under_a_name_of_ones_own_stops(
    preference_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_train(capsys, "sft", "--name", "mine", "args.learning_rate=2e-2")
    former = identity_of("mine")
    code, _, error = run_train(capsys, "sft", "--name", "mine", "args.learning_rate=3e-2")
    assert code == 2
    assert re.search(r"'mine' already .* --name, or .* --rebuild, which keeps .* 'mine-kept-1'", error)
    assert identity_of("mine") == former
    code, out, _ = run_train(capsys, "sft", "--name", "mine", "args.learning_rate=3e-2", "--rebuild")
    assert code == 0
    assert "is now 'mine-kept-1'" in out
    assert identity_of("mine-kept-1") == former


@pytest.mark.parametrize(
    ("overrides", "name", "chain"),
    [
        (
            "distill_offline.teacher=distill_offline",
            "distill_offline",
            "distill_offline needs distill_offline",
        ),
        (
            "distill_offline.teacher=distill_on_policy distill_on_policy.teacher=distill_offline",
            "distill_on_policy",
            "distill_on_policy needs distill_offline needs distill_on_policy",
        ),
        ("ppo.rewards=[ppo]", "ppo", "ppo needs ppo"),
    ],
)
def test_a_stage_that_is_needed_to_make_itself(
    output_root: Path, monkeypatch: pytest.MonkeyPatch, overrides: str, name: str, chain: str
) -> None:
    monkeypatch.setenv("POSTTRAIN_OVERRIDES", overrides)
    monkeypatch.setattr(stages, "build_stage", lambda recipe, reason: None)  # of the parents, which are fine
    with pytest.raises(CourseError, match=f"is needed to make itself: {chain}; correct the teacher"):
        load_stage(name, "tiny")
    monkeypatch.setenv("POSTTRAIN_OVERRIDES", "")
    load_stage(name, "tiny")  # what was refused is forgotten


def test_a_parent_in_the_home_directory_is_known_by_its_weights(
    course: dict, base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    course["overrides"] = {"model": f"~/{base_dir.name}"}
    load_stage("sft")
    assert stages._out_of_date(stage_path("sft"), stages.load_recipe("sft"), f"~/{base_dir.name}", {}) == ""
    _flip_last_byte(base_dir / "model.safetensors")
    reason = stages._out_of_date(stage_path("sft"), stages.load_recipe("sft"), f"~/{base_dir.name}", {})
    assert reason == f"'~/{base_dir.name}' has changed"


# --- damaged ---


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda d: (d / "model.safetensors").write_bytes(b"x" * 10),
            "has 10 bytes, but [0-9,]+ were written",
        ),
        (lambda d: _flip_last_byte(d / "model.safetensors"), "SHA-256 differs"),
        (lambda d: (d / "model.safetensors").unlink(), "lacks its weights file model.safetensors"),
        (lambda d: (d / MANIFEST).write_text("{", encoding="utf-8"), "manifest.json is damaged"),
        (lambda d: (d / MANIFEST).write_text("{}", encoding="utf-8"), "manifest.json lacks identity"),
        (lambda d: (d / MANIFEST).write_text("[" * 100_000, encoding="utf-8"), "manifest.json is damaged"),
        (lambda d: (d / MANIFEST).write_text("[]", encoding="utf-8"), "manifest.json is damaged"),
        (lambda d: _edit_manifest(d, weights=[]), "manifest.json is damaged: weights"),
        (lambda d: _edit_manifest(d, weights=None), "manifest.json is damaged: weights"),
        (lambda d: _edit_manifest(d, weights={}), "manifest.json is damaged: weights"),
        (lambda d: _edit_manifest(d, weights={"a": {}}), "manifest.json is damaged: weights"),
        (lambda d: _edit_manifest(d, weights={"a": {"bytes": 5}}), "manifest.json is damaged: weights"),
        (lambda d: _edit_manifest(d, weights={"a": 5}), "manifest.json is damaged: weights"),
        (lambda d: _edit_manifest(d, model=None), "manifest.json is damaged: model"),
        (lambda d: _edit_manifest(d, recipe_hash=[1]), "manifest.json is damaged: recipe_hash"),
    ],
)
def test_a_damaged_stage_is_refused_and_can_be_rebuilt(
    built: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(built)
    with pytest.raises(CourseError, match=sentence) as caught:
        load_stage("sft")
    assert "delete" in str(caught.value)
    assert "rebuild=True" in str(caught.value)
    load_stage("sft", rebuild=True)
    assert load_stage("sft") == built


def _edit_manifest(directory: Path, **changes: object) -> None:
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8")) | changes
    (directory / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_complete_means_manifest_and_sizes(built: Path) -> None:
    assert is_complete(built)
    (built / "model.safetensors").write_bytes(b"")
    assert not is_complete(built)
    assert not is_complete(built / "nowhere")
    assert saved_stages() == []


def test_without_a_manifest_a_stage_is_built_again(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (built / MANIFEST).unlink()
    assert not is_complete(built)
    assert "(it is incomplete)" in rebuilt(capsys)


def test_without_a_manifest_nothing_that_has_no_recipe_loads(course: dict, base_dir: Path) -> None:
    shutil.copytree(base_dir, stage_path("copied"))
    for load in (load_stage, resolve_model, loaded):
        with pytest.raises(CourseError, match=r"no manifest\.json, so it was not written to the end"):
            load("copied")


# --- a full disk, a killed process ---


def full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["model", "tokenizer", "manifest"])
@pytest.mark.parametrize("older", [False, True])
def test_a_full_disk_leaves_what_was_there_before(
    course: dict, base_dir: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, where: str, older: bool
) -> None:
    model, tokenizer = loaded(base_dir)
    target = stage_path("mine")
    if older:
        save_stage(model, "mine", recipe, tokenizer=tokenizer)
        before = (target / MANIFEST).read_bytes()
    if where == "model":
        model.save_pretrained = full_disk
    elif where == "tokenizer":
        tokenizer.save_pretrained = full_disk
    else:
        monkeypatch.setattr(stage_saving, "write_json_atomic", full_disk)
    with pytest.raises(
        CourseError, match=r"could not be written .*No space left.* GB are free.*nothing of it was kept"
    ):
        save_stage(model, "mine", recipe, tokenizer=tokenizer)
    assert leftovers(target) == []
    assert target.exists() == older
    if older:
        assert (target / MANIFEST).read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_disk_that_refuses_the_bytes(course: dict, base_dir: Path, recipe: Recipe) -> None:
    """The weights are written by safetensors, whose own error is no OSError."""
    import resource
    import signal

    model, tokenizer = loaded(base_dir)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(CourseError, match=r"could not be written.*nothing of it was kept"):
            save_stage(model, "mine", recipe, tokenizer=tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not stage_path("mine").exists()
    assert leftovers(stage_path("mine")) == []


def test_an_interrupted_cell_leaves_nothing(course: dict, base_dir: Path, recipe: Recipe) -> None:
    model, tokenizer = loaded(base_dir)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    tokenizer.save_pretrained = interrupt
    with pytest.raises(KeyboardInterrupt):
        save_stage(model, "mine", recipe, tokenizer=tokenizer)
    assert not stage_path("mine").exists()
    assert leftovers(stage_path("mine")) == []


IN_TRAINING = """
from transformers import TrainerCallback
from posttrain_helpers.training import trainer as training

class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("NOW", flush=True)
        time.sleep(600)

make = training.make_trainer
training.make_trainer = lambda *args, **options: make(*args[:4], [*args[4], Stop()], **options)
"""
WHILE_SAVING = """
def stop(*args):
    print("NOW", flush=True)
    time.sleep(600)

stage_saving.write_json_atomic = stop
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", [IN_TRAINING, WHILE_SAVING], ids=["training", "saving"])
def test_a_killed_process_leaves_nothing_that_loads(
    course: dict, base_dir: Path, moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        SMALL_COURSE
        + f"\nimport time\ninstall({str(base_dir)!r})\n"
        + moment
        + "\nstages.load_stage('sft')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(300, process.kill)  # a busy machine needs more than two minutes
    watchdog.start()
    try:
        assert any("NOW" in line for line in process.stdout), "the process ended before the moment came"
        process.kill()
        process.wait()
    finally:
        watchdog.cancel()
        process.stdout.close()
    target = stage_path("sft")
    assert not target.exists()
    assert not is_complete(target)
    assert saved_stages() == []
    assert bool(leftovers(target)) == (moment is WHILE_SAVING)
    load_stage("sft")
    assert "building stage" in capsys.readouterr().out
    assert is_complete(target)
    assert leftovers(target) == []


def test_one_process_builds_while_another_waits(course: dict, capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    target = stage_path("sft")
    ready = shutil.copytree(_built_elsewhere(course), target.parent.parent / "elsewhere")
    locked = threading.Event()

    def other_kernel() -> None:
        with FileLock(target.with_name(".sft.lock")):
            locked.set()
            time.sleep(0.5)
            shutil.copytree(ready, target)

    other = threading.Thread(target=other_kernel)
    other.start()
    assert locked.wait(10)
    assert load_stage("sft") == target
    other.join()
    printed = capsys.readouterr().out
    assert "waiting: another process builds the stage 'sft'" in printed
    assert "building stage 'sft'" not in printed


def _built_elsewhere(course: dict) -> Path:
    """Build the stage with its own trainer under another name, but with the manifest of "sft"."""

    recipe = load_recipe("sft", "tiny", course["SMALL"])
    model, tokenizer = loaded("base")
    trainer = make_trainer(recipe, model, tokenizer, data.load_data(recipe, verbose=False)[0])
    train(trainer)
    return save_stage(trainer, "elsewhere", recipe)
