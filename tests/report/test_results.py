"""The results contract: what is written, what is refused, what is read back."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.report import results
from posttrain_helpers.report.results import lesson_figures, read_results, show_figure, write_results
from posttrain_helpers.statistics.claims import Bound, Claim, adjusted_claims
from posttrain_helpers.statistics.paired_tests import paired_binary

LESSON = "01_supervised_fine_tuning"
RUNTIME = SimpleNamespace(
    profile=SimpleNamespace(name="tiny"),
    seed=3,
    device="cpu",
    dtype="float32",
    precision="float32",
    threads=2,
    versions={"torch": "2.13.0", "trl": "1.16.0"},
    started=0.0,
    matmul_gflops=155.0,
)


def claim(**changes: object) -> dict[str, object]:
    values = {
        "name": "held-out entities answered",
        "metric": "exact_match",
        "n": 196,
        "before": 0.16,
        "after": 0.93,
        "difference": 0.77,
        "low": 0.70,
        "high": 0.83,
        "p": 1e-40,
        "expected": "improved",
        "verdict": "improved",
    }
    return {**values, **changes}


def test_the_file_has_the_fields_of_the_contract(output_root: Path) -> None:
    monitors = [
        SimpleNamespace(peak_cpu_mb=700.5, peak_gpu_mb=None),
        SimpleNamespace(peak_cpu_mb=912.0, peak_gpu_mb=None),
    ]
    path = write_results(
        LESSON, RUNTIME, [claim()], memory=monitors, seconds=48.1, extra={"rates": (0.1, 0.2)}
    )
    assert path == output_root / "tiny" / "metrics" / f"{LESSON}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["lesson"] == LESSON
    assert record["profile"] == "tiny"
    assert record["seed"] == 3
    assert record["seconds"] == 48.1
    assert record["peak_cpu_mb"] == 912.0
    assert record["peak_gpu_mb"] is None
    assert record["versions"] == {"torch": "2.13.0", "trl": "1.16.0"}
    assert record["claims"] == [asdict(Claim(**claim()))]
    assert record["extra"] == {"rates": [0.1, 0.2]}
    assert record["split"] == "test"
    assert record["matmul_gflops"] == 155.0


def test_the_clock_starts_at_setup_and_one_monitor_is_enough(output_root: Path) -> None:
    runtime = SimpleNamespace(**{**vars(RUNTIME), "started": time.time() - 5})
    memory = SimpleNamespace(peak_cpu_mb=10.0, peak_gpu_mb=20.0)
    record = json.loads(write_results(LESSON, runtime, [claim()], memory=memory).read_text(encoding="utf-8"))
    assert 5 <= record["seconds"] < 60
    assert (record["peak_cpu_mb"], record["peak_gpu_mb"]) == (10.0, 20.0)


def test_the_time_of_trainings_is_kept(output_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "trained_seconds", lambda: 12.5)
    write_results(LESSON, RUNTIME, [claim()], seconds=20.0)
    assert read_results("tiny")[0].training_seconds == 12.5


def test_an_interval_may_have_no_width(output_root: Path) -> None:
    write_results(LESSON, RUNTIME, [claim(low=0.77, high=0.77)], seconds=1.0)
    assert (read_results("tiny")[0].headline.low, read_results("tiny")[0].headline.high) == (0.77, 0.77)


def test_a_computed_claim_is_read_back_as_it_was(output_root: Path) -> None:
    result = paired_binary([False] * 12 + [True] * 2, [True] * 14)
    (computed,) = adjusted_claims([Claim.from_result("answers", "exact_match", result, "improved")])
    write_results(LESSON, RUNTIME, [computed], seconds=1.0)
    write_results("00_meet_the_base_model", RUNTIME, [claim()], seconds=2.0)
    first, second = read_results("tiny")
    assert (first.lesson, second.lesson) == ("00_meet_the_base_model", LESSON)
    assert second.headline == computed
    assert second.environment["dtype"] == second.environment["precision"] == "float32"


def test_numpy_numbers_become_json(output_root: Path) -> None:
    path = write_results(LESSON, RUNTIME, [claim(after=np.float32(0.5), n=np.int64(7))], seconds=1.0)
    assert json.loads(path.read_text(encoding="utf-8"))["claims"][0]["n"] == 7


def test_no_results_are_an_empty_list(output_root: Path) -> None:
    assert read_results("tiny") == []


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (claim(verdict="better"), r"claims\[1\]\.verdict must be 'improved', .* but it is 'better'"),
        (claim(expected="maybe"), "expected must be .*'maybe'"),
        (claim(after=float("nan")), "after must be a finite number, but it is nan"),
        (claim(high=float("inf")), "high must be a finite number, but it is inf"),
        (claim(p=1.5), r"claims\[1\]: p must be between 0 and 1, but it is 1.5"),
        (claim(n=0), "needs a name and items, .* n is 0"),
        (claim(low=0.9), "lower end is the larger"),
        (claim(before="0.1"), "before must be a number, but it is '0.1'"),
        (claim(name=""), "needs a name and items, but its name is ''"),
        (claim(note="x"), r"claims\[1\]\.note is an unknown field"),
        (claim(at_least="0.9"), "at_least must be a number, but it is '0.9'"),
        (claim(adjusted_p=2.0), "adjusted_p must be between 0 and 1, but it is 2"),
        (claim(confidence=95), "confidence must be between 0 and 1, but it is 95"),
        (claim(p_at_floor="yes"), "p_at_floor must be true or false, but it is 'yes'"),
        ({key: value for key, value in claim().items() if key != "low"}, r"claims\[1\]\.low is missing"),
        (claim(before=object()), r"cannot be written as JSON \(object"),
    ],
)
def test_a_broken_claim_is_refused_and_nothing_is_written(
    output_root: Path, broken: dict[str, object], words: str
) -> None:
    with pytest.raises(CourseError, match=words):
        write_results(LESSON, RUNTIME, [claim(), broken], seconds=1.0)
    assert not output_root.exists()


def test_bounds_are_written_beside_the_claims_and_read_back(output_root: Path) -> None:
    bound = Bound("calibration error", np.float32(0.03125), at_most=0.05)
    share = {"name": "share", "value": 0.1, "at_least": 0.05}
    path = write_results(LESSON, RUNTIME, [claim(at_least=0.9)], seconds=1.0, bounds=[bound, share])
    assert json.loads(path.read_text(encoding="utf-8"))["bounds"] == [
        asdict(bound),
        asdict(Bound(**share)),
    ]
    (found,) = read_results("tiny")
    assert found.bounds == (bound, Bound(**share))
    assert found.headline.at_least == 0.9


def test_a_file_from_before_there_were_bounds_is_read(output_root: Path) -> None:
    path = write_results(LESSON, RUNTIME, [claim()], seconds=1.0)
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["bounds"]
    path.write_text(json.dumps(record), encoding="utf-8")
    (found,) = read_results("tiny")
    assert found.bounds == ()
    assert found.headline == Claim(**claim())
    assert found.headline.at_least is None


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"name": "share", "value": 0.1}, r"bounds\[1\]: The bound 'share' has no limit"),
        ({"name": "share", "value": None, "at_most": 1.0}, "value must be a number, but it is None"),
        ({"name": "share", "value": float("nan"), "at_most": 1.0}, "value must be a finite number"),
        ({"name": "share", "value": 0.1, "at_most": "1"}, "at_most must be a number, but it is '1'"),
        ({"name": "share", "at_most": 1.0}, r"bounds\[1\]\.value is missing"),
        ({"name": "", "value": 0.1, "at_most": 1.0}, r"bounds\[1\]: it has no name"),
        (
            {"name": "share", "value": 0.1, "at_most": 1.0, "most": 1},
            r"bounds\[1\]\.most is an unknown field",
        ),
    ],
)
def test_a_broken_bound_is_refused_and_nothing_is_written(
    output_root: Path, broken: dict[str, object], words: str
) -> None:
    bounds = [Bound("error", 0.1, at_most=0.2), broken]
    with pytest.raises(CourseError, match=words):
        write_results(LESSON, RUNTIME, [claim()], seconds=1.0, bounds=bounds)
    assert not output_root.exists()


@pytest.mark.parametrize("bounds", [{"name": "x"}, ["x"], "x", None])
def test_broken_bounds_in_a_file_are_named(output_root: Path, bounds: object) -> None:
    path = write_results(LESSON, RUNTIME, [claim()], seconds=1.0)
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, "bounds": bounds}), encoding="utf-8")
    with pytest.raises(CourseError, match=r"01_supervised_fine_tuning\.json: bounds.* must be"):
        read_results("tiny")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"claims": []}, r"claims must be something that is not empty, but it is \[\]"),
        ({"lesson": "lesson one"}, "looks like"),
        ({"seconds": -1.0}, "seconds must be at least 0, but it is -1.0"),
        ({"extra": {"loss": float("nan")}}, "'loss' cannot be written as JSON .*float"),
        (
            {"runtime": SimpleNamespace(**{**vars(RUNTIME), "seed": None})},
            "seed must be a whole number, but it is None",
        ),
    ],
)
def test_a_broken_lesson_is_refused(output_root: Path, arguments: dict[str, object], words: str) -> None:
    values = {"lesson": LESSON, "runtime": RUNTIME, "claims": [claim()], "seconds": 1.0, **arguments}
    with pytest.raises(CourseError, match=words):
        write_results(**values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ('{"lesson": "01_x"}', "profile is missing"),
        ("[" * 100_000, "brackets in brackets without end"),
    ],
)
def test_a_broken_file_is_named(output_root: Path, text: str, words: str) -> None:
    path = results.metrics_path(LESSON, "tiny")
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=words) as caught:
        read_results("tiny")
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"profile": None}, r"json: profile must be text, but it is None; delete it and run"),
        ({"versions": {"torch": None}}, r"versions\.torch must be text, but it is None"),
        ({"environment": None}, "environment must be keys and values, but it is None"),
        ({"written": 5}, "written must be text, but it is 5"),
        ({"extra": []}, "extra must be keys and values"),
        ({"seconds": 10**400}, "seconds must be a finite number"),
        ({"peak_cpu_mb": "much"}, "peak_cpu_mb must be a number"),
        ({"lesson": None}, "lesson must be text, but it is None"),
        ({"lesson": "00_a__b"}, "json: lesson: a lesson's name looks like"),
        ({"lesson": "one"}, "json: lesson: a lesson's name looks like .* its ending; delete it"),
        ({"claims": [None]}, r"claims\[0\] must be keys and values, but it is None"),
        ({"claims": None}, "claims must be a list, but it is None"),
    ],
)
def test_a_file_with_a_broken_field_is_named(
    output_root: Path, change: dict[str, object], words: str
) -> None:
    path = write_results(LESSON, RUNTIME, [claim()], seconds=1.0)
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, **change}), encoding="utf-8")
    with pytest.raises(CourseError, match=words):
        read_results("tiny")


def test_a_file_under_another_name_is_refused(output_root: Path) -> None:
    path = write_results(LESSON, RUNTIME, [claim()], seconds=1.0)
    path.rename(path.with_name("02_instruction_templates.json"))
    with pytest.raises(CourseError, match="holds the results of 01_supervised_fine_tuning / tiny / test"):
        read_results("tiny")


def test_dev_and_test_have_results_and_figures_of_their_own(
    output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    test = write_results(LESSON, RUNTIME, [claim()], seconds=1.0)
    kept = test.read_bytes()
    monkeypatch.setenv("POSTTRAIN_SPLIT", "dev")
    assert read_results("tiny") == lesson_figures(LESSON, "tiny") == []
    dev = write_results(LESSON, RUNTIME, [claim(after=0.5)], seconds=1.0)
    show_figure(Figure(figsize=(1, 1)), LESSON, "loss_curve", "a picture", "tiny")
    ((_, picture),) = lesson_figures(LESSON, "tiny")
    assert dev == output_root / "tiny" / "dev" / "metrics" / f"{LESSON}.json"
    assert picture.parent == output_root / "tiny" / "dev" / "figures"
    assert [(result.split, result.headline.after) for result in read_results("tiny")] == [("dev", 0.5)]
    assert test.read_bytes() == kept


def test_results_of_another_split_are_refused(output_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = write_results(LESSON, RUNTIME, [claim()], seconds=1.0)
    monkeypatch.setenv("POSTTRAIN_SPLIT", "dev")
    dev = write_results(LESSON, RUNTIME, [claim()], seconds=1.0)
    dev.write_bytes(test.read_bytes())
    with pytest.raises(CourseError, match=r"/ tiny / test, which do not belong there; delete it"):
        read_results("tiny")


def test_results_without_a_split_are_those_of_test(
    output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_results(LESSON, RUNTIME, [claim()], seconds=1.0)
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["split"]
    path.write_text(json.dumps(record), encoding="utf-8")
    assert [result.split for result in read_results("tiny")] == ["test"]


def test_results_of_another_profile_are_refused(output_root: Path) -> None:
    runtime = SimpleNamespace(**{**vars(RUNTIME), "profile": SimpleNamespace(name="smollm2")})
    path = write_results(LESSON, runtime, [claim()], seconds=1.0)
    place = output_root / "tiny" / "metrics" / path.name
    place.parent.mkdir(parents=True)
    path.rename(place)
    with pytest.raises(CourseError, match=r"/ smollm2 / test, which do not belong there; delete it"):
        read_results("tiny")


def test_changes_of_models_and_recipes_are_kept(output_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(LESSON, RUNTIME, [claim()], seconds=1.0)
    assert "changes" not in read_results("tiny")[0].environment
    monkeypatch.setenv("POSTTRAIN_OVERRIDES", "args.max_steps=1")
    write_results(LESSON, RUNTIME, [claim()], seconds=1.0)
    assert read_results("tiny")[0].environment["changes"] == "POSTTRAIN_OVERRIDES=args.max_steps=1"


def test_figures_are_saved_whole_and_found_by_lesson(output_root: Path) -> None:
    from matplotlib.figure import Figure

    show_figure(Figure(figsize=(1, 1)), LESSON, "loss_curve", "a picture", "tiny")
    path = output_root / "tiny" / "figures" / f"{LESSON}__loss_curve.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert lesson_figures(LESSON, "tiny") == [("loss curve", path)]
    assert lesson_figures("02_instruction_templates", "tiny") == []

    class Failing(Figure):
        def savefig(self, target: Path, **options: object) -> None:
            target.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        show_figure(Failing(), LESSON, "other", "a picture", "tiny")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["Loss", "", "a/b", "a__b"])
def test_a_figure_needs_a_plain_name(output_root: Path, name: str) -> None:
    from matplotlib.figure import Figure

    with pytest.raises(CourseError, match="figure's name"):
        show_figure(Figure(), LESSON, name, "a picture", "tiny")


def test_a_figure_needs_a_text_for_those_who_cannot_see_it(output_root: Path) -> None:
    from matplotlib.figure import Figure

    with pytest.raises(CourseError, match="the figure 'loss' needs a text for readers who cannot see it"):
        show_figure(Figure(), LESSON, "loss", " ", "tiny")


def test_a_notebook_shows_a_figure_with_its_text(output_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **options: shown.append((data, options)))
    figure, _ = plt.subplots(figsize=(1, 1))
    show_figure(figure, LESSON, "loss", "the loss falls", "tiny")
    ((data, options),) = shown
    assert options["metadata"] == {"image/png": {"alt": "the loss falls"}}
    assert data["text/plain"] == "Figure: the loss falls"
    assert not plt.fignum_exists(figure.number), "the notebook would show it a second time"
    assert [caption for caption, _ in lesson_figures(LESSON, "tiny")] == ["loss"]
