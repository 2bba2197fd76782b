from __future__ import annotations

from pathlib import Path

import pytest

from posttrain_helpers.environment import profiles
from posttrain_helpers.environment.profiles import (
    PROFILES,
    READY_MADE,
    Profile,
    get_profile,
    ready_made_models,
)
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.manifest import BASE, stage_path
from posttrain_helpers.recipes import load_recipe, recipe_names
from posttrain_helpers.stages.build import load_stage, resolve_model
from posttrain_helpers.stages.save import save_stage

OWN = """
method: sft
parent: base
data: {source: rows.jsonl}
args: {max_length: 2048}
"""


def test_default_is_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTTRAIN_PROFILE", raising=False)
    assert get_profile().name == "tiny"
    for nothing in ("", "  "):
        monkeypatch.setenv("POSTTRAIN_PROFILE", nothing)
        assert get_profile().name == "tiny"


def test_environment_variable_chooses_and_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_PROFILE", "qwen3")
    assert get_profile().name == "qwen3"
    assert get_profile("tiny").name == "tiny"


def test_the_ready_made_models_of_a_profile_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSTTRAIN_PROFILE", "qwen3")
    assert ready_made_models() == ["instruct", "ready_made_sft"]
    monkeypatch.setenv("POSTTRAIN_PROFILE", "tiny")
    assert ready_made_models() == []
    monkeypatch.setenv("POSTTRAIN_PROFILE", "qwen3")
    monkeypatch.setenv("POSTTRAIN_MODEL", str(tmp_path))
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(tmp_path))
    assert ready_made_models() == []  # they were made from another base


def test_a_profile_passes_through() -> None:
    profile = PROFILES["qwen3"]
    assert get_profile(profile) is profile


def test_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(CourseError, match=r"'qwen' does not exist; did you mean 'qwen3'\?.*tiny, smollm2"):
        get_profile("qwen")


def test_unknown_name_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_PROFILE", "nonsense")
    with pytest.raises(CourseError, match=r"POSTTRAIN_PROFILE.*'nonsense'"):
        get_profile()


def test_offline_profiles_ship_their_model_and_online_ones_pin_a_commit() -> None:
    for profile in PROFILES.values():
        if profile.offline:
            assert Path(profile.base_model).is_absolute()
            assert profile.revision_of(profile.base_model) is None
        else:
            assert len(profile.revision_of(profile.base_model)) == 40
            int(profile.revision_of(profile.base_model), 16)


# --- ready-made models ---


def test_the_names_of_the_ready_made_models() -> None:
    qwen3 = PROFILES["qwen3"]
    assert qwen3.model_named("base") == "Qwen/Qwen3-0.6B-Base"
    assert qwen3.model_named("instruct") == "Qwen/Qwen3-0.6B"
    assert qwen3.model_named("ready_made_sft") == "banghua/Qwen3-0.6B-SFT"
    assert qwen3.model_named("sft") is None
    assert PROFILES["smollm2"].model_named("base") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert resolve_model("instruct", "qwen3") == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    ("name", "profile", "having"),
    [("instruct", "tiny", "'qwen3'"), ("ready_made_sft", "smollm2", "'qwen3'")],
)
@pytest.mark.parametrize("use", [resolve_model, load_stage])
def test_a_profile_without_a_ready_made_model_names_those_that_have_it(
    name: str, profile: str, having: str, use
) -> None:
    sentence = f"profile '{profile}' has no ready-made model '{name}'; use the profile {having}, or give"
    with pytest.raises(CourseError, match=sentence):
        use(name, profile)


@pytest.mark.parametrize("name", [BASE, *READY_MADE])
def test_a_stage_cannot_take_the_name_of_a_ready_made_model(name: str) -> None:
    with pytest.raises(CourseError, match=f"'{name}' cannot name a stage; .* which are ready-made models"):
        stage_path(name, "qwen3")


def test_only_pinned_models_have_a_revision() -> None:
    assert all(len(revision) == 40 for revision in profiles._REVISIONS.values())
    assert PROFILES["qwen3"].revision_of("Qwen/Qwen3-0.6B") in profiles._REVISIONS.values()
    # Which commit of this one is meant is not known.
    assert PROFILES["qwen3"].revision_of("banghua/Qwen3-0.6B-SFT") is None
    # The id of a model of another profile is like any other id.
    assert PROFILES["tiny"].revision_of("Qwen/Qwen3-0.6B") is None


