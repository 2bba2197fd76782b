"""Several trainings of one recipe from one command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from posttrain_helpers import cli
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.manifest import saved_stages
from posttrain_helpers.stages.sweep import variants


def test_every_combination_is_trained() -> None:
    assert variants([], [], []) == [[]]
    assert variants(["a", "b"], ["args.beta=1, 2"], [0]) == [
        ["model=a", "args.beta=1", "seed=0"],
        ["model=a", "args.beta=2", "seed=0"],
        ["model=b", "args.beta=1", "seed=0"],
        ["model=b", "args.beta=2", "seed=0"],
    ]
    with pytest.raises(CourseError, match="--sweep needs a key and its values"):
        variants([], ["args.beta"], [])


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Leave the evaluation itself to its own tests."""
    from posttrain_helpers.evaluation import runner
    from posttrain_helpers.evaluation.board import board

    asked: list[list[str]] = []
    monkeypatch.setenv("POSTTRAIN_SPLIT", "test")
    monkeypatch.setattr(runner, "evaluate", lambda stages, **_: asked.append(stages))
    monkeypatch.setattr(board, "Board", lambda records, reference: "the board")
    return asked


LINE = "train sft args.max_steps=2 args.logging_steps=1 data.n_train=32"


def test_a_sweep_ends_in_a_table_on_dev(
    output_root: Path, boards: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"{LINE} --sweep args.learning_rate=1e-4,1e-3 --name rate"
    assert cli.main(line.split()) == 0
    printed = capsys.readouterr().out
    assert cli.os.environ["POSTTRAIN_SPLIT"] == "dev"
    stages = saved_stages("tiny")
    assert len(stages) == 2
    assert [sorted(asked) for asked in boards] == [sorted(stages)]
    rows = [line for line in printed.splitlines() if "at the end of the training" in line]
    assert len(rows) == 2
    assert rows[0].startswith("args.learning_rate=1e-4   rate-")
    assert printed.rstrip().endswith("the board")
    assert cli.main(line.split()) == 0, "a sweep that was interrupted goes on: what is there stays"
    assert capsys.readouterr().out.count("is already there") == 2


def test_one_of_several_models_is_chosen_by_number(
    random_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(tmp_path / "elsewhere"))
    line = f"{LINE} --models base,{random_model_dir} --name job --output-dir {tmp_path / 'out'} --model-index"
    assert cli.main([*line.split(), "1"]) == 0
    assert "from '" + str(random_model_dir) in capsys.readouterr().out
    capsys.readouterr()
    assert cli.main(line.replace(" --model-index", " --dry-run").split()) == 0
    both = re.findall(r"stages/(job-\w{6})$", capsys.readouterr().out, re.MULTILINE)
    stages = tmp_path / "out" / "tiny" / "stages"
    assert [path.name for path in stages.iterdir() if path.is_dir()] == both[1:]
    assert cli.main([*line.split(), "2"]) == cli.EXIT_MISTAKE
    assert "--model-index 2 names none of the 2 models" in capsys.readouterr().err


def test_a_mistake_in_one_variant_is_found_before_the_first_is_trained(
    output_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*LINE.split(), "--sweep", "args.learning_rate=1e-4,fast"]) == cli.EXIT_MISTAKE
    assert "args.learning_rate" in capsys.readouterr().err
    assert saved_stages("tiny") == []


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe of one's own that names two models."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "method: sft\nparent: base\nmodels: [base, sft]\ndata: {source: tinyworld/sft, n_train: 8}\n"
        "args: {max_steps: 1, max_length: 128}\n",
        encoding="utf-8",
    )
    return path


def test_the_models_of_a_recipe_are_those_of_the_option(
    recipe_file: Path, output_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", str(recipe_file), "--dry-run"]

    def planned(*more: str) -> list[str]:
        assert cli.main([*line, *more]) == 0
        return re.findall(r"stages/(mine\S*)$", capsys.readouterr().out, re.MULTILINE)

    base, sft = both = planned()
    assert planned("--models", "sft") == planned("--model-index", "1") == [sft]
    assert planned("model=sft") == [sft], "one model is said in place of several"
    assert planned("models=[sft, base]") == [sft, base]
    text = recipe_file.read_text(encoding="utf-8")
    recipe_file.write_text(text.replace("models: [base, sft]\n", ""), encoding="utf-8")
    assert planned("--models", "base,sft") == both, "the list is no part of a stage's identity"
    assert cli.main([*line, "--model-index", "0"]) == cli.EXIT_MISTAKE
    assert "names none of the 0 models" in capsys.readouterr().err
    assert cli.main([*line, "--models", " , "]) == cli.EXIT_MISTAKE
    assert "--models names no model; found ' , '" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("models: base", "recipe 'mine': models must be a list"),
        ("models: [base, 3]", "must be text"),
        ("models: []", "recipe 'mine': models must be something that is not empty"),
        ("models: ['']", "must be text that is not empty"),
        ("models: [base]\nmodel: sft", "recipe 'mine': model and models both say what to start from"),
        ("models: [base, bse]", "'bse'"),
    ],
)
def test_a_wrong_list_of_models_is_one_sentence(
    recipe_file: Path, output_root: Path, written: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = recipe_file.read_text(encoding="utf-8")
    recipe_file.write_text(text.replace("models: [base, sft]", written), encoding="utf-8")
    assert cli.main(["train", str(recipe_file), "--dry-run"]) == cli.EXIT_MISTAKE
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
