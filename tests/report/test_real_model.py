"""The page of the real model: what it shows, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from evaluation_records import record, suite
from lesson_records import claim, write_lesson

from posttrain_helpers import cli
from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.records import write_record
from posttrain_helpers.lessons.run import select
from posttrain_helpers.report import fresh_seeds, real_model, real_model_results
from posttrain_helpers.report.real_model import read_notes, update_page
from posttrain_helpers.report.real_model_results import read_measured

LESSONS = ["01_supervised_fine_tuning", "08_ppo"]
SFT = LESSONS[0]
ECE = {"name": "calibration error", "value": 0.07, "at_least": None, "at_most": 0.05}


@pytest.fixture(autouse=True)
def docs(output_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own, without results."""
    repository = tmp_path / "repository"
    for module in (real_model, real_model_results, fresh_seeds):
        monkeypatch.setattr(module, "repository_root", lambda: repository)
    (repository / "docs").mkdir(parents=True)
    return repository / "docs"


def page() -> str:
    return update_page(LESSONS).read_text(encoding="utf-8")


def write_real(root: Path, seed: int = 0, claims: list | None = None, below: str = "", **changes) -> None:
    """Write the results of the lesson on SFT with the real model."""
    write_lesson(root, "99_elsewhere", claims or [claim()], seed=seed, profile="smollm2", **changes)
    written = root / "tiny" / "metrics" / "99_elsewhere.json"
    target = root / below / "smollm2" / "metrics" / f"{SFT}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(written.read_text(encoding="utf-8").replace("99_elsewhere", SFT), encoding="utf-8")
    written.unlink()


def cells(text: str, first: str) -> list[str]:
    """Return the cells of the row that begins with a text."""
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in row.strip("|").split(" | ")][1:]


def test_nothing_was_run() -> None:
    text = page()
    for lesson in LESSONS:
        (row,) = [line for line in text.splitlines() if f"/{lesson}.ipynb" in line]
        assert row.endswith("| - | not run | not run |")
    assert "## 01" not in text
    assert "--suites instructions_en,dialogues_en,refusals_en" in text
    assert read_measured() == real_model_results.Measured()


def test_both_models_stand_side_by_side(output_root: Path) -> None:
    write_lesson(
        output_root, SFT, [claim()], matmul_gflops=155.0, environment={"device": "cpu", "threads": 2}
    )
    write_real(
        output_root,
        claims=[claim(after=0.4, difference=0.239, low=0.15, high=0.33, n=320), claim(name="polite")],
        bounds=[ECE],
        seconds=600.0,
        training_seconds=420.0,
        peak_cpu_mb=2048.0,
        environment={"device": "cpu", "dtype": "float32", "precision": "float32, bfloat16 in training"},
    )
    text = page()
    assert "| held-out entities answered | 0.161 → 0.934, improved | 0.161 → 0.400, improved |" in text
    assert cells(text, "difference") == ["+0.773 (0.701 to 0.832)", "+0.239 (0.150 to 0.330)"]
    assert cells(text, "items") == ["196", "320"]
    assert cells(text, "time") == ["48 s, training 0.0 s", "10 min 0 s, training 7 min 0 s"]
    assert cells(text, "peak memory") == ["912 MB", "2,048 MB"]
    assert cells(text, "machine") == [
        "cpu, 2 threads, 155 GFLOP/s",
        "cpu, float32, bfloat16 in training",
    ]
    assert cells(text, "run") == ["seed 0, 2026-01-02"] * 2
    assert cells(text, "held on seeds") == ["one run only"] * 2
    assert cells(text, "polite")[0] == "not measured"
    assert cells(text, "calibration error")[1] == "0.070, not at most 0.05"
    assert "08 PPO" in text
    assert "## 08" not in text


