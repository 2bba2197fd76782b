"""Exercises of lesson 11b: two directions, the generalized JSD, one temperature too few, one change."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    choices_by_key,
    is_close,
    name_mistake,
    number,
)
from posttrain_helpers.statistics.paired_tests import paired_binary

if TYPE_CHECKING:
    import torch

# --- 11b.1: which student is nearer, in which direction?

ASKED = ("forward", "reverse")
CHOICES = ("one mode", "spread out")
_NEARER = {"forward": "spread out", "reverse": "one mode"}


def grade_nearer(answer: Any) -> None:
    """Take a choice for each direction."""
    said = choices_by_key(answer, ASKED, CHOICES)
    if said["forward"] != _NEARER["forward"]:
        raise NotYet(
            "The forward KL weighs with the teacher's probabilities. To which token does the teacher give a "
            "half, and one of the students hardly anything?"
        )
    if said["reverse"] != _NEARER["reverse"]:
        raise NotYet(
            "The reverse KL weighs with the student's own probabilities. Which student often says what the "
            "teacher nearly never says?"
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


def _mixture(teacher: list[float], student: list[float], beta: float) -> list[float]:
    return [beta * a + (1 - beta) * b for a, b in zip(teacher, student, strict=True)]


def jsd(teacher: list[float], student: list[float], beta: float) -> float:
    """Return beta KL(teacher || m) + (1 - beta) KL(student || m), m the mixture with the same weights."""
    middle = _mixture(teacher, student, beta)
    return beta * _kl(teacher, middle) + (1 - beta) * _kl(student, middle)


def weights_swapped(teacher: list[float], student: list[float], beta: float) -> float:
    """Give the teacher's weight to the student, and the other way round."""
    return jsd(teacher, student, 1 - beta)


def even_mixture(teacher: list[float], student: list[float], beta: float) -> float:
    """Take the plain mean for the mixture, whatever beta is."""
    middle = _mixture(teacher, student, 0.5)
    return beta * _kl(teacher, middle) + (1 - beta) * _kl(student, middle)


def to_the_mixture_from_it(teacher: list[float], student: list[float], beta: float) -> float:
    """Swap the arguments of both divergences."""
    middle = _mixture(teacher, student, beta)
    if not all(teacher) or not all(student):
        return 1e3
    return beta * _kl(middle, teacher) + (1 - beta) * _kl(middle, student)


def in_bits(teacher: list[float], student: list[float], beta: float) -> float:
    """Take the logarithm to the base 2."""
    return jsd(teacher, student, beta) / math.log(2)


def zero_counts_as_one(teacher: list[float], student: list[float], beta: float) -> float:
    """Add something for each 0."""
    return jsd(teacher, student, beta) + teacher.count(0) + student.count(0)


def grade_jsd(answer: Any) -> None:
    """Call a function of two distributions and beta."""
    hints = (
        (weights_swapped, "Which of the two has the weight beta? In the formula it is the teacher."),
        (even_mixture, "The mixture has the weights beta and 1 - beta, too, and not a half each."),
        (to_the_mixture_from_it, "Each divergence begins with a model and ends with the mixture."),
    )
    for teacher, student, beta in PAIRS:
        value = number(call(answer, teacher, student, beta))
        expected = jsd(teacher, student, beta)
        if is_close(value, expected, 1e-4):
            continue
        name_mistake(hints, value, teacher, student, beta, same=lambda a, b: is_close(a, b, 1e-4))
        ask = (
            "Go through the formula term by term; the logarithm is the natural one."
            if all(teacher) and all(student)
            else "What is 0 times the logarithm of 0?"
        )
        raise NotYet(
            f"For {teacher}, {student} and beta={beta} your function returns {value:.4f}; {expected:.4f} is "
            f"right. {ask}"
        )


# --- 11b.3: a temperature that only one of the two gets


def token_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the mean reverse KL over the tokens of the replies, both models at one temperature."""
    return _masked_mean(student_logits / temperature, teacher_logits / temperature, mask)


def student_only(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Divide the student's logits alone: the mistake that the notebook shows."""
    return _masked_mean(student_logits / temperature, teacher_logits, mask)