def test_a_stage_trained_from_a_ready_made_model_stays_up_to_date(
    random_model_dir: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest must hold the same identity of its parent that a later look at the parent gives."""
    from dataclasses import replace

    from posttrain_helpers.stages.build import _out_of_date
    from posttrain_helpers.stages.loading import load_model_and_tokenizer

    own = replace(PROFILES["tiny"], ready_made={"instruct": str(random_model_dir)})
    monkeypatch.setitem(PROFILES, "tiny", own)
    recipe = load_recipe("sft", "tiny", ["model=instruct"])
    model, tokenizer = load_model_and_tokenizer("instruct", profile="tiny", verbose=False)
    stage = save_stage(model, "sft", recipe, tokenizer=tokenizer)
    assert _out_of_date(stage, recipe, resolve_model("instruct", own), {}) == ""


# --- another base model and other recipes, by the environment ---


@pytest.mark.usefixtures("output_root")
def test_without_variables_a_profile_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POSTTRAIN_MODEL", "POSTTRAIN_OVERRIDES"):
        monkeypatch.setenv(name, " ")
    assert get_profile("qwen3") is PROFILES["qwen3"]
    assert profiles.changes_in_force() == []


@pytest.mark.usefixtures("output_root")
def test_a_directory_takes_the_place_of_the_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTTRAIN_MODEL", "mine")
    profile = get_profile("qwen3")
    assert profile.base_model == str((tmp_path / "mine").resolve())  # a kernel runs elsewhere
    assert resolve_model("base", "qwen3") == profile.base_model
    assert profile.revision_of(profile.base_model) is None
    assert (profile.name, profile.chat_template) == ("qwen3", "chatml")
    assert PROFILES["qwen3"].base_model == "Qwen/Qwen3-0.6B-Base"


@pytest.mark.usefixtures("output_root")
def test_a_hub_id_takes_the_place_of_the_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_MODEL", "owner/model")
    profile = get_profile("qwen3")
    assert (profile.base_model, profile.revision_of("owner/model")) == ("owner/model", None)
    assert get_profile("tiny").offline is False
    with pytest.raises(CourseError, match="'instruct' was made from the base model that POSTTRAIN_MODEL"):
        resolve_model("instruct", "qwen3")
    with pytest.raises(CourseError, match="the profile 'tiny' has no ready-made model 'instruct'"):
        resolve_model("instruct", "tiny")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"POSTTRAIN_MODEL": "owner/model"}, "^POSTTRAIN_MODEL would mix .*'tiny'.* or unset it"),
        ({"POSTTRAIN_OVERRIDES": "args.max_steps=2"}, "^POSTTRAIN_OVERRIDES would mix"),
        (
            {"POSTTRAIN_MODEL": "a/b", "POSTTRAIN_OVERRIDES": "seed=1"},
            "^POSTTRAIN_MODEL and POSTTRAIN_OVERRIDES would .* in POSTTRAIN_OUTPUT, or unset them",
        ),
    ],
)
def test_a_changed_profile_needs_an_output_directory_of_its_own(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POSTTRAIN_OUTPUT", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CourseError, match=words):
        get_profile("tiny")


def test_a_stage_of_another_base_model_is_out_of_date(
    random_model_dir: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain_helpers.stages.build import _out_of_date
    from posttrain_helpers.stages.loading import load_model_and_tokenizer

    monkeypatch.setenv("POSTTRAIN_MODEL", str(random_model_dir))
    recipe = load_recipe("sft", "qwen3")
    model, tokenizer = load_model_and_tokenizer("base", profile="qwen3", verbose=False)
    stage = save_stage(model, "sft", recipe, tokenizer=tokenizer)
    assert _out_of_date(stage, recipe, resolve_model("base", "qwen3"), {}) == ""
    monkeypatch.delenv("POSTTRAIN_MODEL")
    original = resolve_model("base", "qwen3")
    assert _out_of_date(stage, load_recipe("sft", "qwen3"), original, {}) == "'base' has changed"


# --- the sections of a profile for a CPU ---


@pytest.mark.parametrize("name", recipe_names())
def test_smollm2_trains_an_adapter(name: str, output_root: Path) -> None:
    small = load_recipe(name, "smollm2")
    about_adapters = name in ("lora", "qlora")  # which every profile trains, on the MLP
    targets = ["gate_proj", "up_proj", "down_proj"] if about_adapters else "all-linear"
    assert (small.lora["r"], small.lora["target_modules"]) == (16, targets)
    assert (load_recipe(name, "qwen3").lora is None) != about_adapters
    assert stage_path(small.stage, small.profile) == output_root / "smollm2" / "stages" / small.stage


@pytest.mark.parametrize("sections", ["", "profiles: {smollm2: {args: {max_length: 2048}}}"])
def test_a_recipe_for_all_profiles_or_with_a_section_of_its_own_stays_as_it_is(
    tmp_path: Path, sections: str
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN + sections, encoding="utf-8")
    recipe = load_recipe(path, "smollm2")
    assert recipe.own_args == {"max_length": 2048}
    assert recipe.data == {"source": "rows.jsonl"}


def test_a_recipe_without_a_section_for_the_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN + "profiles: {tiny: {}}", encoding="utf-8")
    with pytest.raises(CourseError, match="'own' has no section for the profile 'smollm2'; it has tiny"):
        load_recipe(path, "smollm2")


def test_a_profile_can_be_a_key() -> None:
    assert {profile: profile.name for profile in PROFILES.values()}[get_profile("smollm2")] == "smollm2"
    assert isinstance(get_profile("smollm2"), Profile)


# --- any other model ---


def test_any_model_can_be_trained_under_any_profile(
    random_model_dir: Path,
    tmp_path: Path,
    output_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import json

    from posttrain_helpers import cli
    from posttrain_helpers.environment import runtime

    monkeypatch.setenv("POSTTRAIN_PROFILE", "tiny")
    monkeypatch.setattr(runtime, "_current", None)
    turns = [("user", "question"), ("assistant", "The capital of France is Paris.")]
    rows = [
        {"messages": [{"role": role, "content": f"{content} {n}"} for role, content in turns]}
        for n in range(12)
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    line = f"train sft --profile qwen3 --name mine model={random_model_dir} data.source={source}"
    small = ["data.held_out_samples=2", "args.max_steps=1", "args.per_device_train_batch_size=2"]
    assert cli.main([*line.split(), *small]) == 0
    assert f"building stage 'mine' from '{random_model_dir}' (it does not" in capsys.readouterr().out
    manifest = json.loads((output_root / "qwen3/stages/mine/manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"] == str(random_model_dir)
    assert manifest["profile"] == "qwen3"
