from __future__ import annotations

from pathlib import Path

import pytest

from posttrain_helpers import recipes
from posttrain_helpers.errors import CourseError
from posttrain_helpers.profiles import PROFILES
from posttrain_helpers.recipes import load_recipe, recipe_names, stage_recipes
from posttrain_helpers.training import config_class

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


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", recipe_names())
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


def test_another_source_drops_what_only_the_old_one_knows() -> None:
    recipe = load_recipe("sft", "tiny", ["data.source=my.jsonl", "data.max_samples=5"])
    assert recipe.data == {"source": "my.jsonl", "max_samples": 5}


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
        "quantization=4bit",
    )
    hashes = {load_recipe("sft", "tiny", [change]).hash for change in changes}
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
        ("quantization=2bit", "quantization must be 4bit, 8bit or null"),
        ("seed=-1", "seed must be a whole number"),
        ("parent=", "lacks 'parent'"),
    ],
)
def test_a_wrong_override_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_recipe("sft", "tiny", [override])


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
        ("- a\n- b\n", "must hold keys such as method"),
        ("", "must hold keys such as method"),
        (MINIMAL.replace("method: sft", ""), "lacks 'method'"),
    ],
)
def test_a_wrong_file_is_one_sentence(write, text: str, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_recipe(write(text), "tiny")


def test_unknown_recipe_names_the_closest() -> None:
    with pytest.raises(CourseError, match=r"'sftt' does not exist; did you mean 'sft'\?"):
        load_recipe("sftt", "tiny")


def test_missing_file() -> None:
    with pytest.raises(CourseError, match=r"file nowhere\.yaml does not exist"):
        load_recipe("nowhere.yaml", "tiny")


def test_the_table_shows_what_the_recipe_sets_and_nothing_of_the_machine() -> None:
    recipe = load_recipe("sft", "tiny")
    frame = recipe.to_frame()
    shown = dict(zip(frame["setting"], frame["value"], strict=True))
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
    monkeypatch.setattr(recipes, "_DIRECTORY", directory)

    def add(name: str, stage: str | None = None) -> None:
        line = "" if stage is None else f"stage: {stage}\n"
        (directory / f"{name}.yaml").write_text(line + MINIMAL, encoding="utf-8")

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
    os.utime(recipes._DIRECTORY / "reward.yaml", (1, 1))
    assert stage_recipes() == {"scorer": "reward", "sft": "sft"}


def test_the_files_are_read_once(shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped("sft")
    expected = stage_recipes()
    monkeypatch.setattr(recipes, "_read_yaml", lambda path: pytest.fail(f"{path} is read again"))
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


def test_the_identity_of_a_recipe_without_stage_is_what_it_was(write) -> None:
    """Stages on disk record it: another value would train every one of them again."""
    assert load_recipe(write(MINIMAL), "tiny").hash == "ca407ae88d4dc7e2"
