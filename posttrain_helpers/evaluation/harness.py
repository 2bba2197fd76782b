"""Public benchmarks through the Language Model Evaluation Harness (`lm_eval`), where it is installed.

    results = run_harness("sft", ["arc_easy"], limit=100)
    results = run_harness("sft", ["my_task.yaml"])

The model is loaded by this course, so that stages, adapters and repairs work, and handed to the harness. Most
of its tasks download their data from the Hugging Face Hub; a task of your own may read a local file.

Source: Gao et al. (2024), "The Language Model Evaluation Harness",
github.com/EleutherAI/lm-evaluation-harness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.records import evaluation_directory
from posttrain_helpers.evaluation.suites import check_limit
from posttrain_helpers.evaluation.targets import label_of, target_of
from posttrain_helpers.profiles import Profile, get_profile
from posttrain_helpers.storage import write_json_atomic
from posttrain_helpers.suggestions import closest

_FILES = (".yaml", ".yml")


def run_harness(
    model: str | Path,
    tasks: str | Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 16,
    apply_chat_template: bool = True,
    chat_template: str | None = None,
    label: str | None = None,
    profile: str | Profile | None = None,
) -> dict[str, Any]:
    """Run tasks of the harness on one model and write what it measured to `harness/<label>.json`.

    Args:
        model: "base", a stage (built if it is missing), a directory or a Hub id.
        tasks: names of the harness's tasks, or .yaml files of your own that hold one task each.
        limit: only the first items of each task; None takes all.
        num_fewshot: examples in the prompt; None takes what each task says.
        batch_size: requests in a batch.
        apply_chat_template: put the questions as a user's message. False asks in plain text, which suits a
            model that has only been pre-trained.
        chat_template: "chatml" lends plain ChatML to a model that has no chat template of its own.
        label: of the model, None makes one of its name.
        profile: None takes the profile in use.

    Returns:
        What is written: label, identity of the weights, settings, and under "results" for each task its
        metrics as the harness names them ("acc,none", "acc_stderr,none").

    Raises:
        CourseError: the harness is not installed, no task or an unknown one, a limit below 1, data that
            cannot be had, or a model that `evaluate` refuses.
    """
    check_installed()
    check_limit(limit)
    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    if not tasks:
        raise CourseError("no task is named; pass at least one, such as 'arc_easy' or a .yaml file.")

    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from posttrain_helpers.runtime import preserved_random_state
    from posttrain_helpers.stage_loading import load_model_and_tokenizer

    profile = get_profile(profile)
    target = target_of(label or label_of(model), str(model), profile)
    names, directories = _named_tasks(tasks)
    manager = TaskManager(
        include_path=directories or None, include_defaults=any(Path(t).suffix not in _FILES for t in tasks)
    )
    _check_known(names, manager.all_tasks)
    loaded, tokenizer = load_model_and_tokenizer(
        target.source,
        head="language",
        profile=profile,
        lend_template=chat_template is not None or not apply_chat_template,
        verbose=False,
    )
    try:
        with preserved_random_state():  # the harness seeds Python, NumPy and torch
            measured = simple_evaluate(
                model=HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=batch_size),
                tasks=names,
                num_fewshot=num_fewshot,
                limit=limit,
                apply_chat_template=apply_chat_template,
                task_manager=manager,
                log_samples=False,
            )
    except OSError as error:  # what `datasets` raises for data that is not there or out of reach
        raise CourseError(
            f"the data of {', '.join(names)} could not be had ({' '.join(str(error).split())[:300]}); go "
            "online once with HF_HUB_OFFLINE=0, or correct the path in the task's file."
        ) from error
    content = {
        "label": target.label,
        "source": target.source,
        "identity": target.identity,
        "profile": profile.name,
        "settings": {
            "tasks": names,
            "limit": limit,
            "num_fewshot": num_fewshot,
            "batch_size": batch_size,
            "apply_chat_template": apply_chat_template,
            "chat_template": chat_template or "own",
        },
        "results": _plain(measured["results"]),
        "n": _plain(measured.get("n-samples", {})),
        "harness": version("lm_eval"),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json_atomic(harness_path(target.label, profile.name), content)
    return content


def check_installed() -> None:
    """Raise a CourseError that says what to install unless the harness is there."""
    if find_spec("lm_eval") is None:
        raise CourseError(
            "the evaluation harness is not installed; run `python -m pip install -e '.[harness]'` in the "
            "clone of the course, or `python -m pip install lm_eval`."
        )


def harness_path(label: str, profile: str | None = None) -> Path:
    """Return the path of what the harness measured of a model, whether or not it exists."""
    return evaluation_directory(profile) / "harness" / f"{label}.json"


def harness_lines(content: Mapping[str, Any]) -> list[str]:
    """Return one line per task and metric: model, task, metric, value and standard error.

    Args:
        content: what `run_harness` returned.
    """
    lines = []
    for task, metrics in content["results"].items():
        for key, value in metrics.items():
            name, _, filtered = key.partition(",")
            if name.endswith("_stderr") or not isinstance(value, (int, float)) or not filtered:
                continue
            error = metrics.get(f"{name}_stderr,{filtered}")
            spread = f" ± {error:.3f}" if isinstance(error, float) else ""
            lines.append(f"{content['label']} · {task} · {name} {value:.3f}{spread}")
    return lines


def _named_tasks(tasks: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of the tasks and the directories where the harness finds those that are files."""
    from posttrain_helpers.recipes.files import read_yaml

    names, directories = [], []
    for task in tasks:
        path = Path(task).expanduser()
        if path.suffix not in _FILES:
            names.append(task)
            continue
        if not path.is_file():
            raise CourseError(f"the task file {task!r} does not exist (looked in {Path.cwd()}); correct it.")
        name = read_yaml(path).get("task")
        if not isinstance(name, str):
            raise CourseError(f"{path} names no task; give it a key 'task' with a text.")
        names.append(name)
        directories.append(str(path.resolve().parent))
    return names, list(dict.fromkeys(directories))


def _check_known(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise CourseError(
                f"the harness has no task {name!r}; {closest(name, known)}`lm_eval ls tasks` lists them all."
            )


def _plain(value: Any) -> Any:
    """Turn NumPy numbers into Python's, and what JSON lacks (NaN) into None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
