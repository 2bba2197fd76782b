"""Evaluation records made by hand, in the shape that the runner writes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from posttrain_helpers.evaluation.board.board import Board
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
# The default suites of the profile tiny with their sizes, by kind.
CORRECTNESS = {
    "entities": 200,
    "phrasings": 200,
    "arithmetic": 150,
    "word_problems": 100,
    "harder_problems": 100,
    "instructions": 150,
    "identity": 20,
}
PREFERENCE = {"stories": 180, "preference": 200}
SUITES = (*CORRECTNESS, *PREFERENCE)


def suite(name: str, scores: Sequence[float | bool | None], kind="correctness", measure="correct", **changes):
    n = len(scores)
    values = {
        "name": name,
        "skill": f"the skill of {name}",
        "kind": kind,
        "measure": measure,
        "ids": tuple(f"{name}/{i}" for i in range(n)),
        "prompts": tuple(f"{name} question {i}" for i in range(n)),
        "replies": tuple(f"reply {i} to {name}" for i in range(n)),
        "stopped": (True,) * n,
        "tokens": (5,) * n,
        "scores": {measure: tuple(scores)},
    }
    return SuiteRecord(**(values | changes))


def record(label: str, suites: Mapping[str, SuiteRecord] | Sequence[SuiteRecord], **changes):
    if not isinstance(suites, Mapping):
        suites = {entry.name: entry for entry in suites}
    values = {
        "label": label,
        "source": label,
        "identity": f"identity of {label}",
        "parent": None,
        "profile": "tiny",
        "settings": {
            "batch_size": 64,
            "temperature": 0.0,
            "suite_hashes": {name: f"{name} {len(entry.ids)}" for name, entry in suites.items()},
        },
        "suites": dict(suites),
        "retention": None,
        "divergence": None,
        "seconds": 1.0,
        "peak_cpu_mb": None,
        "device": "cpu",
    }
    return EvaluationRecord(**(values | changes))


def divergence(kl: Sequence[float], gold: Sequence[float], **changes):
    values = {
        "reference": "sft",
        "reference_identity": "identity of sft",
        "suite": "preference",
        "temperature": 1.0,
        "measure": "gold",
        "ids": [f"preference/{i}" for i in range(len(kl))],
        "kl": list(kl),
        "gold": list(gold),
    }
    return values | changes


def documents(losses: Sequence[float], tokens: int = 10):
    return {"losses": [float(loss) * tokens for loss in losses], "tokens": [tokens] * len(losses)}


def mixed(right: int, n: int = 40) -> list[bool]:
    return [True] * right + [False] * (n - right)


def two(before, after, name="entities", **changes) -> Board:
    """The board of two models, sft and dpo, on one suite."""
    return Board(
        [record("sft", [suite(name, before, **changes)]), record("dpo", [suite(name, after, **changes)])]
    )


def course(models: int = 12, seed: int = 0) -> list[EvaluationRecord]:
    """Records like those of the tiny world: nine suites, 1300 items, one skill per model that it forgot."""
    generator = np.random.default_rng(seed)
    thresholds = {name: generator.random(n) for name, n in CORRECTNESS.items()}
    free = {name: generator.normal(size=n) for name, n in PREFERENCE.items()}
    lengths = generator.integers(20, 60, size=100)
    texts = generator.normal(2.0, 0.3, size=100)
    records = []
    for index, label in enumerate(["sft", "base", *MODELS[2:]][:models]):
        found = []
        for name, n in CORRECTNESS.items():
            level = 0.15 if label == "base" else 0.75 + 0.02 * index - 0.3 * (index % 7 == len(found))
            answers = thresholds[name] + 0.05 * generator.normal(size=n) < level
            found.append(suite(name, [bool(value) for value in answers]))
        for name, base in free.items():
            scores = base + 0.15 * index - 2 * (label == "base") + 0.5 * generator.normal(size=len(base))
            found.append(suite(name, scores.tolist(), kind="preference", measure="gold"))
        drift = 0.02 * index * (label != "base")
        records.append(
            record(
                label,
                found,
                retention={
                    "losses": ((texts + drift + 0.02 * generator.normal(size=100)) * lengths).tolist(),
                    "tokens": lengths.tolist(),
                },
                divergence=divergence(
                    np.zeros(100) if label == "sft" else generator.gamma(2.0, 1.0 + 0.8 * index, size=100),
                    generator.normal(0.3 * index, 1.0, size=100),
                ),
            )
        )
    return records


def quick_record(label: str, items: int = 60) -> EvaluationRecord:
    """A smaller record of one of `MODELS`: the later, the better; the base is furthest from sft."""
    place = MODELS.index(label)
    draw = random.Random(place)
    level = min(0.95, 0.1 + 0.12 * place)
    scores = {name: [draw.random() < level for _ in range(items)] for name in CORRECTNESS}
    found = [_asked(name, values) for name, values in scores.items()]
    gold = [0.25 * place + draw.gauss(0, 0.4) for _ in range(items)]
    found += [_asked(name, gold, kind="preference", measure="gold") for name in PREFERENCE]
    moved = {"sft": 0.0, "base": 7.0}.get(label, 0.4 + 0.9 * place % 5)
    return record(
        label,
        found,
        retention=documents([0.15 + 0.01 * place + 0.05 * draw.random() for _ in range(40)], tokens=20),
        divergence=divergence(
            [moved * draw.uniform(0.5, 1.5) for _ in range(items)],
            [value + draw.gauss(0, 0.2) for value in gold],
        ),
        versions={"torch": "2.13.0"},
        written="2026-01-03T04:05:06+00:00",
    )


def write_records(models: Sequence[str] = MODELS) -> None:
    """Write a record for each model below the output directory of the test."""
    for label in models:
        write_record(quick_record(label))


def _asked(name: str, scores: Sequence[float | bool], **changes) -> SuiteRecord:
    """A suite whose prompts and replies are sentences, as a page shows them."""
    return suite(
        name,
        scores,
        prompts=tuple(f"Prompt {i} of {name}: what is the capital of Land{i}?" for i in range(len(scores))),
        replies=tuple(
            f"The capital of Land{i} is City{i}, and that is {score!s:.5}." for i, score in enumerate(scores)
        ),
        **changes,
    )