def test_a_lesson_under_one_profile_only(output_root: Path) -> None:
    write_real(output_root, claims=[claim(verdict="no_difference_shown"), claim(name="other")])
    text = page()
    assert "| held-out entities answered | not run | 0.161 → 0.934, no difference shown |" in text
    assert text.index("|  | smollm2 | tiny |") > text.index("## 01")
    assert cells(text, "verdict") == ["no difference shown; promised: improved", "not run"]
    assert cells(text, "other")[0] == "not run"


def test_what_was_measured_stays(output_root: Path, monkeypatch: pytest.MonkeyPatch, docs: Path) -> None:
    write_lesson(output_root, SFT, [claim()], extra={"rates": [0.1] * 100})
    write_real(output_root)
    before = page()
    assert "rates" not in (docs / "real_model.json").read_text(encoding="utf-8")
    shutil.rmtree(output_root)
    assert page() == before
    write_lesson(output_root, SFT, [claim(after=0.5)])  # run again, elsewhere
    text = page()
    assert "| 0.161 → 0.500, improved | 0.161 → 0.934, improved |" in text


@pytest.mark.parametrize(
    ("seeds", "failing", "shown"),
    [
        ((1,), None, "2 of 2, 0.773 to 0.773"),
        ((1, 2), None, "3 of 3, 0.773 to 0.773, established"),
        ((1, 2), 2, "2 of 3, 0.773 to 0.773"),
        ((2, 10), None, "3 of 3, 0.773 to 0.773, established"),
    ],
)
def test_seeds_of_the_real_model(output_root: Path, seeds: tuple, failing: int | None, shown: str) -> None:
    write_real(output_root)
    for seed in seeds:
        verdict = "no_difference_shown" if seed == failing else "improved"
        write_real(output_root, seed, [claim(verdict=verdict)], below=f"seeds/{seed}")
    text = page()
    assert cells(text, "held on seeds")[0] == shown
    assert cells(text, "run")[0].startswith("seed 0,")
    assert list(read_measured().lessons[SFT]["smollm2"].seeds) == [str(seed) for seed in (0, *seeds)]


def test_seeds_of_the_tiny_model_have_their_own_table(output_root: Path, docs: Path) -> None:
    write_lesson(output_root, SFT, [claim()])
    runs = {str(seed): {"held": True, "value": 0.7 + seed / 1000} for seed in range(100, 110)}
    table = {SFT: {"claims": [{"name": "held-out entities answered", "runs": runs}]}}
    (docs / "seeds.json").write_text(json.dumps(table), encoding="utf-8")
    assert cells(page(), "held on seeds")[0] == "10 of 10, 0.800 to 0.809, established"


def test_what_people_write_is_shown_and_kept(output_root: Path, docs: Path) -> None:
    notes = (
        f"{SFT}:\n  text: |\n    It answers *at length*.\n  replies:\n"
        "    - prompt: Hi\n      before: |\n        a <b>\n        c | d\n      after: Hello.\n"
        "english: {text: Few items.}\n"
    )
    (docs / "real_model_notes.yaml").write_text(notes, encoding="utf-8")
    write_real(output_root)
    for _ in range(2):
        text = page()
        assert "It answers *at length*.\n" in text
        assert "> *before:* a &lt;b&gt;<br>c | d\n>\n> *after:* Hello." in text
        assert text.rstrip().endswith("Few items.")
    assert (docs / "real_model_notes.yaml").read_text(encoding="utf-8") == notes


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("02_supervised: {text: lost}", "a text about '02_supervised', which is no part of the page"),
        (f"{SFT}: {{txt: lost}}", "is an unknown field"),
        (f"{SFT}: [", "is not valid YAML"),
    ],
)
def test_notes_that_would_be_lost(docs: Path, text: str, sentence: str) -> None:
    (docs / "real_model_notes.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=sentence):
        page()


def test_the_notes_of_the_repository_belong_to_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_model, "repository_root", repository_root)
    assert real_model.notes_path().is_file()
    read_notes([*(path.stem for path in select()), "english"])


