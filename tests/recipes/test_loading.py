from __future__ import annotations

import inspect
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.data.public.adapters import find_adapter
from posttrain_helpers.environment import processes, runtime
from posttrain_helpers.environment.profiles import PROFILES
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe, loading, recipe_names, stage_recipes
from posttrain_helpers.recipes import shipped as shipped_recipes
from posttrain_helpers.recipes.methods import METHODS, config_class, trainer_class
from posttrain_helpers.recipes.values import argument_types

pytestmark = pytest.mark.usefixtures("output_root")

MINIMAL = """
method: sft
parent: base
args: {num_train_epochs: 1, learning_rate: 1e-4}
data: {source: tinyworld/sft, n_train: 10}
profiles:
  tiny: {args: {learning_rate: 5e-4}}
  qwen3: {data: {n_train: 20}}
"""
SHIPPED = [(name, profile) for name in recipe_names() for profile in PROFILES]


def is_public(name: str) -> bool:
    return shipped_recipes.recipe_files()[name].parent.name == "public"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(("name", "profile"), SHIPPED)
def test_every_shipped_recipe_loads_and_trl_accepts_its_arguments(
    name: str, profile: str, output_root: Path
) -> None:
    recipe = load_recipe(name, profile)
    # A CPU test machine: what a GPU profile asks for is checked with the CPU's defaults under it.
    config = config_class(recipe.method)(**{**recipe.args, "use_cpu": True, "bf16": False, "fp16": False})
    for key, value in recipe.own_args.items():
        assert getattr(config, key) == value
    assert config.output_dir == str(output_root / profile / "runs" / name)


def test_the_sft_recipe_trains_replies_only() -> None:
    assert load_recipe("sft", "tiny").args["assistant_only_loss"] is True


def test_profile_sections_lie_over_the_shared_keys(write) -> None:
    path = write(MINIMAL)
    tiny, qwen3 = load_recipe(path, "tiny"), load_recipe(path, "qwen3")
    assert tiny.own_args == {"num_train_epochs": 1, "learning_rate": 5e-4}
    assert qwen3.own_args["learning_rate"] == 1e-4
    assert (tiny.data["n_train"], qwen3.data["n_train"]) == (10, 20)
    assert tiny.name == "mine"


def test_a_number_without_a_dot_is_a_number(write) -> None:
    assert load_recipe(write(MINIMAL), "tiny").args["learning_rate"] == pytest.approx(0.0005)
    assert load_recipe(write(MINIMAL), "tiny", ["args.learning_rate=3e-2"]).args["learning_rate"] == 0.03


def test_profile_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_PROFILE", "qwen3")
    assert load_recipe("sft").profile == "qwen3"


@pytest.mark.parametrize(
    "overrides",
    [
        ["args.learning_rate=1e-3", "data.n_train=5", "model=/some/dir", "seed=4"],
        {"args.learning_rate": 1e-3, "data.n_train": 5, "model": "/some/dir", "seed": 4},
    ],
    ids=["texts", "mapping"],
)
def test_overrides(overrides: object) -> None:
    recipe = load_recipe("sft", "tiny", overrides)
    assert (recipe.args["learning_rate"], recipe.data["n_train"]) == (1e-3, 5)
    assert (recipe.model, recipe.parent) == ("/some/dir", "base")
    assert recipe.seed == recipe.args["seed"] == 4