def teacher_only(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Divide the teacher's logits alone."""
    return _masked_mean(student_logits, teacher_logits / temperature, mask)


def no_temperature(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Leave the temperature out."""
    return _masked_mean(student_logits, teacher_logits, mask)


def always_two(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Write the temperature of the text in place of the one that is given."""
    return token_loss(student_logits, teacher_logits, mask, 2.0)


def every_place(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Average over padding as well."""
    import torch

    return token_loss(student_logits, teacher_logits, torch.ones_like(mask), temperature)


def times_its_square(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Multiply by the square of the temperature."""
    return temperature**2 * token_loss(student_logits, teacher_logits, mask, temperature)


def _masked_mean(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    student, teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    return (student.exp() * (student - teacher)).sum(-1)[mask.bool()].mean()


@cache
def _batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits of two models for two replies of different length, and their mask."""
    import torch

    generator = torch.Generator().manual_seed(11)
    student, teacher = 3 * torch.randn(2, 2, 5, 7, generator=generator)
    return student, teacher, torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


def grade_token_loss(answer: Any) -> None:
    """Call a function of two models' logits, the mask and the temperature."""
    hints = (
        (student_only, "Hand it twice the same logits at temperature 2: is the divergence 0?"),
        (teacher_only, "Now the teacher is softened and the student is not."),
        (no_temperature, "At another temperature than 1 this is another divergence; do not leave it out."),
        (every_place, "The padding of the shorter reply counts as well."),
        (
            times_its_square,
            "The factor temperature² keeps gradients from shrinking, but here the plain mean is asked for.",
        ),
    )
    for temperature in (2.0, 3.0, 1.0):
        batch = (*_batch(), temperature)
        value, expected = number(call(answer, *batch)), number(token_loss(*batch))
        if is_close(value, expected, 1e-4):
            continue
        name_mistake(hints, value, *batch, same=partial(is_close, tolerance=1e-4))
        raise NotYet(
            f"At temperature {temperature:g} your function returns {value:.4f} for a batch whose loss is "
            f"{expected:.4f}: both distributions at the temperature that it is given, the reverse KL, and "
            "the mean over tokens of replies."
        )


# --- 11b.4: one changed setting

SETTINGS = (
    "args.beta",
    "args.learning_rate",
    "args.temperature",
    "args.max_completion_length",
    "args.per_device_train_batch_size",
    "data.n_prompts",
)
_WON = paired_binary([True] * 60 + [False] * 40, [True] * 78 + [False] * 22)

EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        "11b.1",
        "predict",
        grade_nearer,
        _NEARER,
        (
            ({**_NEARER, "forward": "one mode"}, "with the teacher's probabilities"),
            ({**_NEARER, "reverse": "spread out"}, "with the student's own probabilities"),
            ({"forward": "spread out"}, "the keys"),
        ),
        "Forward, the student must cover all that the teacher may say; in reverse, it must not say what the "
        "teacher would not.",
    ),
    Exercise(
        "11b.2",
        "function",
        grade_jsd,
        jsd,
        (
            (weights_swapped, "has the weight beta"),
            (even_mixture, "and not a half each"),
            (to_the_mixture_from_it, "ends with the mixture"),
            (in_bits, "the natural one"),
            (zero_counts_as_one, "0 times the logarithm of 0"),
        ),
        "It is finite for any two distributions, since the mixture is 0 nowhere where one of them is not: at "
        "most the entropy of a coin with the weights beta and 1 - beta.",
    ),
    Exercise(
        "11b.3",
        "bug",
        grade_token_loss,
        token_loss,
        (
            (student_only, "twice the same logits"),
            (teacher_only, "the student is not"),
            (no_temperature, "do not leave it out"),
            (every_place, "padding of the shorter reply"),
            (always_two, "the temperature that it is given"),
            (times_its_square, "the plain mean"),
        ),
        "A divergence of a model from itself is 0, at any temperature: the first thing to test of a "
        "distillation loss.",
    ),
    change_exercise(
        "11b.4",
        SETTINGS,
        "args.beta=0.5",
        _WON,
        "One change, the same prompts and items, an interval, and a verdict that follows from it.",
    ),
)