@pytest.mark.parametrize("profile", ["tiny", "smollm2"])
def test_a_damaged_results_file(output_root: Path, profile: str) -> None:
    path = output_root / profile / "metrics" / f"{SFT}.json"
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CourseError, match=r"is damaged: .*delete it and run its lesson again"):
        page()


def test_results_in_a_wrong_place(output_root: Path) -> None:
    write_lesson(output_root, SFT, [claim()], profile="smollm2")
    with pytest.raises(CourseError, match="smollm2 / test, which do not belong there"):
        page()


def test_damaged_numbers_are_not_overwritten(docs: Path) -> None:
    (docs / "real_model.json").write_text('{"lessons": 3}', encoding="utf-8")
    with pytest.raises(CourseError, match=r"real_model\.json: lessons must be keys and values"):
        page()
    assert (docs / "real_model.json").read_text(encoding="utf-8") == '{"lessons": 3}'
    assert not (docs / "real_model.md").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("POSTTRAIN_SPLIT", "dev"), ("POSTTRAIN_OVERRIDES", "args.max_steps=1"), ("POSTTRAIN_MODEL", "mine")],
)
def test_what_others_measure_has_no_place_there(
    monkeypatch: pytest.MonkeyPatch, docs: Path, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(CourseError, match=f"the page is about the course's own .* but {name} would change"):
        page()
    assert not (docs / "real_model.json").exists()


def test_results_of_changed_recipes_are_refused(output_root: Path) -> None:
    write_lesson(output_root, SFT, [claim()], environment={"changes": "POSTTRAIN_OVERRIDES=args.max_steps=1"})
    with pytest.raises(CourseError, match=rf"{SFT}\.json was measured with POSTTRAIN_OVERRIDES=args"):
        page()


def english(label: str, right: list[bool | None], parent: str | None, **changes) -> None:
    suites = [suite("refusals_en", right, **changes), suite("entities", [True, False])]
    write_record(record(label, suites, parent=parent, profile="smollm2", device="cpu", seconds=90.0))


def test_english_suites_before_and_after(output_root: Path) -> None:
    english("base", [True] * 8 + [False] * 2 + [None], None)
    english("sft", [False] * 7 + [True] * 3 + [None], "base")
    english("dpo", [False] * 7 + [True] * 3, "sft", ids=tuple(f"other/{n}" for n in range(10)))
    text = page()
    assert "entities |" not in text
    base, sft, dpo = (cells(text, label) for label in ("base", "sft", "dpo"))
    assert base[:2] == ["-", "8 of 10 (0.490 to 0.943)"]
    assert sft[0] == "base"
    assert sft[1].startswith("3 of 10 (0.108 to 0.603) [+2 −7: ")
    assert dpo[1] == "3 of 10 (0.108 to 0.603)"  # other items allow no pairs
    change = read_measured().english["sft"].suites["refusals_en"].change
    assert change.low < -0.5 < 0 < change.p
    shutil.rmtree(output_root)
    assert page() == text


def test_replies_are_compared_item_by_item(output_root: Path) -> None:
    ids = tuple(f"refusals_en/{number}" for number in range(10))
    english("base", [True] * 4 + [False] * 6, None, ids=ids)
    english("sft", [False] * 6 + [True] * 4, "base", ids=ids[::-1])
    page()
    change = read_measured().english["sft"].suites["refusals_en"].change
    assert (change.gained, change.lost) == (0, 0)


def test_a_stage_whose_parent_was_not_evaluated_is_compared_with_the_base(output_root: Path) -> None:
    english("base", [True] * 10, None)
    english("dpo", [True] * 10, "sft")
    assert cells(page(), "dpo")[0] == "base"


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["real-model"]) == 0
    assert "real_model.md" in capsys.readouterr().out
    assert "08_ppo.ipynb" in real_model.page_path().read_text(encoding="utf-8")
