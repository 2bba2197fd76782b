"""Trackers by name, and keys that are written nowhere."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from posttrain_helpers import cli
from posttrain_helpers.environment import trackers
from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.errors import CourseError

LINE = "train sft args.max_steps=1 args.logging_steps=1 data.n_train=32 --name tracked --track"
SECRET = "a1b2c3-not-for-any-file"


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forget what a test writes into the environment, and look for .env in a directory of its own."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_tracker_that_is_not_installed_is_one_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output_root: Path
) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda name: False)
    assert cli.main([*LINE.split(), name]) == cli.EXIT_MISTAKE
    assert f"`python -m pip install {name}`" in capsys.readouterr().err


def test_the_command_line_knows_every_tracker() -> None:
    for name in trackers.TRACKERS:
        assert cli.build_parser().parse_args([*LINE.split(), name]).track == name


@pytest.mark.usefixtures("clean_environment")
def test_keys_get_into_no_file_and_no_line(
    output_root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import trainer

    Path(".env").write_text(
        f'# mine\nexport WANDB_API_KEY="{SECRET}"\nWANDB_MODE=offline\n', encoding="utf-8"
    )
    seen: list[list[str]] = []
    monkeypatch.setattr(trackers, "is_installed", lambda name: True)
    monkeypatch.setattr(
        trainer, "get_reporting_integration_callbacks", lambda names: seen.append(names) or []
    )
    assert cli.main([*LINE.split(), "wandb"]) == 0
    assert seen == [["wandb"]]
    assert (os.environ["WANDB_API_KEY"], os.environ["WANDB_MODE"]) == (SECRET, "offline")
    assert Path(os.environ["WANDB_DIR"]).is_relative_to(output_root)
    files = [path for path in output_root.rglob("*") if path.is_file()]
    assert any(path.name == "manifest.json" for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("clean_environment")
def test_a_dry_run_makes_no_directory(output_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda name: True)
    for more in ([], ["--seeds", "0,1"]):
        assert cli.main([*LINE.split(), "wandb", "--dry-run", *more]) == 0
        assert not (output_root / "tiny" / "tracking").exists()


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KEY_HERE=abc # mine", "abc"),
        ("KEY_HERE=abc#def", "abc#def"),
        ("KEY_HERE='abc # def' # mine", "abc # def"),
        ("KEY_HERE= # none yet", ""),
    ],
)
def test_remarks_are_no_part_of_a_key(line: str, value: str) -> None:
    Path(".env").write_text(line, encoding="utf-8")
    trackers.read_keys()
    assert os.environ["KEY_HERE"] == value


@pytest.mark.usefixtures("clean_environment")
def test_keys_in_another_encoding_are_one_sentence() -> None:
    Path(".env").write_bytes(b"KEY=\xff")
    with pytest.raises(CourseError, match=r"\.env is not in UTF-8; save it as such"):
        trackers.read_keys()


@pytest.mark.usefixtures("clean_environment")
def test_the_environment_counts_more_than_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("WANDB_MODE=online\n", encoding="utf-8")
    os.environ["WANDB_MODE"] = "disabled"
    trackers.read_keys()
    assert os.environ["WANDB_MODE"] == "disabled"


def test_git_ignores_the_file_with_keys() -> None:
    assert ".env" in (repository_root() / ".gitignore").read_text(encoding="utf-8").split()


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_the_curve(output_root: Path) -> None:
    assert cli.main([*LINE.split(), "tensorboard"]) == 0
    assert list((output_root / "tiny" / "tracking" / "tensorboard").rglob("events.out.tfevents.*"))