def test_the_seed_is_that_of_the_arguments_the_recipe_or_the_session(
    write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_current", replace(runtime.current_runtime("tiny"), seed=5))
    for text, overrides, seed in (
        (MINIMAL, {}, 5),
        ("seed: 0\n" + MINIMAL, {}, 0),
        ("seed: 0\n" + MINIMAL, {"args.seed": 4}, 4),
    ):
        recipe = load_recipe(write(text), "tiny", overrides)
        assert recipe.seed == recipe.args["seed"] == seed


def test_a_batch_that_no_recipe_sets_is_shared_among_processes_too(
    write, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = config_class("sft")("out", use_cpu=True, bf16=False)
    for module in (loading, processes):
        monkeypatch.setattr(module, "process_count", lambda: 2)
    assert load_recipe(write(MINIMAL), "tiny").args["per_device_train_batch_size"] == (
        alone.per_device_train_batch_size / 2
    )


def test_one_model_takes_the_place_of_several(write) -> None:
    path = write("models: [a/b, c/d]\n" + MINIMAL)
    assert load_recipe(path, "tiny").models == ("a/b", "c/d")
    one = load_recipe(path, "tiny", {"model": "x/y"})
    assert (one.model, one.models) == ("x/y", ())


def test_another_source_drops_what_only_the_old_one_knows() -> None:
    recipe = load_recipe("sft", "tiny", ["data.source=my.jsonl", "data.max_samples=5"])
    assert recipe.data == {"source": "my.jsonl", "max_samples": 5}


def test_another_public_source_does_not_inherit_how_the_old_one_is_read() -> None:
    assert {"subset", "answer_format"} <= load_recipe("grpo_gsm8k", "qwen3").data.keys()
    recipe = load_recipe("grpo_gsm8k", "qwen3", ["data.source=mine.jsonl", "data.split=test"])
    assert recipe.data == {"source": "mine.jsonl", "split": "test", "held_out_samples": 100}


def test_hash_changes_with_every_setting_and_only_then(write) -> None:
    recipe = load_recipe("sft", "tiny")
    assert load_recipe("sft", "tiny").hash == recipe.hash
    same = {"args.learning_rate": recipe.args["learning_rate"]}
    assert load_recipe("sft", "tiny", same).hash == recipe.hash
    changes = (
        "args.learning_rate=0.5",
        "data.n_train=4001",
        "model=x/y",
        "seed=1",
        "lora.r=4",
        "lora.r=4 quantization=4bit",
    )
    hashes = {load_recipe("sft", "tiny", change.split()).hash for change in changes}
    assert len(hashes | {recipe.hash}) == len(changes) + 1
    assert load_recipe("sft", "qwen3").hash != recipe.hash


def test_hash_does_not_depend_on_where_it_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = load_recipe("sft", "tiny")
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(tmp_path / "elsewhere"))
    after = load_recipe("sft", "tiny")
    assert before.args["output_dir"] != after.args["output_dir"]
    assert before.hash == after.hash


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("args.learning_rat=1", "args.learning_rat does not exist; did you mean 'learning_rate'"),
        ("data.n_trian=1", "data.n_trian does not exist; did you mean 'n_train'"),
        ("lora.rnk=1", "lora.rnk does not exist"),
        ("arg.learning_rate=1", r"override 'arg.learning_rate' does not exist; did you mean 'args'"),
        ("modle=x", "override 'modle' does not exist; did you mean 'model'"),
        ("method=sfft", "method 'sfft' does not exist; did you mean 'sft'"),
        ("args.gradient_checkpointing=true", "renamed; write args.activation_checkpointing"),
        ("args.warmup_ratio=0.1", r"renamed; write args.warmup_steps \(below 1"),
        ("args.learning_rate", "override looks like 'args.learning_rate=1e-3'"),
        ("quantization=2bit", "quantization must be '4bit' or '8bit', but it is '2bit'"),
        ("seed=-1", "seed must be at least 0, but it is -1"),
        ("parent=", "lacks 'parent'"),
        ("args.learning_rate=fast", "args.learning_rate must be a number, but it is 'fast'"),
        ("args.learning_rate='1e-4'", "args.learning_rate must be a number, but it is '1e-4'"),
        ("args.learning_rate=.nan", "args.learning_rate must be a finite number"),
        ("args.learning_rate=-1", "args.learning_rate must be at least 0, but it is -1"),
        ("args.learning_rate=true", "args.learning_rate must be a number, but it is True"),
        ("args.weight_decay=.inf", "args.weight_decay must be a finite number, but it is inf"),
        ("args.per_device_train_batch_size=0", "must be at least 1, but it is 0"),
        ("args.per_device_train_batch_size=many", "must be a whole number, but it is 'many'"),
        ("args.gradient_accumulation_steps=1.5", "must be a whole number, but it is 1.5"),
        ("args.num_train_epochs=two", "args.num_train_epochs must be a number, but it is 'two'"),
        ("args.max_length=-5", "args.max_length must be at least 1 or null, but it is -5"),
        ("args.max_length=0", "args.max_length must be at least 1 or null, but it is 0"),
        ("args.max_steps=[3]", r"args.max_steps must be a whole number, but it is \[3\]"),
        ("args.max_steps=-5", "args.max_steps must be at least 1, but it is -5"),
        ("args.max_steps=0", "args.max_steps must be at least 1, but it is 0"),
        ("args.num_train_epochs=-1", "args.num_train_epochs must be at least 0, but it is -1"),
        ("args.gradient_accumulation_steps=0", "must be at least 1, but it is 0"),
        ("args.per_device_eval_batch_size=0", "must be at least 1, but it is 0"),
        ("args.weight_decay=-1", "args.weight_decay must be at least 0, but it is -1"),
        ("args.warmup_steps=-0.1", "args.warmup_steps must be at least 0, but it is -0.1"),
        ("args.max_grad_norm=-1", "args.max_grad_norm must be at least 0, but it is -1"),
        ("args.logging_steps=-10", "args.logging_steps must be at least 0, but it is -10"),
        ("lora.r=0", "lora.r must be at least 1, but it is 0"),
        ("lora.lora_alpha=0", "lora.lora_alpha must be at least 1, but it is 0"),
        ("lora.lora_dropout=1", "lora.lora_dropout must be below 1, but it is 1"),
        ("quantization=4bit", "quantized weights do not train, .* set lora.r=8, or quantization to null"),
        ("args.packing=maybe", "args.packing must be true or false, but it is 'maybe'"),
        ("args.eos_token=7", "args.eos_token must be text or null, but it is 7"),
        ("args.model_init_kwargs=[a]", "args.model_init_kwargs must be keys and values or text or null"),
        ("args.lr_scheduler_type=cosin", "'linear', .*, but it is 'cosin'; did you mean 'cosine'"),
        ("args.save_strategy=no", "'no', 'steps'.* False; YAML reads a bare no as false: write"),
        ("args.seed=abc", "args.seed must be a whole number, but it is 'abc'"),
        ("args.seed=99999999999", "args.seed must be at most 4294967295, but it is 99999999999"),
        ("args.data_seed=-1", "args.data_seed must be at least 0 or null, but it is -1"),
        ("seed=99999999999", "seed must be at most 4294967295, but it is 99999999999"),
        ("seed=x", "seed must be a whole number, but it is 'x'"),
        ("seed=true", "seed must be a whole number, but it is True"),
        ("data.seed=[1]", r"data.seed must be a whole number, but it is \[1\]"),
        ("data.seed=", "data.seed must be a whole number, but it is None"),
        ("data.held_out=7", "data.held_out must be text or a list, but it is 7"),
        ("data.held_out=[7]", r"data.held_out\[0\] must be text, but it is 7"),
        ("data.n_train=all", "data.n_train must be a whole number, but it is 'all'"),
        ("data.source=5", "data.source must be text, but it is 5"),
        ("model=[a]", "model must be text"),
        ("description={a: b}", "description must be text"),
        ("lora.r=big", "lora.r must be a whole number, but it is 'big'"),
        ("lora.bias=some", "lora.bias must be 'none', 'all' or 'lora_only', but it is 'some'"),
        ("args=5", "'args' is a section of settings.* write args.<name>=<value>, such as"),
        (
            "data=rows.csv",
            "'data' is a section of settings.* write data.<name>=<value>, such as data.source=",
        ),
        (
            "args.loss_type=nl",
            "args.loss_type must be 'nll', 'dft' or .*, but it is 'nl'; did you mean 'nll'",
        ),
        ("args.packing_strategy=bdf", "'bfd', .*, but it is 'bdf'; did you mean 'bfd'"),
        ("args.hub_token=secret", "args.hub_token does not belong into a recipe: a recipe holds no keys"),
        ("args.push_to_hub=true", "args.push_to_hub does not belong into a recipe: .* `export` the stage"),
        ("args.output_dir=./runs", "args.output_dir does not belong .*: .* --output-dir or POSTTRAIN_OUTPUT"),
        ("args.resume_from_checkpoint=./x", "goes on with `train --resume`"),
        ("args.learning_rate=[1,", "the value of the override 'args.learning_rate=.1,' is not valid YAML"),
        ("data.columns={prompt: q", "override 'data.columns=.prompt: q' is not valid YAML"),
        ("data.columns=2024-13-45", "is not valid YAML: month must be in"),
    ],
)
def test_a_wrong_override_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_recipe("sft", "tiny", [override])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("args.temperature=0", "args.temperature must be above 0, but it is 0"),
        ("args.beta=-0.1", "args.beta must be at least 0, but it is -0.1"),
        ("args.num_generations=1", "args.num_generations must be at least 2 or null, but it is 1"),
    ],
)
def test_a_wrong_setting_of_the_sampling_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_recipe("grpo", "tiny", [override])


