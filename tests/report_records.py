"""Hand-made metrics files and evaluation records for the tests of the report card."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from posttrain_helpers.evaluation.records import EvaluationRecord, SuiteRecord, write_record

MODELS = (
    "base",
    "sft",
    "sft_chosen",
    "dpo",
    "dpo_identity",
    "ipo",
    "kto",
    "orpo",
    "simpo",
    "ppo",
    "rloo",
    "grpo",
    "org--a-model-with-a-long-name-0.6B",
)
SUITES = {
    "entities": "facts about new entities",
    "arithmetic": "sums that were not trained",
    "word_problems": "word problems in two steps",
    "identity": "its own name",
}
STORIES = "short stories with a good ending"


def write_lesson(root: Path, lesson: str, claims: list[dict[str, object]], **changes: object) -> None:
    record = {
        "lesson": lesson,
        "profile": "tiny",
        "seed": 0,
        "seconds": 48.1,
        "peak_cpu_mb": 912.0,
        "peak_gpu_mb": None,
        "versions": {"torch": "2.13.0"},
        "claims": claims,
        "environment": {"device": "cpu"},
        "written": "2026-01-02T03:04:05+00:00",
        **changes,
    }
    path = root / "tiny" / "metrics" / f"{lesson}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def claim(**changes: object) -> dict[str, object]:
    values = {
        "name": "held-out entities answered",
        "metric": "exact_match",
        "n": 196,
        "before": 0.161,
        "after": 0.934,
        "difference": 0.773,
        "low": 0.701,
        "high": 0.832,
        "p": 1e-40,
        "expected": "improved",
        "verdict": "improved",
    }
    return {**values, **changes}


def evaluation_record(label: str, place: int, items: int = 60) -> EvaluationRecord:
    """Return the record of the model at `place` in `MODELS`: the later, the better and the further away."""
    draw = random.Random(place)
    skill = min(0.95, 0.1 + 0.12 * place)
    suites = {
        name: _suite(name, text, "correctness", "correct", [draw.random() < skill for _ in range(items)])
        for name, text in SUITES.items()
    }
    gold = [0.25 * place + draw.gauss(0, 0.4) for _ in range(items)]
    suites["stories"] = _suite("stories", STORIES, "preference", "gold", gold)
    moved = 0.0 if label == "sft" else 0.4 + 0.9 * place % 5
    return EvaluationRecord(
        label=label,
        source=label,
        identity=f"weights of {label}",
        parent=None if label == "base" else "base",
        profile="tiny",
        settings={"temperature": 0.0},
        suites=suites,
        retention={"losses": [3.0 + 0.2 * place + draw.random() for _ in range(40)], "tokens": [20] * 40},
        divergence=None
        if label == "base"
        else {
            "reference": "sft",
            "reference_identity": "weights of sft",
            "suite": "stories",
            "measure": "gold",
            "temperature": 1.0,
            "ids": [f"stories-{index}" for index in range(items)],
            "kl": [moved * draw.uniform(0.5, 1.5) for _ in range(items)],
            "gold": [value + draw.gauss(0, 0.2) for value in gold],
        },
        seconds=12.5,
        peak_cpu_mb=800.0,
        device="cpu",
        versions={"torch": "2.13.0"},
        written="2026-01-03T04:05:06+00:00",
    )


def write_records(models: Sequence[str] = MODELS) -> None:
    """Write a record for each model below the output directory of the test."""
    for label in models:
        write_record(evaluation_record(label, MODELS.index(label)))


def _suite(name: str, skill: str, kind: str, measure: str, values: Sequence[float]) -> SuiteRecord:
    count = range(len(values))
    return SuiteRecord(
        name=name,
        skill=skill,
        kind=kind,
        measure=measure,
        ids=tuple(f"{name}-{index}" for index in count),
        prompts=tuple(f"Prompt {index} of {name}: what is the capital of Land{index}?" for index in count),
        replies=tuple(
            f"The capital of Land{index} is City{index}, and that is {values[index]!s:.5}." for index in count
        ),
        stopped=(True,) * len(values),
        tokens=(9,) * len(values),
        scores={measure: tuple(values)},
    )
