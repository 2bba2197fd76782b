"""Finding and executing lessons, on small notebooks made here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from lesson_records import claim
from lesson_records import write_lesson as write_metrics
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from notebook_freshness import check_freshness

from posttrain_helpers.errors import CourseError
from posttrain_helpers.lessons import run as lessons
from posttrain_helpers.lessons.run import discover, execute, run_lessons, select
from posttrain_helpers.report.results import metrics_path, read_results

PARAMETERS = 'PROFILE = "tiny"\nSEED = 0'
RESULTS = """
import time
from types import SimpleNamespace
from posttrain_helpers.report.results import write_results

profile = SimpleNamespace(name=PROFILE)
runtime = SimpleNamespace(profile=profile, seed=SEED, device="cpu", dtype="float32", precision="float32",
                          threads=1, versions={}, started=time.time(), matmul_gflops=100.0)
claim = dict(name="answers", metric="exact_match", n=10, before=0.1, after=0.9, difference=0.8,
             low=0.5, high=0.9, p=0.01, expected="improved", verdict="improved")
write_results(LESSON, runtime, [claim])
"""


def write_notebook(path: Path, *sources: str, parameters: str | None = PARAMETERS) -> Path:
    """Write a lesson: a title, the parameters cell, then one code cell for each source."""
    cells = [new_markdown_cell("# A lesson")]
    if parameters is not None:
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [new_code_cell(source) for source in sources]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


def write_lesson(path: Path, *sources: str) -> Path:
    """Write a lesson that also writes its results."""
    return write_notebook(path, *sources, f"LESSON = {path.stem!r}{RESULTS}")


def texts(path: Path) -> list[str]:
    """Return what the code cells of an executed notebook printed, cell by cell."""
    cells = nbformat.read(path, as_version=4).cells
    return ["".join(output.get("text", "") for output in cell.get("outputs", [])) for cell in cells]


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    directory = tmp_path / "notebooks"
    for name in (
        "01_second.ipynb",
        "00_first.ipynb",
        "10_last.ipynb",
        "scratch.ipynb",
        "1_x.ipynb",
        "16_a__b.ipynb",
    ):
        write_notebook(directory / name)
    return directory


def test_lessons_are_found_in_reading_order(notebooks: Path) -> None:
    assert [path.stem for path in discover(notebooks)] == ["00_first", "01_second", "10_last"]


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        ([], ["00_first", "01_second", "10_last"]),
        (["10", "1"], ["01_second", "10_last"]),
        (["01_second", "notebooks/01_second.ipynb"], ["01_second"]),
    ],
)
def test_lessons_are_selected_by_number_name_or_file(
    notebooks: Path, names: list[str], stems: list[str]
) -> None:
    assert [path.stem for path in select(names, notebooks)] == stems


def test_a_lesson_of_two_parts_is_selected_as_a_whole_or_by_part(notebooks: Path) -> None:
    for name in ("02a_half.ipynb", "02b_other_half.ipynb"):
        write_notebook(notebooks / name)
    both = ["02a_half", "02b_other_half"]
    assert [path.stem for path in discover(notebooks)] == ["00_first", "01_second", *both, "10_last"]
    assert [path.stem for path in select(["02"], notebooks)] == both
    assert [path.stem for path in select(["2"], notebooks)] == both
    assert [path.stem for path in select(["2b"], notebooks)] == ["02b_other_half"]
    assert [path.stem for path in select(["02a", "0"], notebooks)] == ["00_first", "02a_half"]
    with pytest.raises(CourseError, match="no lesson '1a'"):
        select(["1a"], notebooks)


def test_an_unknown_lesson_is_a_sentence_with_the_known_ones(notebooks: Path) -> None:
    for name in ("07", "", ".", "./"):
        with pytest.raises(CourseError, match=rf"no lesson '{name}'.*00_first, 01_second, 10_last"):
            select(["01", name], notebooks)


def test_an_empty_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="no lesson was found in"):
        select([], tmp_path)


@pytest.mark.slow
def test_lessons_run_in_order_with_the_parameters_and_a_line_each(
    tmp_path: Path, output_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lesson(tmp_path / "00_first.ipynb", "print(PROFILE, SEED)")
    before = path.read_bytes()
    write_lesson(
        tmp_path / "01_second.ipynb", "import os; print(os.environ['POSTTRAIN_PROFILE'], os.getcwd())"
    )
    copies = run_lessons(profile="tiny", seed=7, directory=tmp_path)

    assert copies == [
        output_root / "tiny" / "notebooks" / name for name in ("00_first.ipynb", "01_second.ipynb")
    ]
    assert "tiny 7\n" in texts(copies[0])
    assert f"tiny {tmp_path}\n" in texts(copies[1])
    assert [result.seed for result in read_results("tiny")] == [7, 7]
    assert path.read_bytes() == before
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["profile", "00_first", "01_second"]
    assert lines[1].endswith("answers: 0.1 -> 0.9 (improved)")


def test_an_old_file_of_another_lesson_stops_no_run(output_root: Path) -> None:
    write_metrics(output_root, "00_first", [claim()])
    metrics_path("01_second", "tiny").write_text('{"lesson": "01_second"}', encoding="utf-8")
    assert lessons._headline("00_first", "tiny", 0.0).endswith("(improved)")


def test_the_run_stops_at_the_first_failing_lesson_and_names_the_cell(
    tmp_path: Path, output_root: Path
) -> None:
    write_notebook(tmp_path / "00_first.ipynb", "x = 1", "# a comment\nraise KeyError('lost')", "y = 2")
    write_lesson(tmp_path / "01_second.ipynb")
    sentence = r"lesson 00_first stopped at cell 4 of 5 \('# a comment'\) with KeyError: 'lost'"
    with pytest.raises(CourseError, match=sentence):
        run_lessons(directory=tmp_path)
    copies = output_root / "tiny" / "notebooks"
    assert [path.name for path in copies.iterdir()] == ["00_first.ipynb"]
    assert "KeyError" in (copies / "00_first.ipynb").read_text(encoding="utf-8")


def test_a_kernel_that_dies_is_a_sentence(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "00_first.ipynb", "import os, time\ntime.sleep(0.2)\nos._exit(9)")
    with pytest.raises(CourseError, match=r"kernel of lesson 00_first died in cell 3 of 3 .*memory"):
        execute(path, tmp_path / "copy" / path.name, "tiny", {"PROFILE": "tiny", "SEED": 0})


def test_a_lesson_that_writes_no_results_fails(tmp_path: Path, output_root: Path) -> None:
    path = write_notebook(tmp_path / "00_first.ipynb")
    stale = output_root / "tiny" / "metrics" / "00_first.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}", encoding="utf-8")
    os.utime(stale, (1, 1))
    with pytest.raises(CourseError, match="ended without writing"):
        run_lessons([path.stem], directory=tmp_path)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [(None, "0 cells tagged 'parameters'"), ('PROFILE = "tiny"', "does not set SEED")],
)
def test_a_lesson_without_its_parameters_is_refused(
    tmp_path: Path, parameters: str | None, words: str
) -> None:
    path = write_notebook(tmp_path / "00_first.ipynb", parameters=parameters)
    with pytest.raises(CourseError, match=words):
        execute(path, tmp_path / "copy.ipynb", "tiny", {"PROFILE": "tiny", "SEED": 0})


def test_a_broken_notebook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "00_first.ipynb"
    path.write_text("not a notebook", encoding="utf-8")
    with pytest.raises(CourseError, match=r"00_first\.ipynb is no valid notebook"):
        execute(path, tmp_path / "copy.ipynb", "tiny")


def test_the_kernel_is_this_interpreter_whatever_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jupyter_client.kernelspec import KernelSpecManager

    decoy = tmp_path / "jupyter" / "kernels" / "python3"
    decoy.mkdir(parents=True)
    (decoy / "kernel.json").write_text(
        '{"argv": ["no-such-python", "{connection_file}"], "display_name": "decoy", "language": "python"}',
        encoding="utf-8",
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    assert KernelSpecManager().get_kernel_spec("python3").display_name == "decoy"
    # Braces in a path are a format string to papermill.
    path = write_notebook(tmp_path / "{a}" / "00_first.ipynb", "import sys; print(sys.executable)")
    copy = execute(path, tmp_path / "{b}" / path.name, "tiny")
    assert copy == tmp_path / "{b}" / path.name
    assert texts(copy)[-1].strip() == sys.executable


@pytest.mark.slow
def test_inplace_records_fresh_outputs_that_do_not_change_from_run_to_run(
    tmp_path: Path, output_root: Path
) -> None:
    path = write_lesson(
        tmp_path / "00_first.ipynb",
        "import sys, tempfile; print(sys.executable, tempfile.gettempdir()); object()",
        "from posttrain_helpers.environment.paths import *\nprint(output_root(), repository_root())",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
        "print('a', flush=True); print('b', file=sys.stderr, flush=True); print('10 %\\r100 %')",
    )
    assert check_freshness(path) == ["the notebook was never executed"]
    run_lessons(inplace=True, directory=tmp_path)
    first = path.read_bytes()
    assert check_freshness(path) == []
    printed = texts(path)
    assert printed[2].split()[1] == "$TMP"
    assert printed[3] == "trainer_output .\n"
    assert "100 %" in printed[5]
    assert "10 %\r" not in printed[5]
    for noise in (
        b"papermill",
        b"iopub",
        b"injected",
        str(tmp_path).encode(),
        sys.prefix.encode(),
        b"at 0x7",
    ):
        assert noise not in first
    run_lessons(inplace=True, directory=tmp_path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("options", [{"profile": "qwen3"}, {"seed": 1}])
def test_inplace_keeps_the_committed_parameters(notebooks: Path, options: dict[str, object]) -> None:
    with pytest.raises(CourseError, match="--inplace records the notebooks as committed"):
        run_lessons(inplace=True, directory=notebooks, **options)


@pytest.mark.slow
def test_a_run_on_dev_leaves_what_was_measured_on_test(
    tmp_path: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lesson(tmp_path / "00_first.ipynb", "import os; print(os.environ.get('POSTTRAIN_SPLIT'))")
    run_lessons(directory=tmp_path, seed=1)
    before = {path: path.read_bytes() for path in output_root.rglob("*") if path.is_file()}
    monkeypatch.setenv("POSTTRAIN_SPLIT", "dev")
    (copy,) = run_lessons(directory=tmp_path, seed=2)

    assert copy == output_root / "tiny" / "dev" / "notebooks" / "00_first.ipynb"
    assert "dev\n" in texts(copy)
    assert "split dev" in capsys.readouterr().out
    assert [(result.seed, result.split) for result in read_results("tiny")] == [(2, "dev")]
    monkeypatch.delenv("POSTTRAIN_SPLIT")
    assert [(result.seed, result.split) for result in read_results("tiny")] == [(1, "test")]
    assert {path: path.read_bytes() for path in before} == before


def test_inplace_records_the_reported_split_only(
    notebooks: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTTRAIN_SPLIT", "dev")
    with pytest.raises(CourseError, match=r"--inplace records .* but the split 'dev' would change"):
        run_lessons(inplace=True, directory=notebooks)
    assert not output_root.exists()


@pytest.mark.parametrize("variable", ["POSTTRAIN_MODEL", "POSTTRAIN_OVERRIDES"])
def test_inplace_records_nothing_that_the_environment_changes(
    variable: str, notebooks: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "seed=1")
    with pytest.raises(CourseError, match=f"--inplace records .* but {variable} would change"):
        run_lessons(inplace=True, directory=notebooks)


def test_a_kernel_finds_the_base_model_that_a_relative_path_names(
    tmp_path: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTTRAIN_MODEL", "mine")
    code = "from posttrain_helpers import get_profile; print(get_profile().base_model)"
    path = write_notebook(tmp_path / "elsewhere" / "00_first.ipynb", code)
    copy = execute(path, tmp_path / "copy.ipynb", "qwen3")
    assert texts(copy)[-1].strip() == str((tmp_path / "mine").resolve())


def test_a_kernel_gets_variables_of_its_own(tmp_path: Path, output_root: Path) -> None:
    code = "import os; print(os.environ['POSTTRAIN_OUTPUT'], os.environ['POSTTRAIN_PROFILE'])"
    path = write_notebook(tmp_path / "elsewhere" / "00_first.ipynb", code)
    copy = execute(path, tmp_path / "copy.ipynb", "qwen3", variables={"POSTTRAIN_OUTPUT": "elsewhere"})
    assert texts(copy)[-1].strip() == "elsewhere qwen3"
    assert os.environ["POSTTRAIN_OUTPUT"] == str(output_root)


def test_a_failing_lesson_leaves_the_committed_notebook_alone(tmp_path: Path, output_root: Path) -> None:
    path = write_notebook(tmp_path / "00_first.ipynb", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(CourseError, match="ZeroDivisionError"):
        run_lessons(inplace=True, directory=tmp_path)
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console, not to one process")
def test_ctrl_c_ends_with_130_and_leaves_neither_kernel_nor_half_a_copy(
    tmp_path: Path, output_root: Path
) -> None:
    marker = tmp_path / "kernel.pid"
    tell = f"import os, pathlib, time\npathlib.Path({str(marker)!r}).write_text(str(os.getpid()))"
    write_notebook(tmp_path / "00_first.ipynb", f"{tell}\ntime.sleep(60)")
    program = (
        # A shell's background job ignores Ctrl-C, and so would every process that the tests start in one.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import pathlib, sys; from posttrain_helpers import cli; "
        "from posttrain_helpers.lessons import run as lessons; "
        f"lessons.notebooks_directory = lambda: pathlib.Path({str(tmp_path)!r}); sys.exit(cli.main(['run']))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not marker.exists() or not marker.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted: nothing half-written was kept.\n"
    assert not psutil.pid_exists(int(marker.read_text()))
    assert list((output_root / "tiny" / "notebooks").iterdir()) == []


def test_progress_is_shown_to_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_notebook(tmp_path / "00_first.ipynb")
    execute(path, tmp_path / "copy.ipynb", "tiny")
    assert "00_first" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    execute(path, tmp_path / "copy.ipynb", "tiny")
    assert "00_first: " in capsys.readouterr().err