@pytest.mark.parametrize("recipe", ["dpo", "ipo", "kto"])
def test_a_loss_that_beta_multiplies_is_not_switched_off(recipe: str) -> None:
    with pytest.raises(CourseError, match=r"with args\.beta=0 the method '(dpo|kto)' learns nothing"):
        load_recipe(recipe, "tiny", ["args.beta=0"])
    assert load_recipe("grpo", "tiny", ["args.beta=0"]).args["beta"] == 0  # without a KL term it learns, too


def test_the_fields_of_a_mapping_of_columns_are_texts() -> None:
    with pytest.raises(CourseError, match=r"data\.columns maps fields, which are texts, but 1 was found"):
        load_recipe("sft", "tiny", ["data.source=a.jsonl", "data.columns={1: a, prompt: b}"])


def test_a_reward_may_be_a_directory_beside_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CourseError, match="the reward 'my_rewards' does not exist"):
        load_recipe("ppo", "tiny", ["rewards=[my_rewards]"])
    (tmp_path / "my_rewards").mkdir()
    assert load_recipe("ppo", "tiny", ["rewards=[my_rewards]"]).rewards == ("my_rewards",)


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_the_losses_are_those_that_the_trainer_knows(method: str) -> None:
    config, trainer = config_class(method), trainer_class(method)
    known = re.findall(r"'(\w+)'", str(argument_types(config)["loss_type"]))
    source = inspect.getsource(trainer)
    compared = re.findall(r"loss_type (?:==|in) (\[.*?\]|\"\w+\")", source)
    assert set(known) == {name for part in compared for name in re.findall(r"\w+", part)}
    with pytest.raises(CourseError, match=r"args\.loss_type.* must be .*, but it is 'sigmoidd'"):
        load_recipe(method, "tiny", ["args.loss_type=sigmoidd"])


