"""Hand-made metrics files of lessons for the tests of the report card."""

from __future__ import annotations

import json
from pathlib import Path


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
