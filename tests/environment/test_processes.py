"""What a launcher says in the environment, and the share of the batch that each process takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain_helpers import cli
from posttrain_helpers.environment import processes
from posttrain_helpers.environment.processes import check_launcher, joined_group, shared_batch
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.stages import save
from posttrain_helpers.stages.build import load_stage


def launched(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("count", "batch", "expected"),
    [
        (1, (8, 2, None), None),
        (2, (8, 2, None), (8, 1, None)),
        (2, (8, 1, None), (4, 1, None)),
        (4, (8, 2, None), (4, 1, None)),
        (8, (2, 8, None), (2, 1, None)),
        (6, (6, 4, None), (2, 2, None)),
        (2, (32, 1, 4), (16, 1, 4)),
        (2, (8, 4, 4), (8, 2, 2)),
        (2, (8, 4, 3), (4, 4, 3)),
    ],
)
def test_all_processes_together_make_the_batch_of_one(
    count: int, batch: tuple, expected: tuple | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, WORLD_SIZE=str(count), RANK="0")
    shared = shared_batch(*batch)
    if expected is None:
        assert shared == {}
        return
    rows, accumulated, sampled = expected
    assert shared.get("steps_per_generation") == sampled
    assert (shared["per_device_train_batch_size"], shared["gradient_accumulation_steps"]) == (
        rows,
        accumulated,
    )
    assert rows * accumulated * count == batch[0] * batch[1]
    if sampled:
        assert rows * sampled * count == batch[0] * batch[2], "replies that are sampled at once"


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, WORLD_SIZE="3", RANK="0")
    with pytest.raises(CourseError, match="3 processes cannot share a batch of 8 x 2 rows"):
        load_recipe("sft", "tiny")


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo", "ppo", "reward"])
def test_a_recipe_keeps_its_identity_on_several_processes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = load_recipe(name, "tiny")
    launched(monkeypatch, WORLD_SIZE="2", RANK="1")
    together = load_recipe(name, "tiny")
    assert together.hash == alone.hash
    assert together.own_args == alone.own_args
    rows = [
        recipe.args["per_device_train_batch_size"] * recipe.args.get("gradient_accumulation_steps", 1)
        for recipe in (alone, together)
    ]
    assert rows[0] == 2 * rows[1]


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"WORLD_SIZE": "2"}, "does not say which one"),
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}, "2 processes here"),
        ({"LOCAL_WORLD_SIZE": "2"}, "2 processes here"),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}, "has started one.*--multi_gpu"),
    ],
)
def test_a_launcher_that_starts_one_process_is_noticed(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, **variables)
    with pytest.raises(CourseError, match=sentence), joined_group(use_cpu=True):
        pass


@pytest.mark.parametrize(
    "variables",
    [{}, {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_WORLD_SIZE": "1"}, {"ACCELERATE_MIXED_PRECISION": "no"}],
)
def test_one_process_that_was_asked_for_is_none_too_few(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, **variables)
    check_launcher()


@pytest.mark.parametrize("command", ["evaluate base", "report", "run 00", "fetch smollm2"])
def test_other_commands_run_alone(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(monkeypatch, WORLD_SIZE="2", RANK="0")
    assert cli.main(command.split()) == cli.EXIT_MISTAKE
    assert f"{command.split()[0]} runs in one process" in capsys.readouterr().err


def test_a_process_that_is_not_the_main_one_lets_that_speak_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(cli.time, "sleep", waits.append)
    launched(monkeypatch, WORLD_SIZE="2", RANK="1")
    assert cli.main(["report"]) == cli.EXIT_MISTAKE
    assert waits == [cli.SECONDS_AFTER_THE_MAIN_PROCESS]
    assert capsys.readouterr().err.startswith("error in process 1: report runs in one process")


def test_only_the_main_process_locks(output_root, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, WORLD_SIZE="2", RANK="1")
    with save.stage_lock(output_root / "sft"):
        assert not list(output_root.glob(".*"))


def test_a_missing_parent_is_not_built_by_every_process(output_root, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, WORLD_SIZE="2", RANK="1")
    with pytest.raises(CourseError, match="build it first: python -m posttrain_helpers train sft"):
        load_stage("sft", "tiny")


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED"])
def test_an_engine_that_accelerate_leaves_out_on_cpus_is_refused(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, WORLD_SIZE="2", RANK="0", **{f"ACCELERATE_USE_{engine}": "true"})
    with pytest.raises(CourseError, match=f"asks for {engine}, but on CPUs"), joined_group(use_cpu=True):
        pass


CONFIGS = sorted((Path(processes.__file__).parents[1] / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_shipped_configs(config: Path) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    command = f"--config_file {config} --num_processes 4 -m posttrain_helpers train sft"
    arguments = launch_command_parser().parse_args(command.split())
    arguments, _, _ = _validate_launch_command(arguments)
    assert arguments.num_processes == 4
    assert arguments.mixed_precision == "no", "it would overrule the recipe's args.bf16 without a word"
    assert (arguments.multi_gpu, arguments.use_fsdp, arguments.use_deepspeed) == (
        config.stem == "ddp",
        config.stem == "fsdp2",
        config.stem.startswith("zero"),
    )
    if config.stem == "fsdp2":
        assert str(arguments.fsdp_version) == "2"
    if config.stem.startswith("zero"):
        assert str(arguments.zero_stage) == config.stem[-1]
    assert f"/{config.name} " in config.read_text(encoding="utf-8")


def test_four_configs_are_shipped() -> None:
    assert [path.stem for path in CONFIGS] == ["ddp", "fsdp2", "zero2", "zero3"]