@pytest.mark.parametrize(
    ("recipe", "override", "sentence"),
    [
        ("sft", "data.replay=1", r"data\.replay must be below 1, but it is 1"),
        ("sft", "data.replay=-0.2", r"data\.replay must be at least 0, but it is -0\.2"),
        ("sft", "data.replay=much", r"data\.replay must be a number, but it is 'much'"),
        ("grpo", "data.replay=0.2", r"the key data\.replay does not exist"),
        ("kl_sft", "args.kl_beta=-1", r"args\.kl_beta must be at least 0, but it is -1"),
        ("kl_sft", "args.kl_direction=1", r"args\.kl_direction must be text, but it is 1"),
        ("sft", "args.kl_beta=0.1", r"the key args\.kl_beta does not exist"),
    ],
)
def test_a_wrong_setting_of_the_cures_is_one_sentence(recipe: str, override: str, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_recipe(recipe, "tiny", [override])


@pytest.mark.parametrize("profile", PROFILES)
def test_the_cures_learn_from_the_conversations_of_sft(profile: str) -> None:
    sft, near_base, replay = (load_recipe(name, profile) for name in ("sft", "kl_sft", "replay_sft"))
    assert near_base.data == sft.data == {key: replay.data[key] for key in sft.data}
    batch = {"per_device_train_batch_size", "gradient_accumulation_steps"}
    assert difference(near_base.own_args, sft.own_args) - batch == {"kl_beta", "kl_direction"}
    rows = [math.prod(recipe.own_args[key] for key in batch) for recipe in (sft, near_base, replay)]
    assert rows == [16, 16, 16]
    changed = {"assistant_only_loss", "max_length"}  # rows with labels, and longer ones
    assert difference(replay.own_args, sft.own_args) - {"max_steps"} == changed
    if "max_steps" in sft.own_args:
        conversations = (1 - replay.data["replay"]) * replay.own_args["max_steps"]
        assert conversations == sft.own_args["max_steps"]


@pytest.mark.parametrize(("key", "value"), [("max_steps", -1), ("warmup_steps", 0.1), ("weight_decay", 0)])
def test_values_at_the_edge_of_their_range_are_accepted(key: str, value: float) -> None:
    assert load_recipe("sft", "tiny", {f"args.{key}": value}).args[key] == value


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (MINIMAL.replace("learning_rate: 5e-4", "learningrate: 5e-4"), "args.learningrate.*'learning_rate'"),
        (MINIMAL.replace("parent:", "parnet:"), "key parnet does not exist; did you mean 'parent'"),
        (MINIMAL.replace("tiny: {args", "tiny: {arg"), "profile tiny: the key arg does not exist"),
        (MINIMAL.replace("n_train: 10", "n_trains: 10"), "data.n_trains"),
        (MINIMAL.replace("tiny:", "small:"), "no section for the profile 'tiny'; it has small, qwen3"),
        (
            MINIMAL.replace("{num_train_epochs: 1, learning_rate: 1e-4}", "fast"),
            "args must hold keys and values",
        ),
        (MINIMAL.replace("method: sft", "method: [sft"), "not valid YAML at line"),
        (
            MINIMAL.replace("args: {num", "args: {max_steps: 3, max_steps: 4, num"),
            "the key 'max_steps' is there twice",
        ),
        (MINIMAL + "description: a\ndescription: b\n", "the key 'description' is there twice"),
        ("- a\n- b\n", "must hold keys such as method"),
        ("", "must hold keys such as method"),
        (MINIMAL.replace("method: sft", ""), "lacks 'method'"),
        (MINIMAL.replace("{args: {learning_rate: 5e-4}}", "5"), "profile tiny: keys and values .* but 5 was"),
        (MINIMAL.replace("tiny: {", "7: {"), "no section for the profile 'tiny'; it has 7, qwen3"),
        (MINIMAL.replace("{learning_rate: 5e-4}", "{learning_rate: slow}"), "args.learning_rate must be"),
        (MINIMAL + "description: " + "[" * 20_000, "is not valid YAML: maximum recursion"),
    ],
)
def test_a_wrong_file_is_one_sentence(write, text: str, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_recipe(write(text), "tiny")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("description: Übung\n".encode("latin-1"), r"mine.yaml cannot be read as text in UTF-8 .* as UTF-8"),
        (b"description: \x00\n", "cannot be read as text in UTF-8"),
    ],
)
def test_a_file_in_another_encoding_is_one_sentence(write, content: bytes, sentence: str) -> None:
    path = write("")
    path.write_bytes(content)
    with pytest.raises(CourseError, match=sentence):
        load_recipe(path, "tiny")


def test_a_file_that_powershell_wrote_is_read(write) -> None:
    path = write("")
    path.write_bytes(MINIMAL.encode("utf-16"))
    assert load_recipe(path, "tiny").data["n_train"] == 10


@pytest.mark.parametrize(
    "override",
    [
        "args.max_length=null",
        "args.report_to=[none]",
        "args.num_train_epochs=2",
        "args.lr_scheduler_type=cosine",
        "args.save_strategy='no'",
        "args.lr_scheduler_kwargs={a: 1}",
        "lora.init_lora_weights=pissa_niter_4",
        "args.fsdp=[full_shard]",
        "lora.target_modules=all-linear",
        "lora.target_modules=[q_proj]",
        "data.held_out=entities",
        "data.held_out=[entities]",
        "seed=4294967295",
    ],
)
def test_what_the_libraries_take_is_taken(override: str) -> None:
    load_recipe("sft", "tiny", [override])


def test_one_loss_of_dpo_needs_no_list() -> None:
    assert load_recipe("dpo", "tiny", ["args.loss_type=ipo"]).args["loss_type"] == "ipo"


def test_unknown_recipe_names_the_closest() -> None:
    with pytest.raises(CourseError, match=r"'sftt' does not exist; did you mean 'sft'\?"):
        load_recipe("sftt", "tiny")


def test_missing_file() -> None:
    with pytest.raises(CourseError, match=r"file nowhere\.yaml does not exist"):
        load_recipe("nowhere.yaml", "tiny")


