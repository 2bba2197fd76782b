"""Exercises of lesson 11b: two directions, the generalized JSD, one temperature too few, one change."""

from __future__ import annotations

import math

import torch

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    change_exercise,
    function_exercise,
    parts_exercise,
)

# --- 11b.2: the generalized Jensen-Shannon divergence

PAIRS = (
    ([0.7, 0.2, 0.1], [0.1, 0.2, 0.7], 0.5),
    ([0.5, 0.5], [0.9, 0.1], 0.1),
    ([0.6, 0.3, 0.1], [0.2, 0.2, 0.6], 0.9),
    ([1.0, 0.0], [0.0, 1.0], 0.5),
    ([0.25, 0.75], [0.25, 0.75], 0.3),
)


def _kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def jsd(teacher: list[float], student: list[float], beta: float) -> float:
    """Return beta KL(teacher || m) + (1 - beta) KL(student || m), m the mixture with the same weights."""
    return _to_a_mixture(teacher, student, beta, beta)


def _to_a_mixture(teacher: list[float], student: list[float], beta: float, share: float) -> float:
    middle = [share * a + (1 - share) * b for a, b in zip(teacher, student, strict=True)]
    return beta * _kl(teacher, middle) + (1 - beta) * _kl(student, middle)


def _from_the_mixture(teacher: list[float], student: list[float], beta: float) -> float:
    middle = [beta * a + (1 - beta) * b for a, b in zip(teacher, student, strict=True)]
    if not all(teacher) or not all(student):
        return 1e3
    return beta * _kl(middle, teacher) + (1 - beta) * _kl(middle, student)


def _another_jsd(found: float, teacher: list[float], student: list[float], beta: float) -> str:
    ask = (
        "Go through the formula term by term; the logarithm is the natural one."
        if all(teacher) and all(student)
        else "What is 0 times the logarithm of 0?"
    )
    return (
        f"For {teacher}, {student} and beta={beta} your function returns {found:.4f}; "
        f"{jsd(teacher, student, beta):.4f} is right. {ask}"
    )


# --- 11b.3: a temperature that only one of the two gets


def token_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the mean reverse KL over the tokens of the replies, both models at one temperature."""
    return _reverse_kl(student_logits / temperature, teacher_logits / temperature, mask)


def _reverse_kl(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    student, teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    return (student.exp() * (student - teacher)).sum(-1)[mask.bool()].mean()


# Logits of two models for two replies of different length, and their mask.
_LOGITS = tuple(3 * torch.randn(2, 2, 5, 7, generator=torch.Generator().manual_seed(11)))
_MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])

EXERCISES: tuple[Exercise, ...] = (
    parts_exercise(
        "11b.1",
        {"forward": "spread out", "reverse": "one mode"},
        ("one mode", "spread out"),
        {
            "forward": "The forward KL weighs with the teacher's probabilities. To which token does the "
            "teacher give a half, and one of the students hardly anything?",
            "reverse": "The reverse KL weighs with the student's own probabilities. Which student often says "
            "what the teacher nearly never says?",
        },
        "Forward, the student must cover all that the teacher may say; in reverse, it must not say what the "
        "teacher would not.",
    ),
    function_exercise(
        "11b.2",
        "function",
        jsd,
        PAIRS,
        (
            (
                lambda teacher, student, beta: jsd(teacher, student, 1 - beta),
                "Which of the two has the weight beta? In the formula it is the teacher.",
            ),
            (
                lambda teacher, student, beta: _to_a_mixture(teacher, student, beta, 0.5),
                "The mixture has the weights beta and 1 - beta, too, and not a half each.",
            ),
            (_from_the_mixture, "Each divergence begins with a model and ends with the mixture."),
        ),
        _another_jsd,
        "It is finite for any two distributions, since the mixture is 0 nowhere where one of them is not: at "
        "most the entropy of a coin with the weights beta and 1 - beta.",
    ),
    function_exercise(
        "11b.3",
        "bug",
        token_loss,
        [(*_LOGITS, _MASK, temperature) for temperature in (2.0, 3.0, 1.0)],
        (
            (
                lambda student, teacher, mask, t: _reverse_kl(student / t, teacher, mask),
                "Hand it twice the same logits at temperature 2: is the divergence 0?",
            ),
            (
                lambda student, teacher, mask, t: _reverse_kl(student, teacher / t, mask),
                "Now the teacher is softened and the student is not.",
            ),
            (
                lambda student, teacher, mask, t: _reverse_kl(student, teacher, mask),
                "At another temperature than 1 this is another divergence; do not leave it out.",
            ),
            (
                lambda student, teacher, mask, t: token_loss(student, teacher, torch.ones_like(mask), t),
                "The padding of the shorter reply counts as well.",
            ),
            (
                lambda student, teacher, mask, t: t**2 * token_loss(student, teacher, mask, t),
                "The factor temperature² keeps gradients from shrinking, but here the plain mean is asked "
                "for.",
            ),
        ),
        lambda found, *batch: (
            f"At temperature {batch[-1]:g} your function returns {found:.4f} for a batch whose loss is "
            f"{token_loss(*batch):.4f}: both distributions at the temperature that it is given, the reverse "
            "KL, and the mean over tokens of replies."
        ),
        "A divergence of a model from itself is 0, at any temperature: the first thing to test of a "
        "distillation loss.",
    ),
    change_exercise(
        "11b.4",
        (
            "args.beta",
            "args.learning_rate",
            "args.temperature",
            "args.max_completion_length",
            "args.per_device_train_batch_size",
            "data.n_prompts",
        ),
        "args.beta=0.5",
        why="One change, the same prompts and items, an interval, and a verdict that follows from it.",
    ),
)
