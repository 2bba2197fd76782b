"""Lessons over seeds, on toy notebooks made here: what is run, what is kept, and what is asserted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from posttrain_helpers.cli import main
from posttrain_helpers.errors import CourseError
from posttrain_helpers.lessons import run as lessons
from posttrain_helpers.lessons import seeds
from posttrain_helpers.lessons.seeds import parse_seeds, run_seeds
from posttrain_helpers.report import fresh_seeds
from posttrain_helpers.report.fresh_seeds import check_claims, spread
from posttrain_helpers.statistics.claims import Bound, Claim

LESSON = "00_toy"
PARAMETERS = 'PROFILE = "tiny"\nSEED = 0'
# The claim holds up to seed 8 and its value is a tenth of the seed, the bound's a hundredth.
RESULTS = """
import time
from types import SimpleNamespace
from posttrain_helpers.report.results import write_results
from posttrain_helpers.statistics import Bound, Claim

profile = SimpleNamespace(name=PROFILE)
runtime = SimpleNamespace(profile=profile, seed=SEED, device="cpu", dtype="float32", precision="float32",
                          threads=1, versions={"torch": "2.13.0"}, started=time.time(), matmul_gflops=100.0)
verdict = "improved" if SEED <= 8 else "no_difference_shown"
claim = Claim("learns", "exact_match", 10, 0.0, SEED / 10, SEED / 10, -1.0, 1.0, 0.01, "improved", verdict)
write_results(LESSON, runtime, [claim], bounds=[Bound("small", SEED / 100, at_most=0.05)])
"""


def write_toy(
    directory: Path, *cells: tuple[str, list[str]], lesson: str = LESSON, text: str = "Toy"
) -> Path:
    """Write a lesson that claims what `RESULTS` says after running the given (source, tags) cells."""
    sources = [(PARAMETERS, ["parameters"]), *cells, (f"LESSON = {lesson!r}{RESULTS}", [])]
    code = [new_code_cell(source, metadata={"tags": tags}) for source, tags in sources]
    path = directory / f"{lesson}.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell(f"# {text}"), *code]), path)
    return path


@pytest.fixture
def directory(tmp_path: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of lessons; the table lies beside it, and nothing is in the repository."""
    directory = tmp_path / "notebooks"
    directory.mkdir()
    monkeypatch.setattr(lessons, "notebooks_directory", lambda: directory)
    monkeypatch.setattr(fresh_seeds, "seeds_path", lambda: tmp_path / "docs" / "seeds.json")
    return directory


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Run notebooks in this process, without a kernel, and list what was run."""
    ran: list[tuple[str, int]] = []

    def execute(
        source: Path,
        target: Path,
        profile: str,
        parameters: Mapping[str, object],
        variables: Mapping[str, str],
    ) -> Path:
        scope: dict[str, object] = {}
        with pytest.MonkeyPatch.context() as kernel:
            for name, value in variables.items():
                kernel.setenv(name, value)
            for cell in nbformat.read(source, as_version=4).cells:
                if cell.cell_type == "code":
                    exec(cell.source, scope)
                    if "parameters" in cell.metadata.get("tags", []):
                        scope |= parameters
        ran.append((source.stem, int(parameters["SEED"])))
        return target

    monkeypatch.setattr(lessons, "execute", execute)
    return ran


def table() -> dict[str, dict[str, object]]:
    return json.loads(fresh_seeds.seeds_path().read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("7", [7]),
        ("100-103", [100, 101, 102, 103]),
        ("20-22, 5,1,5", [1, 5, 20, 21, 22]),
        ("3-3", [3]),
        (" 4 , 2", [2, 4]),
    ],
)
def test_seeds_are_numbers_and_ranges(text: str, numbers: list[int]) -> None:
    assert parse_seeds(text) == numbers


@pytest.mark.parametrize("text", ["", "ten", "5-", "-5", "9-5", "1,,2", "1-2-3", "1.5", "1 2", "²", "1-x"])
def test_anything_else_is_a_sentence(text: str) -> None:
    with pytest.raises(CourseError, match=r"--seeds takes whole numbers and ranges such as 100-109"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("0-10000", "at most 10,000 seeds"), ("4294967296", "from 0 to 4294967295, but it is 4294967296")],
)
def test_too_many_seeds_and_too_large_ones_are_sentences(text: str, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        parse_seeds(text)


def test_a_table_has_one_run_per_claim_and_seed(
    directory: Path, runs: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy(directory)
    assert run_seeds([], range(1, 11)) == fresh_seeds.seeds_path()
    assert runs == [(LESSON, seed) for seed in range(1, 11)]
    entry = table()[LESSON]
    assert (entry["seeds"], entry["versions"]) == (list(range(1, 11)), {"torch": "2.13.0"})
    assert entry["claims"][0]["runs"]["9"] == {
        "held": False,
        "value": 0.9,
        "low": -1.0,
        "high": 1.0,
        "before": 0.0,
        "after": 0.9,
    }
    assert entry["claims"][1]["runs"]["6"] == {"held": False, "value": 0.06}
    frame = spread(LESSON)
    assert frame.loc["learns"].to_list() == pytest.approx([10, 8, 0.1, 0.55, 1.0])
    assert frame.loc["small"].to_list() == pytest.approx([10, 5, 0.01, 0.055, 0.1])
    printed = capsys.readouterr().out
    assert "seeds: 10, already measured: 0" in printed
    assert "2 of 2 claims held  (1 of 10, about 0 min left)" in printed
    assert "0 of 2 claims held  (10 of 10, about 0 min left)" in printed


def test_the_time_that_is_left_is_that_of_the_runs_so_far(
    directory: Path,
    runs: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_toy(directory)
    clock, works = [1e9], lessons.execute

    def execute(*arguments: object, **named: object) -> Path:
        clock[0] += 600 * (1 + len(runs))  # ten minutes, then twenty, then thirty
        return works(*arguments, **named)

    monkeypatch.setattr(lessons, "execute", execute)
    monkeypatch.setattr(seeds, "time", SimpleNamespace(time=lambda: clock[0]))
    run_seeds([], [1, 2, 3])
    lines = [line for line in capsys.readouterr().out.splitlines() if "claims held  (" in line]
    assert [re.search(r"seed \d +(\d+) s .*about (\d+) min left", line).groups() for line in lines] == [
        ("600", "20"),
        ("1200", "15"),
        ("1800", "0"),
    ]


@pytest.mark.parametrize(
    ("count", "held", "established"),
    [(10, 9, True), (10, 8, False), (9, 9, False), (20, 18, True), (20, 17, False), (11, 10, True)],
)
def test_a_claim_is_established_by_nine_of_ten_seeds(
    count: int, held: int, established: bool, directory: Path
) -> None:
    write_table({"learns": [(seed < held, 0.5) for seed in range(count)]})
    claims = [claim("learns", True), claim("another claim", True)]
    assert check_claims(LESSON, runtime(), claims)["asserted"].to_list() == [established, False]
    assert check_claims("01_other", runtime(), claims)["asserted"].to_list() == [False, False]


def test_a_lesson_that_was_never_measured_has_an_empty_spread(directory: Path) -> None:
    assert spread(LESSON).empty
    assert list(spread(LESSON).columns) == ["seeds", "held", "lowest", "median", "highest"]


def write_table(claims: Mapping[str, list[tuple[bool, float]]]) -> None:
    """Write a table in which each claim was held or not, with a value, on seeds 0, 1, ..."""
    rows = [
        {
            "name": name,
            "runs": {str(i): {"held": held, "value": value} for i, (held, value) in enumerate(runs)},
        }
        for name, runs in claims.items()
    ]
    fresh_seeds.seeds_path().parent.mkdir(exist_ok=True)
    fresh_seeds.seeds_path().write_text(json.dumps({LESSON: {"claims": rows}}), encoding="utf-8")


def claim(name: str, held: bool, at_least: float | None = None) -> Claim:
    verdict = "improved" if held else "worse"
    return Claim(name, "exact_match", 9, 0.25, 0.75, 0.5, 0.4, 0.6, 0.01, "improved", verdict, at_least)


def runtime(profile: str = "tiny", **changes: object) -> SimpleNamespace:
    return SimpleNamespace(profile=SimpleNamespace(name=profile, changes=changes))


@pytest.fixture
def established(directory: Path) -> None:
    """A table in which "learns" and "small" are established, and "shaky" is not."""
    write_table(
        {
            "learns": [(True, 0.1 * i) for i in range(10)],
            "shaky": [(i < 8, 0.2) for i in range(10)],
            "small": [(i > 0, 0.01 * i) for i in range(10)],
        }
    )


@pytest.mark.usefixtures("established")
def test_this_run_stands_beside_the_fresh_seeds() -> None:
    claims = [claim("learns", True), claim("shaky", False, at_least=0.5), claim("new", False)]
    frame = check_claims(LESSON, runtime(), claims, [Bound("small", 0.02, at_most=0.05)])
    columns = ["this run", "holds", "held on seeds", "lowest", "median", "highest", "asserted"]
    assert list(frame.columns) == columns
    assert frame.loc["learns"].to_list() == [0.5, True, "10 of 10", 0.0, 0.45, 0.9, True]
    # A claim with a bar is about the level, one without about the difference.
    assert frame.loc["shaky"].to_list() == [0.75, False, "8 of 10", 0.2, 0.2, 0.2, False]
    assert frame.loc["new", ["this run", "holds", "held on seeds", "asserted"]].to_list() == [
        0.5,
        False,
        "not measured",
        False,
    ]
    assert frame.loc["small"].to_list() == [0.02, True, "9 of 10", 0.0, 0.045, 0.09, True]


@pytest.mark.usefixtures("established")
def test_every_established_claim_that_fails_is_named() -> None:
    claims = [claim("learns", False), claim("shaky", False)]
    with pytest.raises(AssertionError) as caught:
        check_claims(LESSON, runtime(), claims, [Bound("small", 0.5, at_most=0.05)])
    sentences = str(caught.value)
    assert "'learns'" in sentences
    assert "'small'" in sentences
    assert "'shaky'" not in sentences


@pytest.mark.usefixtures("established")
@pytest.mark.parametrize(
    ("profile", "variables"),
    [
        (runtime("smollm2"), {}),
        (runtime(base_model="mine"), {}),
        (runtime(), {"POSTTRAIN_MODEL": "mine"}),
        (runtime(), {"POSTTRAIN_SPLIT": "dev"}),
        (runtime(), {seeds.MEASURE_VARIABLE: "1"}),
    ],
    ids=["another profile", "a changed profile", "another model", "dev items", "measuring"],
)
def test_what_the_seeds_did_not_measure_is_reported_and_not_asserted(
    profile: SimpleNamespace, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError):
        check_claims(LESSON, runtime(), [claim("learns", False)])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    frame = check_claims(LESSON, profile, [claim("learns", False)])
    columns = ["holds", "held on seeds", "highest", "asserted"]  # lessons read them under every profile
    assert frame.loc["learns", columns].to_list() == [False, "10 of 10", 0.9, False]
    note = None if seeds.MEASURE_VARIABLE in variables else "seeds: tiny, test"
    assert frame.columns.name == note
    assert note is None or note in frame._repr_html_()


@pytest.mark.parametrize(
    ("name", "value"),
    [("POSTTRAIN_SPLIT", "dev"), ("POSTTRAIN_OVERRIDES", "args.max_steps=1"), ("POSTTRAIN_MODEL", "mine")],
)
def test_another_split_model_or_recipe_is_refused(
    name: str, value: str, directory: Path, runs: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(directory)
    monkeypatch.setenv(name, value)
    with pytest.raises(CourseError, match=rf"about the course's own .* test items, but {name} would change"):
        run_seeds([], [1])
    assert runs == []
    assert not fresh_seeds.seeds_path().exists()


def test_a_look_at_few_seeds_leaves_the_table_of_many(
    directory: Path, runs: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy(directory)
    run_seeds([], [1, 2, 3])
    run_seeds([], [4])
    assert table()[LESSON]["seeds"] == [1, 2, 3]
    assert "the table keeps its 3 seeds; run at least as many to replace them" in capsys.readouterr().out
    run_seeds([], [4, 5, 6])
    assert table()[LESSON]["seeds"] == [4, 5, 6]


def test_cells_tagged_probe_are_left_out(directory: Path, runs: list[tuple[str, int]]) -> None:
    path = write_toy(directory, ("raise SystemError('a probe ran')", ["figure", "probe"]))
    before = path.read_bytes()
    run_seeds(["0"], [1])
    assert runs == [(LESSON, 1)]
    assert path.read_bytes() == before


def missing_names(path: Path, directory: Path) -> str:
    """Return what ruff says of names that only cells tagged probe define."""
    shortened = directory / path.name
    nbformat.write(seeds._without_probes(path), shortened)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--quiet", "--select", "F821", shortened]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("path", lessons.discover(), ids=lambda path: path.stem)
def test_no_lesson_needs_a_name_from_a_probe(path: Path, tmp_path: Path) -> None:
    assert missing_names(path, tmp_path) == ""


def test_a_name_from_a_probe_is_noticed(directory: Path, tmp_path: Path) -> None:
    path = write_toy(directory, ("x = 1", ["probe"]), ("print(x)", []))
    assert "Undefined name `x`" in missing_names(path, tmp_path)
    assert missing_names(write_toy(directory, ("x = 1", []), ("print(x)", [])), tmp_path) == ""


def test_lessons_measure_in_the_directory_of_their_seed_and_assert_nothing(
    directory: Path, output_root: Path, runs: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(seeds.MEASURE_VARIABLE, "")
    look = (
        "import os, pathlib; where = pathlib.Path(os.environ['POSTTRAIN_OUTPUT']); "
        "assert (where.name, os.environ['POSTTRAIN_MEASURE_ONLY']) == (str(SEED), '1')"
    )
    write_toy(directory, (look, []))
    run_seeds([], [4, 5])
    assert sorted(path.name for path in (output_root / "seeds").iterdir()) == ["4", "5"]
    assert (os.environ["POSTTRAIN_OUTPUT"], os.environ[seeds.MEASURE_VARIABLE]) == (str(output_root), "")


def test_what_was_measured_is_not_run_again_unless_its_code_changed(
    directory: Path, runs: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy(directory, ("x = 1", []), ("y = 1", ["probe"]))
    run_seeds([], [1, 2])
    runs.clear()
    run_seeds([], [2, 3])
    assert runs == [(LESSON, 3)]
    assert table()[LESSON]["seeds"] == [2, 3]
    assert "seeds: 2, already measured: 1" in capsys.readouterr().out

    runs.clear()
    write_toy(directory, ("x = 1", []), ("y = 2", ["probe"]), text="Other words")
    run_seeds([], [1, 2])
    assert runs == []
    write_toy(directory, ("x = 2", []), ("y = 2", ["probe"]))
    run_seeds([], [1])
    assert runs == [(LESSON, 1)]
    # A tag decides what runs, so it is part of the code.
    write_toy(directory, ("x = 2", ["probe"]), ("y = 2", ["probe"]))
    run_seeds([], [1])
    assert runs == [(LESSON, 1)] * 2


def test_a_notebook_that_was_edited_while_it_ran_is_run_again(
    directory: Path, runs: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_toy(directory, ("x = 1", []))
    works = lessons.execute

    def execute(source: Path, *rest: object, **named: object) -> Path:
        target = works(source, *rest, **named)
        write_toy(directory, ("x = 2", []))
        return target

    monkeypatch.setattr(lessons, "execute", execute)
    run_seeds([], [1])
    assert "x = 2" in path.read_text(encoding="utf-8")
    run_seeds([], [1])
    assert runs == [(LESSON, 1)] * 2


def test_fresh_runs_again_what_is_there(directory: Path, runs: list[tuple[str, int]]) -> None:
    write_toy(directory)
    run_seeds([], [1, 2])
    run_seeds([], [2], fresh=True)
    assert runs == [(LESSON, 1), (LESSON, 2), (LESSON, 2)]


def test_results_that_were_deleted_are_measured_again(
    directory: Path, output_root: Path, runs: list[tuple[str, int]]
) -> None:
    write_toy(directory)
    run_seeds([], [1])
    (output_root / "seeds" / "1" / "tiny" / "metrics" / f"{LESSON}.json").unlink()
    run_seeds([], [1])
    assert runs == [(LESSON, 1)] * 2


def test_a_failing_lesson_names_its_seed_and_what_ran_before_is_kept(
    directory: Path, runs: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(directory)
    works = lessons.execute

    def fails_on_two(
        source: Path, target: Path, profile: str, parameters: dict[str, object], **named: object
    ) -> Path:
        if parameters["SEED"] == 2:
            raise CourseError("lesson 00_toy stopped at cell 3.")
        return works(source, target, profile, parameters, **named)

    monkeypatch.setattr(lessons, "execute", fails_on_two)
    with pytest.raises(CourseError, match=r"^With seed 2: lesson 00_toy stopped at cell 3\.$"):
        run_seeds([], [1, 2, 3])
    assert not fresh_seeds.seeds_path().exists()
    monkeypatch.setattr(lessons, "execute", works)
    run_seeds([], [1, 2, 3])
    assert runs == [(LESSON, seed) for seed in (1, 2, 3)]


def test_a_run_that_fails_after_its_results_is_no_measurement(
    directory: Path, runs: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(directory)
    run_seeds([], [1])
    works = lessons.execute

    def fails_late(*arguments: object, **named: object) -> Path:
        works(*arguments, **named)
        raise CourseError("lesson 00_toy stopped at its last cell.")

    monkeypatch.setattr(lessons, "execute", fails_late)
    with pytest.raises(CourseError, match="stopped at its last cell"):
        run_seeds([], [1], fresh=True)
    monkeypatch.setattr(lessons, "execute", works)
    run_seeds([], [1])  # the mark of the first run does not speak for the second
    assert runs == [(LESSON, 1)] * 3


def test_the_table_names_the_versions_of_its_last_seed(
    directory: Path, output_root: Path, runs: list[tuple[str, int]]
) -> None:
    write_toy(directory)
    run_seeds([], [1, 2])
    path = output_root / "seeds" / "1" / "tiny" / "metrics" / f"{LESSON}.json"
    former = json.loads(path.read_text(encoding="utf-8")) | {"versions": {"torch": "2.12.0"}}
    path.write_text(json.dumps(former), encoding="utf-8")
    for order, version in (([1, 2], "2.13.0"), ([2, 1], "2.12.0")):
        run_seeds([], order)
        assert table()[LESSON]["versions"] == {"torch": version}
    assert len(runs) == 2


def test_a_lesson_that_writes_no_results_is_no_measurement(
    directory: Path, runs: list[tuple[str, int]]
) -> None:
    write_toy(directory)
    run_seeds([], [1])
    silent = [
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell("write_results()", metadata={"tags": ["probe"]}),
    ]
    nbformat.write(new_notebook(cells=silent), directory / f"{LESSON}.ipynb")
    # The results of the lesson as it was are still there, and must not pass for those of this run.
    for _ in range(2):
        with pytest.raises(CourseError, match=r"With seed 1: lesson 00_toy ended without writing .*'probe'"):
            run_seeds([], [1])


def test_two_claims_of_one_name_are_refused(directory: Path, runs: list[tuple[str, int]]) -> None:
    path = write_toy(directory)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].source = notebook.cells[-1].source.replace('Bound("small"', 'Bound("learns"')
    nbformat.write(notebook, path)
    with pytest.raises(CourseError, match=r"Lesson 00_toy has two claims or bounds named 'learns'; rename"):
        run_seeds([], [1])
    assert not fresh_seeds.seeds_path().exists()


def test_other_lessons_stay_in_the_table(directory: Path, runs: list[tuple[str, int]]) -> None:
    write_toy(directory)
    write_toy(directory, lesson="01_other")
    run_seeds(["00"], [1])
    run_seeds(["01"], [2])
    assert {lesson: entry["seeds"] for lesson, entry in table().items()} == {LESSON: [1], "01_other": [2]}


def test_the_command_reads_its_seeds_and_says_what_is_wrong(
    directory: Path, runs: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy(directory)
    assert main(["seeds", "0", "--seeds", "1-2"]) == 0
    assert main(["seeds", "0", "--seeds", "2", "--fresh"]) == 0
    assert [seed for _, seed in runs] == [1, 2, 2]
    assert main(["seeds", "0", "--seeds", "many"]) == 2
    assert main(["seeds", "07"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "'many' was given" in errors[0]
    assert "there is no lesson '07'" in errors[1]


@pytest.mark.slow
def test_two_calls_side_by_side_share_the_work_and_a_last_one_collects_it(
    directory: Path, runs: list[tuple[str, int]]
) -> None:
    write_toy(directory, ("1 / 0", ["probe"]))
    program = (
        "import pathlib, sys; from posttrain_helpers.lessons import run as lessons, seeds; "
        "from posttrain_helpers.report import fresh_seeds; "
        f"lessons.notebooks_directory = lambda: pathlib.Path({str(directory)!r}); "
        f"fresh_seeds.seeds_path = lambda: pathlib.Path({str(fresh_seeds.seeds_path())!r}); "
        "seeds.run_seeds([], [int(sys.argv[1])])"
    )
    calls = [
        subprocess.Popen([sys.executable, "-c", program, seed], stderr=subprocess.PIPE, text=True)
        for seed in ("8", "9")
    ]
    assert [(call.communicate(timeout=120)[1], call.returncode) for call in calls] == [("", 0)] * 2
    assert table()[LESSON]["seeds"] in ([8], [9])
    run_seeds([], [8, 9])
    assert runs == []
    assert spread(LESSON).loc["learns"].to_list() == pytest.approx([2, 1, 0.8, 0.85, 0.9])


def test_a_damaged_table_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_seeds, "seeds_path", lambda: tmp_path / "seeds.json")
    (tmp_path / "seeds.json").write_text('{"06": ', encoding="utf-8")
    with pytest.raises(CourseError, match=r"seeds\.json is damaged: .*take it from the repository again"):
        spread("06")


def test_a_long_name_is_shown_to_its_end(established: None) -> None:
    name = "a claim whose name has more characters than pandas shows unasked, in a notebook or in a terminal"
    frame = check_claims(LESSON, runtime(), [claim(name, True)])
    assert name in repr(frame)
    assert name in frame._repr_html_()