def test_the_table_shows_what_the_recipe_sets_and_nothing_of_the_machine() -> None:
    recipe = load_recipe("sft", "tiny")
    shown = dict(recipe.rows())
    assert shown["args.learning_rate"] == str(recipe.own_args["learning_rate"])
    assert shown["seed"] == "0"
    assert not any("use_cpu" in key or "output_dir" in key for key in shown)
    assert "args.learning_rate" in str(recipe)
    assert "args.learning_rate" in recipe._repr_html_()


def test_what_the_table_shows_can_be_used_as_overrides() -> None:
    recipe = load_recipe("sft", "tiny")
    keys = {key: value for key, value in recipe.rows() if key.startswith("args.") or key == "seed"}
    assert load_recipe("sft", "tiny", [f"{key}={value}" for key, value in keys.items()]).hash == recipe.hash


def test_the_plain_form_in_a_notebook_is_the_table() -> None:
    recipe = load_recipe("sft", "tiny")
    assert repr(recipe) == str(recipe)
    assert "args.learning_rate" in repr(recipe)
    assert "output_dir" not in repr(recipe)


# --- the names of stages ---


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put recipes in the place of the shipped ones; `shipped("reward", "reward_model")` adds one."""
    directory = tmp_path / "shipped"
    directory.mkdir()
    monkeypatch.setattr(shipped_recipes, "DIRECTORY", directory)

    def add(name: str, stage: str | None = None, text: str = MINIMAL) -> None:
        line = "" if stage is None else f"stage: {stage}\n"
        (directory / f"{name}.yaml").write_text(line + text, encoding="utf-8")

    return add


def test_a_stage_has_the_name_of_its_recipe_or_its_own(shipped) -> None:
    shipped("sft")
    shipped("reward", "reward_model")
    assert recipe_names() == ["reward", "sft"]
    assert stage_recipes() == {"reward_model": "reward", "sft": "sft"}
    assert load_recipe("sft", "tiny").stage == "sft"
    assert load_recipe("reward", "tiny").stage == "reward_model"
    assert load_recipe("reward", "tiny").name == "reward"


def test_every_shipped_recipe_has_a_stage() -> None:
    assert sorted(stage_recipes().values()) == recipe_names()


def test_stage_names_follow_the_files(shipped) -> None:
    import os

    shipped("reward", "reward_model")
    assert stage_recipes() == {"reward_model": "reward"}
    stage_recipes().clear()
    assert stage_recipes() == {"reward_model": "reward"}
    shipped("sft")
    assert stage_recipes() == {"reward_model": "reward", "sft": "sft"}
    shipped("reward", "scorer")
    os.utime(shipped_recipes.DIRECTORY / "reward.yaml", (1, 1))
    assert stage_recipes() == {"scorer": "reward", "sft": "sft"}


def test_the_files_are_read_once(shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped("sft")
    expected = stage_recipes()
    monkeypatch.setattr(shipped_recipes, "read_yaml", lambda path: pytest.fail(f"{path} is read again"))
    assert stage_recipes() == expected


def test_two_recipes_for_one_stage(shipped) -> None:
    shipped("a", "b")
    shipped("b")
    with pytest.raises(CourseError, match="recipes 'a' and 'b' both make the stage 'b'"):
        stage_recipes()


@pytest.mark.parametrize("stage", ["[a, b]", "7", "''"])
def test_a_stage_is_a_name(shipped, stage: str) -> None:
    shipped("reward", stage)
    for call in (stage_recipes, lambda: load_recipe("reward", "tiny")):
        with pytest.raises(CourseError, match="recipe 'reward': stage must be the name of a stage"):
            call()


def test_a_profile_cannot_rename_a_stage(write) -> None:
    path = write(MINIMAL.replace("tiny: {args", "tiny: {stage: other, args"))
    with pytest.raises(CourseError, match="profile tiny: the key stage does not exist"):
        load_recipe(path, "tiny")


def test_a_stage_name_counts_as_a_setting_only_where_it_is_not_the_recipe_name(write) -> None:
    plain = load_recipe(write(MINIMAL), "tiny")
    assert "stage" not in plain.content()
    assert load_recipe(write("stage: mine\n" + MINIMAL), "tiny").hash == plain.hash
    other = load_recipe(write("stage: other\n" + MINIMAL), "tiny")
    assert other.content()["stage"] == "other"
    assert other.hash != plain.hash
    assert dict(other.rows())["stage"] == "other"
    assert load_recipe(write(MINIMAL), "tiny", {"stage": "other"}).hash == other.hash


@pytest.mark.parametrize(
    ("data", "identity"),
    [
        ("{source: tinyworld/sft, n_train: 10}", "7040da62108e0cc3"),  # since the tiny world has a test split
        ("{source: rows.jsonl, max_samples: 10}", "ebd6b5a992c546f4"),
    ],
)
def test_the_identity_of_a_recipe_without_stage_is_what_it_was(write, data: str, identity: str) -> None:
    """Stages on disk record it: another value would train every one of them again."""
    text = f"method: sft\nparent: base\nargs: {{num_train_epochs: 1, learning_rate: 5e-4}}\ndata: {data}\n"
    assert load_recipe(write(text), "tiny").hash == identity


# --- the parents of a recipe ---


def test_a_recipe_cannot_start_from_what_it_makes(write) -> None:
    with pytest.raises(CourseError, match="'mine' starts from the stage that it makes: mine <- mine; start"):
        load_recipe(write(MINIMAL.replace("parent: base", "parent: mine")), "tiny")
    for override in ("parent=sft", "model=sft"):
        with pytest.raises(CourseError, match="'sft' starts from the stage that it makes: sft <- sft"):
            load_recipe("sft", "tiny", [override])
    assert load_recipe("sft", "tiny", ["model=sft", "stage=sft_longer"]).model == "sft"


def test_recipes_cannot_start_from_each_other(write, shipped) -> None:
    path = write(MINIMAL.replace("parent: base", "parent: other"))
    write(MINIMAL.replace("parent: base", "parent: mine"), "other.yaml")
    with pytest.raises(CourseError, match="stage that it makes: mine <- other <- mine"):
        load_recipe(path, "tiny")
    shipped("a", "first", MINIMAL.replace("parent: base", "parent: second"))
    shipped("b", "second", MINIMAL.replace("parent: base", "parent: first"))
    with pytest.raises(CourseError, match=r"'b' starts from .*: second <- first <- second"):
        load_recipe("b", "tiny")


# --- the data of another recipe ---

# What a recipe of the family changes in the data of dpo; `reward` has a source of its own for qwen3.
CHANGED_DATA = {
    "reward": {"held_out"},
    "dpo_identity": {"n_prompts", "identity", "held_out", "length_groups"},
    "ipo": set(),
    "kto": {"length_groups"},
    "orpo": set(),
    "simpo": set(),
    "sft_chosen": set(),
}


def same_as(data: str, profile: str = "{}") -> str:
    """A recipe that takes data from another one; `profile` is the tiny profile's data section."""
    return MINIMAL.replace("{source: tinyworld/sft, n_train: 10}", data).replace(
        "tiny: {args", f"tiny: {{data: {profile}, args"
    )


