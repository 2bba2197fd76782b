"""The command line: what it calls, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain_helpers import cli
from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.errors import CourseError
from posttrain_helpers.lessons import run as lessons
from posttrain_helpers.report import page

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "datasets",
    "matplotlib",
    "pandas",
    "scipy",
    "numpy",
    "papermill",
    "nbformat",
)


def test_without_arguments_the_help_is_printed_without_heavy_imports() -> None:
    program = (
        "import runpy, sys\n"
        "sys.argv = ['posttrain_helpers']\n"
        "try:\n    runpy.run_module('posttrain_helpers', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert "usage: python -m posttrain_helpers" in done.stdout
    for command in ("run", "train", "evaluate", "report", "pretrain"):
        assert re.search(rf"^ +{command} ", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Record what the commands would do."""
    made: list[tuple[object, ...]] = []
    monkeypatch.setattr(lessons, "run_lessons", lambda *arguments: made.append(("run", *arguments)))
    monkeypatch.setattr(
        page, "build_report", lambda profile: made.append(("report", profile)) or Path("r.html")
    )
    return made


@pytest.mark.parametrize("command", ["run 01 --split dev", "report --split dev", "run --split dev 01"])
def test_a_split_holds_for_the_process_and_what_it_starts(
    calls: list[tuple[object, ...]], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTTRAIN_SPLIT", "test")
    assert cli.main(command.split()) == 0
    assert os.environ["POSTTRAIN_SPLIT"] == "dev"
    assert calls[-1] == ("report", None)


def test_without_the_option_the_readers_own_split_stays(
    calls: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTTRAIN_SPLIT", "dev")
    assert cli.main(["report"]) == 0
    assert os.environ["POSTTRAIN_SPLIT"] == "dev"


@pytest.mark.parametrize("command", ["run", "evaluate", "report"])
def test_only_held_out_splits_can_be_measured_on(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--split", "train"])
    assert stopped.value.code == 2
    assert re.search(r"invalid choice: 'train' \(choose from '?dev'?, '?test'?\)", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run", [("run", [], None, None, False), ("report", None)]),
        (
            "run 01 03 --profile qwen3 --seed 4",
            [("run", ["01", "03"], "qwen3", 4, False), ("report", "qwen3")],
        ),
        ("run --seed 4 01", [("run", ["01"], None, 4, False), ("report", None)]),
        ("run 00 --inplace 01", [("run", ["00", "01"], None, None, True), ("report", "tiny")]),
        ("report --profile tiny", [("report", "tiny")]),
    ],
)
def test_run_and_report_call_their_modules(
    calls: list[tuple[object, ...]], line: str, expected: list[tuple[object, ...]]
) -> None:
    assert cli.main(line.split()) == 0
    assert calls == expected


@pytest.mark.parametrize(
    "line",
    [
        "run --bogus",
        "report 01",
        "fly",
        "run --seed x",
        "train",
        "evaluate --chat-template llama",
        "evaluate base --bogus",
    ],
)
def test_arguments_that_mean_nothing_are_refused(
    calls: list[tuple[object, ...]], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err
    assert calls == []


@pytest.mark.parametrize(
    "line",
    [
        "train sft args.learning_rate=1e-3 seed=2 --profile tiny",
        "train --profile tiny sft args.learning_rate=1e-3 seed=2",
    ],
)
def test_train_builds_the_stage_of_the_recipe(
    monkeypatch: pytest.MonkeyPatch, output_root: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from posttrain_helpers.environment import runtime
    from posttrain_helpers.stages import build as stages

    built = []
    monkeypatch.setattr(runtime, "setup", lambda profile: SimpleNamespace(profile=profile))
    monkeypatch.setattr(stages, "train_stage", lambda recipe, *_: built.append(recipe) or Path("stage"))
    assert cli.main(line.split()) == 0
    (recipe,) = built
    assert (recipe.name, recipe.profile, recipe.args["learning_rate"]) == ("sft", "tiny", 1e-3)
    assert re.fullmatch(r"sft-[0-9a-f]{6}", recipe.stage)
    assert re.search(r"^memory: sft \(full\) on 2.1 M parameters.* it fits", capsys.readouterr().out, re.M)


def test_training_starts_without_an_estimate_too(
    monkeypatch: pytest.MonkeyPatch, output_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from posttrain_helpers.environment import runtime
    from posttrain_helpers.stages import build as stages
    from posttrain_helpers.stages import planning as stage_planning

    def refuse(recipe: object) -> None:
        raise CourseError("nothing is known of its optimizer.")

    monkeypatch.setattr(runtime, "setup", lambda profile: SimpleNamespace(profile=profile))
    monkeypatch.setattr(stages, "train_stage", lambda recipe, *_: Path("stage"))
    monkeypatch.setattr(stage_planning, "plan_recipe", refuse)
    assert cli.main(["train", "sft", "--profile", "tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:-1] == ["memory: no estimate, because nothing is known of its optimizer.", "stage: stage"]


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch, output_root: Path) -> list[dict[str, object]]:
    """Record what `evaluate` would do; no model is loaded."""
    from posttrain_helpers.environment import runtime
    from posttrain_helpers.evaluation import runner, targets
    from posttrain_helpers.evaluation.board import board

    made: list[dict[str, object]] = []

    def evaluate(models: list[str], **options: object) -> list[SimpleNamespace]:
        made.append({"models": models, **options})
        return [SimpleNamespace(label=Path(model).name, to_dict=lambda: {"label": "x"}) for model in models]

    profile = SimpleNamespace(profile=SimpleNamespace(name="tiny"))
    monkeypatch.setattr(runtime, "setup", lambda name: profile)
    monkeypatch.setattr(runner, "evaluate", evaluate)
    monkeypatch.setattr(targets, "finished_models", lambda name: ["base", "dpo"])
    monkeypatch.setattr(board, "Board", lambda records, reference: f"the board, against {reference}")
    return made


DEFAULTS = {
    "suites": None,
    "profile": "tiny",
    "limit": None,
    "reference": "sft",
    "chat_template": None,
    "reuse": True,
}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("evaluate", {"models": ["base", "dpo"]}),
        ("evaluate base sft --limit 5", {"models": ["base", "sft"], "limit": 5}),
        (
            "evaluate --suites entities,mine.jsonl base --fresh sft --reference none",
            {
                "models": ["base", "sft"],
                "suites": ["entities", "mine.jsonl"],
                "reuse": False,
                "reference": None,
            },
        ),
        (
            "evaluate some/model --chat-template chatml --profile tiny",
            {"models": ["some/model"], "chat_template": "chatml"},
        ),
    ],
)
def test_evaluate_calls_the_runner_and_prints_the_board(
    evaluated: list[dict[str, object]],
    line: str,
    expected: dict[str, object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(line.split()) == 0
    assert evaluated == [{**DEFAULTS, **expected}]
    printed = capsys.readouterr().out
    assert f"the board, against {expected.get('reference', 'sft')}" in printed
    assert printed.count("record: ") == len(expected["models"])


def test_evaluate_compares_with_the_label_of_a_reference_that_is_named_by_its_place(
    evaluated: list[dict[str, object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    for place, label in ((str(tmp_path / "mine"), "mine"), ("some/model", "some-model")):
        assert cli.main(["evaluate", "base", place, "--reference", place]) == 0
        assert f"the board, against {label}\n" in capsys.readouterr().out


def test_evaluate_copies_the_records_into_one_file(
    evaluated: list[dict[str, object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "all.json"
    assert cli.main(["evaluate", "base", "sft", "--output", str(target)]) == 0
    assert json.loads(target.read_text(encoding="utf-8")) == [{"label": "x"}] * 2
    assert f"records: {target}" in capsys.readouterr().out


def test_evaluate_measures_a_model_and_a_mistake_is_exit_code_2(
    output_root: Path, random_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = tmp_path / "own.jsonl"
    questions.write_text('{"prompt": "A cow says", "answer": "moo"}', encoding="utf-8")
    line = ["evaluate", str(random_model_dir), "--suites", str(questions), "--profile", "tiny"]
    assert cli.main(line) == 0
    assert f"{random_model_dir.name}.json" in capsys.readouterr().out
    assert cli.main([*line, "--limit", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: limit must be a whole number")
    assert cli.main(["evaluate", str(random_model_dir), "--suites", "entites"]) == 2
    assert "did you mean 'entities'" in capsys.readouterr().err


def test_pretrain_gets_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain_helpers.tinyworld.pretraining import pretrain

    given = []
    monkeypatch.setattr(pretrain, "main", lambda argv: given.append(argv))
    assert cli.main(["pretrain", "--help", "--tokens", "1e6"]) == 0
    assert given == [["--help", "--tokens", "1e6"]]


def test_a_mistake_is_one_sentence_and_exit_code_2(
    output_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", "--profile", "tiny"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: there is nothing to report")
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["train", "sft", "--seeds", "", "--dry-run"], "an empty text was given (seeds)"),
        (["evaluate", "sft", ""], "an empty text was given (models)"),
        (["fetch", "smollm2", "--from", ""], "an empty text was given (origin)"),
        (["train", "sft", "--seeds", " ", "--dry-run"], "--seeds takes whole numbers"),
        (["train", "sft", "--save-steps", "-1"], "--save-steps must be at least 0, but it is -1"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    line: list[str], sentence: str, output_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line) == cli.EXIT_MISTAKE
    (said,) = capsys.readouterr().err.splitlines()
    assert sentence in said


@pytest.mark.parametrize(
    ("command", "missing"), [("train", "RECIPE"), ("prepare", "SOURCE, DIR"), ("evaluate", None)]
)
def test_words_that_may_be_left_out_are_not_required(
    command: str, missing: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if missing is None:
        assert cli.build_parser().parse_args([command]).models == []
        return
    with pytest.raises(SystemExit):
        cli.main([command])
    assert capsys.readouterr().err.endswith(f"required: {missing}\n")


def test_a_defect_is_not_dressed_up_as_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(profile: str | None) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(page, "build_report", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["report"])


def test_what_the_machine_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, output_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(profile: str | None) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(output_root / "tiny"))

    monkeypatch.setattr(page, "build_report", fail)
    assert cli.main(["report"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {output_root / 'tiny'} cannot be read or written: the file system is")


@pytest.mark.parametrize("line", ["report", "run 00", "train sft", "evaluate base"])
def test_an_output_that_is_a_file_is_one_sentence_for_every_command(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(tmp_path / "file"))
    assert cli.main([*line.split(), "--profile", "tiny"]) == 2
    assert "error: POSTTRAIN_OUTPUT names" in capsys.readouterr().err
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(tmp_path / "file" / "below"))
    assert cli.main([*line.split(), "--profile", "tiny"]) == 2
    assert capsys.readouterr().err.count("error: ") == 1
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_an_impossible_output_stops_evaluate_before_it_starts(
    evaluated: list[dict[str, object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "base", "--output", str(tmp_path)]) == 2
    assert "is a directory, but a file is to be written" in capsys.readouterr().err
    assert evaluated == []


def shell(arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "posttrain_helpers", *arguments.split()]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.run(command, stderr=subprocess.PIPE, encoding="utf-8", env=buffered, **options)


@pytest.mark.parametrize("arguments", ["", "train --help"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGPIPE and no such exit code")
def test_a_reader_who_is_gone_ends_it_quietly(arguments: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = shell(arguments, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (cli.EXIT_CLOSED_PIPE, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_behind_the_standard_output_is_a_sentence() -> None:
    with open("/dev/full", "w") as full:
        done = shell("", stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the standard output cannot be read or written: the disk is full")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437"])
def test_a_console_that_lacks_a_character_shows_another(encoding: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "POSTTRAIN_OUTPUT": str(tmp_path)}
    program = (
        "import sys\n"
        "from posttrain_helpers import cli\n"
        "cli._dispatch = lambda argv: print('building … 3 · 4 ☕ 一')\n"
        "cli.main([])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding).startswith("building ")


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_that_nothing_takes_is_refused_before_a_kernel_starts(
    output_root: Path, seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "00", "--seed", seed]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: the seed must be a whole number from 0 to 4294967295, but it is {seed}.\n"
    assert captured.out == ""
    assert not output_root.exists()


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(profile: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "build_report", interrupt)
    assert cli.main(["report"]) == 130
    assert capsys.readouterr().err.startswith("interrupted")


def test_a_failing_run_builds_no_report(
    calls: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise CourseError("lesson 00 stopped")

    monkeypatch.setattr(lessons, "run_lessons", fail)
    assert cli.main(["run"]) == 2
    assert calls == []


def test_the_commands_of_the_readme_exist_and_ci_runs_the_same_ones() -> None:
    root = repository_root()
    readme = (root / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^.*?python -m posttrain_helpers\b *(.*)$", "\n".join(_code(readme)), re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command.split("#")[0].strip().removesuffix(" }"))  # PowerShell's brace
        if words[:1] != ["pretrain"]:
            cli._parse(cli.build_parser(), words)

    install, test = "python -m pip install -r requirements.txt", "python -m pytest -n 2"
    for path in ("README.md", ".ci/run", ".github/workflows/tests.yml"):
        text = (root / path).read_text(encoding="utf-8")
        assert install in text, path
        assert re.search(rf"{re.escape(test)}$", text, re.MULTILINE), path


def _code(markdown: str) -> list[str]:
    """Return the fenced blocks of a Markdown text."""
    return re.findall(r"^```\w*\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)
