"""The bridge to the evaluation harness: how it is called, what is written, and a real run."""

from __future__ import annotations

import importlib.machinery
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation import harness
from posttrain_helpers.evaluation.harness import harness_lines, harness_path, run_harness

TASK = """\
task: sounds
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    rows = [
        {"question": "A cow says", "choices": ["moo", "woof"], "label": 0},
        {"question": "3 + 4 =", "choices": ["6", "7"], "label": 1},
        {"question": "An owl can", "choices": ["fly", "swim"], "label": 0},
    ]
    data = tmp_path / "sounds.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    path = tmp_path / "tasks" / "sounds.yaml"
    path.parent.mkdir()
    path.write_text(TASK.format(data=data.as_posix()), encoding="utf-8")
    return path


class FakeManager:
    def __init__(self, include_path: Any = None, include_defaults: bool = True) -> None:
        self.include_path, self.include_defaults = include_path, include_defaults
        self.all_tasks = (["arc_easy"] if include_defaults else []) + (["sounds"] if include_path else [])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put a stub in the place of the harness and record how it is called."""
    made: list[dict[str, Any]] = []

    def simple_evaluate(**arguments: Any) -> dict[str, Any]:
        made.append(arguments)
        np.random.seed(3)  # as the harness does
        results = {
            name: {"alias": name, "acc,none": np.float64(0.5), "acc_stderr,none": float("nan")}
            for name in arguments["tasks"]
        }
        return {"results": results, "n-samples": {name: {"effective": 2} for name in results}}

    class HFLM:
        def __init__(self, **arguments: Any) -> None:
            self.arguments = arguments

    parts = {
        "lm_eval": {"simple_evaluate": simple_evaluate},
        "lm_eval.models": {},
        "lm_eval.models.huggingface": {"HFLM": HFLM},
        "lm_eval.tasks": {"TaskManager": FakeManager},
    }
    for name, content in parts.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(harness, "version", lambda name: "0.0-stub")
    return made


def test_the_model_of_the_course_is_handed_to_the_harness(
    output_root: Path, random_model_dir: Path, task_file: Path, calls: list[dict[str, Any]]
) -> None:
    state = np.random.get_state()[1].tolist()
    content = run_harness(
        random_model_dir, ["arc_easy", str(task_file)], limit=2, num_fewshot=1, label="mine", profile="tiny"
    )
    (call,) = calls
    assert call["tasks"] == ["arc_easy", "sounds"]
    assert (call["limit"], call["num_fewshot"], call["apply_chat_template"]) == (2, 1, True)
    assert call["task_manager"].include_path == [str(task_file.parent)]
    assert call["task_manager"].include_defaults is True
    given = call["model"].arguments
    assert type(given["pretrained"]).__name__ == "Qwen3ForCausalLM"
    assert given["tokenizer"].chat_template
    assert np.random.get_state()[1].tolist() == state
    assert json.loads(harness_path("mine", "tiny").read_text(encoding="utf-8")) == content
    assert content["results"]["sounds"] == {"alias": "sounds", "acc,none": 0.5, "acc_stderr,none": None}
    assert content["n"] == {"arc_easy": {"effective": 2}, "sounds": {"effective": 2}}
    assert content["harness"] == "0.0-stub"
    assert content["settings"]["limit"] == 2
    assert harness_lines(content) == ["mine · arc_easy · acc 0.500", "mine · sounds · acc 0.500"]


def test_tasks_of_ones_own_need_none_of_the_harness(
    output_root: Path, random_model_dir: Path, task_file: Path, calls: list[dict[str, Any]]
) -> None:
    run_harness(random_model_dir, str(task_file), apply_chat_template=False, profile="tiny")
    assert calls[0]["task_manager"].include_defaults is False
    assert calls[0]["apply_chat_template"] is False
    assert harness_path(random_model_dir.name, "tiny").is_file()


def test_lines_show_the_standard_error_where_there_is_one() -> None:
    results = {"t": {"alias": "t", "acc,none": 0.25, "acc_stderr,none": 0.125, "samples": 3}}
    assert harness_lines({"label": "sft", "results": results}) == ["sft · t · acc 0.250 ± 0.125"]


def test_a_missing_harness_is_one_sentence(
    output_root: Path, random_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match=r"pip install -e '\.\[harness\]'"):
        run_harness(random_model_dir, "arc_easy", profile="tiny")


@pytest.mark.parametrize(
    ("tasks", "limit", "message"),
    [
        ([], None, "no task is named"),
        ("arc_easi", None, "no task 'arc_easi'; did you mean 'arc_easy'"),
        ("none.yaml", None, "task file 'none.yaml' does not exist"),
        ("arc_easy", 0, "limit must be a whole number of at least 1"),
        ("arc_easy", True, "limit must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_run_is_refused(
    output_root: Path,
    random_model_dir: Path,
    calls: list[dict[str, Any]],
    tasks: Any,
    limit: Any,
    message: str,
) -> None:
    with pytest.raises(CourseError, match=message):
        run_harness(random_model_dir, tasks, limit=limit, profile="tiny")
    assert calls == []


def test_a_file_without_a_task_is_refused(
    output_root: Path, random_model_dir: Path, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    (tmp_path / "x.yaml").write_text("dataset_path: json\n", encoding="utf-8")
    with pytest.raises(CourseError, match="names no task"):
        run_harness(random_model_dir, str(tmp_path / "x.yaml"), profile="tiny")


def test_data_out_of_reach_is_one_sentence(
    output_root: Path,
    random_model_dir: Path,
    calls: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**arguments: Any) -> None:
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(sys.modules["lm_eval"], "simple_evaluate", fail)
    with pytest.raises(CourseError, match=r"data of arc_easy could not be had \(Couldn't reach the Hub\)"):
        run_harness(random_model_dir, "arc_easy", profile="tiny")
    assert not harness_path(random_model_dir.name, "tiny").exists()


def test_a_real_run_on_a_local_task(
    output_root: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    content = run_harness("base", str(task_file), profile="tiny")
    assert content["n"]["sounds"]["effective"] == 3
    assert content["results"]["sounds"]["acc,none"] in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    assert len(harness_lines(content)) == 1