def difference(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    return {key for key in first | second if first.get(key) != second.get(key)}


@pytest.mark.parametrize("name", CHANGED_DATA)
def test_the_family_learns_from_the_same_data(name: str) -> None:
    dpo = load_recipe("dpo", "tiny")
    recipe = load_recipe(name, "tiny")
    assert difference(recipe.data, dpo.data) <= CHANGED_DATA[name]
    assert (recipe.data["source"], recipe.seed, recipe.parent) == (
        "tinyworld/preferences",
        dpo.seed,
        dpo.data["policy"],
    )


SIZES = {"n_train", "n_prompts", "samples", "comparisons", "identity", "length_groups"}
DIFFICULTY = {"steps", "smallest", "largest", "sampling_temperature"}


@pytest.mark.parametrize("name", [name for name in recipe_names() if not is_public(name)])
def test_profiles_change_the_model_and_never_the_truth(name: str) -> None:
    """Sizes, rates, adapters and difficulty may differ; what is asked and measured may not."""
    tiny = load_recipe(name, "tiny")
    for profile in PROFILES:
        recipe = load_recipe(name, profile)
        assert (recipe.method, recipe.parent, recipe.rewards) == (tiny.method, tiny.parent, tiny.rewards)
        assert difference(recipe.data, tiny.data) <= SIZES | DIFFICULTY
        assert bool(recipe.data.get("identity")) == bool(tiny.data.get("identity"))


@pytest.mark.parametrize("name", [name for name in recipe_names() if is_public(name)])
def test_a_public_set_is_the_same_under_every_profile_but_for_its_size(name: str) -> None:
    """In `tiny` shipped rows may stand for a set, read as that set is."""
    large = load_recipe(name, "qwen3").data
    for profile in PROFILES:
        data = load_recipe(name, profile).data
        if profile == "tiny" and data["source"].startswith("posttrain_helpers/data/public/samples/"):
            adapter = find_adapter(data["source"], data)
            assert adapter == find_adapter(large["source"], large)
            continue
        assert {**data, "max_samples": None} == {**large, "max_samples": None}


def test_every_recipe_that_takes_data_from_dpo_is_in_the_table() -> None:
    texts = {name: file.read_text("utf-8") for name, file in shipped_recipes.recipe_files().items()}
    assert {name for name, text in texts.items() if "same_as: dpo" in text} == set(CHANGED_DATA)


def test_what_the_family_changes() -> None:
    dpo, kto, reward, identity = (
        load_recipe(name, "tiny").data for name in ("dpo", "kto", "reward", "dpo_identity")
    )
    assert kto["length_groups"] == 2 * dpo["length_groups"]  # a pair is two rows
    assert reward["held_out"] == ["pairs"]
    assert (identity["n_prompts"], dpo["identity"]) == (0, 0)
    assert identity["identity"] > 0


@pytest.mark.parametrize("name", ["dpo", *CHANGED_DATA])
def test_a_length_group_is_the_rows_of_a_step(name: str) -> None:
    """Only then every optimizer step sees the random rows that it would have seen without sorting."""
    recipe = load_recipe(name, "tiny")
    step = recipe.args["per_device_train_batch_size"] * recipe.args["gradient_accumulation_steps"]
    assert recipe.data["length_groups"] == step
    # KTO's trainer reads in order by itself.
    assert recipe.args.get("train_sampling_strategy") == (None if name == "kto" else "sequential")


def test_same_as_takes_the_data_of_a_recipe(shipped, write) -> None:
    shipped("other")
    path = write(same_as("{same_as: other}"))
    assert load_recipe(path, "tiny").data == {"source": "tinyworld/sft", "n_train": 10}
    assert load_recipe(path, "qwen3").data == {"source": "tinyworld/sft", "n_train": 20}
    assert load_recipe(path, "tiny").hash == load_recipe(write(MINIMAL), "tiny").hash


def test_further_keys_change_the_data(shipped, write) -> None:
    shipped("other")
    path = write(same_as("{same_as: other, held_out: [stories]}", "{n_train: 7}"))
    expected = {"source": "tinyworld/sft", "n_train": 7, "held_out": ["stories"]}
    assert load_recipe(path, "tiny").data == expected
    assert load_recipe(path, "tiny", ["data.n_train=3"]).data == {**expected, "n_train": 3}
    # A key of the other recipe's profile gives way to this recipe's shared one.
    own = write(same_as("{same_as: other, n_train: 5}").replace("{data: {n_train: 20}}", "{}"))
    assert load_recipe(own, "qwen3").data["n_train"] == 5


def test_a_change_of_the_other_recipe_changes_the_hash(shipped, write) -> None:
    path = write(same_as("{same_as: other}"))
    hashes = set()
    for text in (MINIMAL, MINIMAL.replace("n_train: 10", "n_train: 11")):
        shipped("other", text=text)
        hashes.add(load_recipe(path, "tiny").hash)
    assert len(hashes) == 2


def test_a_profile_may_take_its_data_from_another_recipe(shipped, write) -> None:
    shipped("other")
    path = write(same_as("{}", "{same_as: other}").replace("{n_train: 20}", "{source: my.jsonl}"))
    assert load_recipe(path, "tiny").data == {"source": "tinyworld/sft", "n_train": 10}
    assert load_recipe(path, "qwen3").data == {"source": "my.jsonl"}


def test_a_profile_may_refuse_the_data_of_another_recipe(shipped, write) -> None:
    shipped("other")
    path = write(same_as("{same_as: other}", "{same_as: null, source: my.jsonl}"))
    assert load_recipe(path, "tiny").data == {"source": "my.jsonl"}


def test_another_source_drops_what_came_with_the_data() -> None:
    recipe = load_recipe("kto", "tiny", ["data.source=my.jsonl", "data.max_samples=5"])
    assert recipe.data == {"source": "my.jsonl", "max_samples": 5, "length_groups": 32}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "othr",
            "data.same_as must name a recipe, but it is 'othr'; did you mean 'other'.*are chained, other",
        ),
        ("nothing", r"must name a recipe, but it is 'nothing'\. The recipes are chained, other"),
        ("[other]", r"must name a recipe, but it is \['other'\]"),
        ("7", "must name a recipe, but it is 7"),
        ("other.yaml", "must name a recipe, but it is 'other.yaml'; did you mean 'other'"),
        ("''", "must name a recipe, but it is ''"),
        ("chained", "data.same_as names 'chained', which has data.same_as itself; name its source"),
    ],
)
def test_a_wrong_name_in_same_as_is_one_sentence(shipped, write, name: str, sentence: str) -> None:
    shipped("other")
    shipped("chained", text=same_as("{same_as: other}"))
    with pytest.raises(CourseError, match=f"recipe 'mine': .*{sentence}"):
        load_recipe(write(same_as(f"{{same_as: {name}}}")), "tiny")


