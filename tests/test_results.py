"""The results contract: what is written, what is refused, what is read back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from posttrain_helpers import results
from posttrain_helpers.errors import CourseError
from posttrain_helpers.results import lesson_figures, read_results, save_figure, write_results
from posttrain_helpers.statistics import Bound, Claim, adjusted_claims, paired_binary

LESSON = "01_supervised_fine_tuning"
RUNTIME = SimpleNamespace(
    profile=SimpleNamespace(name="tiny"),
    seed=3,
    device="cpu",
    dtype="float32",
    threads=2,
    versions={"torch": "2.13.0", "trl": "1.16.0"},
    started=0.0,
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
    assert record["claims"] == [claim()]
    assert record["extra"] == {"rates": [0.1, 0.2]}


def test_the_clock_starts_at_setup_and_one_monitor_is_enough(output_root: Path) -> None:
    runtime = SimpleNamespace(**{**vars(RUNTIME), "started": time.time() - 5})
    memory = SimpleNamespace(peak_cpu_mb=10.0, peak_gpu_mb=20.0)
    record = json.loads(write_results(LESSON, runtime, [claim()], memory=memory).read_text(encoding="utf-8"))
    assert 5 <= record["seconds"] < 60
    assert (record["peak_cpu_mb"], record["peak_gpu_mb"]) == (10.0, 20.0)


def test_a_computed_claim_is_read_back_as_it_was(output_root: Path) -> None:
    result = paired_binary([False] * 12 + [True] * 2, [True] * 14)
    (computed,) = adjusted_claims([Claim.from_result("answers", "exact_match", result, "improved")])
    write_results(LESSON, RUNTIME, [computed], seconds=1.0)
    write_results("00_meet_the_base_model", RUNTIME, [claim()], seconds=2.0)
    first, second = read_results("tiny")
    assert (first.lesson, second.lesson) == ("00_meet_the_base_model", LESSON)
    assert second.headline == computed
    assert second.environment["dtype"] == "float32"


def test_numpy_numbers_become_json(output_root: Path) -> None:
    path = write_results(LESSON, RUNTIME, [claim(after=np.float32(0.5), n=np.int64(7))], seconds=1.0)
    assert json.loads(path.read_text(encoding="utf-8"))["claims"][0]["n"] == 7


def test_no_results_are_an_empty_list(output_root: Path) -> None:
    assert read_results("tiny") == []


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (claim(verdict="better"), "verdict.*'better'.*one of improved"),
        (claim(expected="maybe"), "expected.*'maybe'"),
        (claim(after=float("nan")), "nan"),
        (claim(high=float("inf")), "inf"),
        (claim(p=1.5), "'p'.*between 0 and 1"),
        (claim(n=0), "'n'.*at least 1"),
        (claim(low=0.9), "lower end is the larger"),
        (claim(before="0.1"), "'before'.*finite number"),
        (claim(name=""), "'name'"),
        (claim(note="x"), "unknown field 'note'"),
        (claim(at_least="0.9"), "'at_least'.*finite number"),
        (claim(adjusted_p=2.0), "'adjusted_p'.*between 0 and 1"),
        (claim(confidence=95), "'confidence'.*between 0 and 1"),
        (claim(p_at_floor="yes"), "'p_at_floor'.*true or false"),
        ({key: value for key, value in claim().items() if key != "low"}, "lacks 'low'"),
        (claim(before=object()), "object, which JSON cannot hold"),
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
    assert json.loads(path.read_text(encoding="utf-8"))["bounds"] == [bound.to_dict(), share]
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
        ({"name": "share", "value": 0.1}, "bound 2 of .* is broken: .*no limit"),
        ({"name": "share", "value": None, "at_most": 1.0}, "value of the bound 'share' is None"),
        ({"name": "share", "value": float("nan"), "at_most": 1.0}, "nan"),
        ({"name": "share", "value": 0.1, "at_most": "1"}, "at_most of the bound 'share' is '1'"),
        ({"name": "share", "at_most": 1.0}, "lacks 'value'"),
        ({"name": "", "value": 0.1, "at_most": 1.0}, "'name'"),
        ({"name": "share", "value": 0.1, "at_most": 1.0, "most": 1}, "unknown field 'most'"),
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
    with pytest.raises(CourseError, match=r"bound.*01_supervised_fine_tuning\.json"):
        read_results("tiny")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"claims": []}, "no claim"),
        ({"lesson": "lesson one"}, "looks like"),
        ({"seconds": -1.0}, "'seconds'.*at least 0"),
        ({"extra": {"loss": float("nan")}}, "'loss'.*nan"),
        ({"runtime": SimpleNamespace(**{**vars(RUNTIME), "seed": None})}, "seed.*None"),
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
        ('{"lesson": "01_x"}', "lacks 'profile'"),
    ],
)
def test_a_broken_file_is_named(output_root: Path, text: str, words: str) -> None:
    path = results.metrics_path(LESSON, "tiny")
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=words) as caught:
        read_results("tiny")
    assert path.name in str(caught.value)


def test_a_file_under_another_name_is_refused(output_root: Path) -> None:
    path = write_results(LESSON, RUNTIME, [claim()], seconds=1.0)
    path.rename(path.with_name("02_instruction_templates.json"))
    with pytest.raises(CourseError, match="holds the results of '01_supervised_fine_tuning'"):
        read_results("tiny")


def test_figures_are_saved_whole_and_found_by_lesson(output_root: Path) -> None:
    from matplotlib.figure import Figure

    path = save_figure(Figure(figsize=(1, 1)), LESSON, "loss_curve", "tiny")
    assert path == output_root / "tiny" / "figures" / f"{LESSON}__loss_curve.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert lesson_figures(LESSON, "tiny") == [("loss curve", path)]
    assert lesson_figures("02_instruction_templates", "tiny") == []

    class Failing(Figure):
        def savefig(self, target: Path, **options: object) -> None:
            target.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_figure(Failing(), LESSON, "other", "tiny")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["Loss", "", "a/b", "a__b"])
def test_a_figure_needs_a_plain_name(output_root: Path, name: str) -> None:
    from matplotlib.figure import Figure

    with pytest.raises(CourseError, match="figure's name"):
        save_figure(Figure(), LESSON, name, "tiny")
