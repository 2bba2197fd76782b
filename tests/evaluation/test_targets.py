"""Which models an evaluation is about: their labels, and the sources that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain_helpers.environment.profiles import get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.targets import finished_models, label_of, labels_of, targets_of
from posttrain_helpers.stages.loading import load_model_and_tokenizer

TINY = get_profile("tiny")


def test_labels_are_made_of_names(random_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "my model").mkdir()
    sources = ["sft", "Qwen/Qwen3-0.6B", tmp_path / "my model", str(random_model_dir) + "/"]
    assert [label_of(source) for source in sources] == [
        "sft",
        "Qwen-Qwen3-0.6B",
        "my-model",
        random_model_dir.name,
    ]


def test_a_directory_of_a_name_that_is_taken_has_its_parents_before_it(
    output_root: Path, random_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain_helpers.recipes import load_recipe
    from posttrain_helpers.stages.save import save_stage

    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    own = save_stage(model, "mine", load_recipe("sft", "tiny"), metrics={}, tokenizer=tokenizer)
    for name in ("a/10", "b/10", "b/11", "models/base", "models/sft", "models/mine", "sft"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    sources = ["a/10", Path("b/10"), "b/11", "models/base", "models/sft", "models/mine", own, "base", "sft"]
    assert labels_of(sources, TINY) == [
        *("a-10", "b-10", "11", "models-base", "models-sft", "models-mine", "mine", "base", "sft")
    ]


def test_finished_models_are_base_and_the_stages_with_a_language_head(
    output_root: Path, random_model_dir: Path
) -> None:
    from posttrain_helpers.recipes import load_recipe
    from posttrain_helpers.stages.save import save_stage

    assert finished_models("tiny") == ["base"]
    for name, head in (("mine", None), ("judge", None), ("my_judge", "reward")):
        model, tokenizer = load_model_and_tokenizer(random_model_dir, head=head, verbose=False)
        save_stage(model, name, load_recipe("sft", "tiny"), metrics={}, tokenizer=tokenizer)
    (output_root / "tiny" / "stages" / "half").mkdir()
    assert finished_models("tiny") == ["base", "mine"]
    assert finished_models("qwen3") == ["base"]
    (target,) = targets_of("mine", TINY)
    assert (target.label, target.source, target.parent) == ("mine", "mine", "base")
    assert target.directory == output_root / "tiny" / "stages" / "mine"
    assert len(target.identity) == 16
    with pytest.raises(CourseError, match="'my_judge' is a reward model"):
        targets_of("my_judge", TINY)


def test_a_dictionary_gives_labels_and_a_name_alone_is_one_model(random_model_dir: Path) -> None:
    (named,) = targets_of({"mine": random_model_dir}, TINY)
    (alone,) = targets_of(random_model_dir, TINY)
    assert (named.label, alone.label) == ("mine", random_model_dir.name)
    assert (named.source, named.directory, named.parent) == (str(random_model_dir), random_model_dir, None)
    assert named.identity == alone.identity


def test_no_model_one_label_twice_and_labels_that_are_no_file_names_are_refused(
    random_model_dir: Path,
) -> None:
    with pytest.raises(CourseError, match="no model to evaluate"):
        targets_of([], TINY)
    with pytest.raises(CourseError, match="two models have the label 'base'"):
        targets_of(["base", random_model_dir, "base"], TINY)
    with pytest.raises(CourseError, match="cannot label a model"):
        targets_of({"a/b": random_model_dir}, TINY)


def test_a_misspelt_stage_is_named_with_the_nearest_one(output_root: Path) -> None:
    with pytest.raises(CourseError, match=r"'ppoo' is no stage; did you mean 'ppo'\? Otherwise: "):
        targets_of(["ppoo"], TINY)
    with pytest.raises(CourseError, match=r"^the model 'zzz' is not in the cache"):
        targets_of(["zzz"], TINY)