def test_a_chain_within_a_profile_is_refused_there_only(shipped, write) -> None:
    shipped("other")
    shipped("chained", text=same_as("{source: tinyworld/sft, n_train: 10}", "{same_as: other}"))
    path = write(same_as("{same_as: chained}"))
    with pytest.raises(CourseError, match=r"'chained', which has data\.same_as itself"):
        load_recipe(path, "tiny")
    assert load_recipe(path, "qwen3").data["n_train"] == 20


def test_a_recipe_cannot_take_its_own_data(shipped) -> None:
    shipped("loop", text=same_as("{same_as: loop}"))
    with pytest.raises(CourseError, match=r"'loop', which has data\.same_as itself"):
        load_recipe("loop", "tiny")


def test_the_other_recipe_must_know_the_profile(shipped, write) -> None:
    shipped("other", text=MINIMAL.replace("tiny:", "small:"))
    with pytest.raises(CourseError, match="recipe 'other' has no section for the profile 'tiny'"):
        load_recipe(write(same_as("{same_as: other}")), "tiny")


def test_mistakes_in_the_taken_data_are_found(shipped, write) -> None:
    shipped("other")
    with pytest.raises(CourseError, match=r"recipe 'mine': the key data\.n_trian does not exist"):
        load_recipe(write(same_as("{same_as: other, n_trian: 5}")), "tiny")


def test_same_as_is_no_setting_of_a_run(shipped, write) -> None:
    """It is resolved in the file; a table or a manifest shows what was meant."""
    shipped("other")
    recipe = load_recipe(write(same_as("{same_as: other}")), "tiny")
    assert "same_as" not in recipe.data
    assert "same_as" not in str(recipe)
    with pytest.raises(CourseError, match=r"the key data\.same_as does not exist"):
        load_recipe("other", "tiny", ["data.same_as=other"])


# --- rewards ---

POLICY = """
method: grpo
parent: base
rewards: [exact_answer]
data: {source: tinyworld/word_problems, n_train: 10, steps: 2, largest: 20}
profiles:
  tiny: {}
  qwen3: {rewards: [reward_model, boxed_format]}
"""


def test_rewards_are_a_value_that_a_profile_may_replace(write) -> None:
    path = write(POLICY)
    assert load_recipe(path, "tiny").rewards == ("exact_answer",)
    assert load_recipe(path, "qwen3").rewards == ("reward_model", "boxed_format")
    assert dict(load_recipe(path, "qwen3").rows())["rewards"] == "reward_model, boxed_format"
    for override in (["rewards=[worked_format]"], ["rewards=worked_format"], {"rewards": ["worked_format"]}):
        assert load_recipe(path, "tiny", override).rewards == ("worked_format",)


def test_rewards_are_part_of_the_hash(write) -> None:
    path = write(POLICY)
    hashes = {
        load_recipe(path, "tiny", overrides).hash
        for overrides in ([], ["rewards=worked_format"], ["rewards=[exact_answer, worked_format]"])
    }
    assert len(hashes) == 3
    assert load_recipe(path, "tiny").content()["rewards"] == ["exact_answer"]


@pytest.mark.parametrize(("name", "profile"), SHIPPED)
def test_recipes_without_rewards_keep_their_identity(name: str, profile: str) -> None:
    """Stages that were made before recipes had rewards stay up to date."""
    recipe = load_recipe(name, profile)
    assert ("rewards" in recipe.content()) == bool(recipe.rewards) == METHODS[recipe.method].rewards


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rewards=", "'grpo' learns from rewards, but the recipe names none"),
        ("rewards=[]", "names none"),
        ("rewards=[exact_answr]", "'exact_answr' does not exist; did you mean 'exact_answer'"),
        ("rewards={a: 1}", "rewards must be a list of names"),
        ("rewards=[boxed_format, boxed_format]", "names one reward twice"),
        ("reward=[exact_answer]", "override 'reward' does not exist; did you mean 'rewards'"),
    ],
)
def test_a_wrong_reward_is_one_sentence(write, override: str, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_recipe(write(POLICY), "tiny", [override])


def test_rewards_for_a_method_that_has_none() -> None:
    sentence = (
        r"'sft' does not learn from rewards, but rewards is \['exact_answer'\]; remove it, .*: grpo, rloo"
    )
    with pytest.raises(CourseError, match=sentence):
        load_recipe("sft", "tiny", ["rewards=[exact_answer]"])


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(name, "tiny").rewards])
def test_a_step_of_a_shipped_policy_recipe_holds_whole_groups(name: str, profile: str) -> None:
    recipe = load_recipe(name, profile)
    arguments = recipe.own_args
    if "num_generations" not in arguments:
        pytest.skip("replies are not compared in groups")
    replies = arguments["per_device_train_batch_size"] * arguments.get("gradient_accumulation_steps", 1)
    assert replies % arguments["num_generations"] == 0
    assert replies // arguments["num_generations"] >= 4
    assert len(arguments.get("reward_weights", recipe.rewards)) == len(recipe.rewards)


# --- reference ---


def test_a_reference_is_part_of_the_hash_and_shown() -> None:
    recipe = load_recipe("dpo", "tiny", ["reference=sft"])
    assert recipe.reference == "sft"
    assert dict(recipe.rows())["reference"] == "sft"
    without = load_recipe("dpo", "tiny")
    assert len({recipe.hash, without.hash, load_recipe("dpo", "tiny", ["reference=base"]).hash}) == 3
    assert load_recipe("dpo", "tiny", ["reference=null"]).hash == without.hash


def test_a_reference_may_be_another_one_in_a_profile(write) -> None:
    path = write(
        "method: dpo\nparent: sft\nreference: sft\nprofiles:\n  tiny: {}\n  qwen3: {reference: base}\n"
    )
    assert load_recipe(path, "tiny").reference == "sft"
    assert load_recipe(path, "qwen3").reference == "base"


@pytest.mark.parametrize("method", METHODS)
def test_a_reference_belongs_to_a_trainer_that_takes_one(method: str) -> None:
    import inspect

    from posttrain_helpers.recipes.methods import trainer_class

    trainer, takes = trainer_class(method), METHODS[method].reference
    assert ("ref_model" in inspect.signature(trainer).parameters) == (takes == "any")
    (name, *_) = (name for name in recipe_names() if load_recipe(name, "tiny").method == method)
    if takes == "any":
        assert load_recipe(name, "tiny", {"reference": "base"}).reference == "base"
        return
    sentence = f"has no reference model but the parent, as {trainer.__name__} takes no other, but reference"
    with pytest.raises(
        CourseError, match=sentence if takes == "parent" else "has no reference model, but"
    ) as found:
        load_recipe(name, "tiny", {"reference": "base"})
    assert str(found.value).endswith("choose a method whose trainer takes one: kl_sft, dpo, kto, ppo.")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("reference=stf", "the reference 'stf' does not exist; did you mean 'sft'"),
        ("reference=", None),
        ("reference=''", "reference must"),
        ("reference=3", "reference must"),
        ("reference=dpo", "the reference 'dpo' is the stage that the recipe makes"),
    ],
)
def test_a_reference_that_cannot_be(override: str, sentence: str | None) -> None:
    if sentence is None:
        assert load_recipe("dpo", "tiny", [override]).reference is None
        return
    with pytest.raises(CourseError, match=sentence):
        load_recipe("dpo", "tiny", [override])
    assert load_recipe("dpo", "tiny", ["reference=dpo", "stage=again"]).reference == "dpo"
