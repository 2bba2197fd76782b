"""Exercises of lesson 04: what few data do, how varied texts are, a KL term one place off, one change."""

from __future__ import annotations

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

# --- 04.1: what do ten conversations cost?

ASKED = ("loss", "right")
CHOICES = ("higher", "lower", "about the same")
_FEW = {"loss": "lower", "right": "lower"}


def grade_few(answer: Any) -> None:
    """Take a choice for each of two numbers."""
    said = choices_by_key(answer, ASKED, CHOICES)
    if said["loss"] != _FEW["loss"]:
        raise NotYet("The loss is that of the training rows. How often does the model see each of the ten?")
    if said["right"] != _FEW["right"]:
        raise NotYet(
            "The questions are about other entities. What carries over to them from ten conversations that "
            "were learned by heart, and what from many that were seen once?"
        )


# --- 04.2: distinct-n

TEXTS = (
    (["a b a b", "a b c"], 2),
    (["the cat sat", "the cat sat"], 1),
    (["one two three four", "two three", "three"], 3),
    (["x", "y"], 2),
    ([], 1),
)


def distinct_n(texts: list[str], n: int) -> float:
    """Return the share of different n-grams of words among all n-grams of the texts."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def mean_over_texts(texts: list[str], n: int) -> float:
    """Average the share of each text, so that what two texts have in common is not seen."""
    shares = [len(set(grams)) / len(grams) for text in texts if (grams := _grams(text, n))]
    return sum(shares) / len(shares) if shares else 0.0


def across_texts(texts: list[str], n: int) -> float:
    """Join the texts first, so that n-grams reach from one into the next."""
    return distinct_n([" ".join(texts)], n)


def per_word(texts: list[str], n: int) -> float:
    """Divide by the number of words."""
    words = sum(len(text.split()) for text in texts)
    return len({gram for text in texts for gram in _grams(text, n)}) / words if words else 0.0


def of_letters(texts: list[str], n: int) -> float:
    """Take letters for words."""
    return distinct_n([" ".join(text) for text in texts], n)


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def grade_distinct(answer: Any) -> None:
    """Call a function of texts and n."""
    hints = (
        (mean_over_texts, "What one text has in common with another must count: put all n-grams together."),
        (across_texts, "An n-gram must not begin in one text and end in the next."),
        (per_word, "Here it is divided by the number of n-grams, not by that of words (as the paper does)."),
        (of_letters, "Words are what blanks separate; these are single characters."),
    )
    for texts, n in TEXTS:
        value = number(call(answer, texts, n))
        if is_close(value, distinct_n(texts, n)):
            continue
        name_mistake(hints, value, texts, n)
        raise NotYet(
            f"For {texts} and n={n} your function returns {value:.3f}; {distinct_n(texts, n):.3f} is right."
        )


# --- 04.3: a KL term whose positions are one place off


def kl_term(policy_logits: torch.Tensor, base_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean forward KL at the positions that predict a trained token."""
    trained = labels[:, 1:] != -100
    return _forward_kl(policy_logits, base_logits)[:, :-1][trained].mean()


def unshifted(policy_logits: torch.Tensor, base_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Take the positions of the trained tokens themselves: the mistake that the notebook shows."""
    return _forward_kl(policy_logits, base_logits)[labels != -100].mean()


def shifted_the_wrong_way(
    policy_logits: torch.Tensor, base_logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Take the positions behind the trained tokens."""
    return _forward_kl(policy_logits, base_logits)[:, 1:][labels[:, :-1] != -100].mean()


def reverse_direction(
    policy_logits: torch.Tensor, base_logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Swap the models on the way."""
    return kl_term(base_logits, policy_logits, labels)


def every_position(
    policy_logits: torch.Tensor, base_logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Forget the mask."""
    return _forward_kl(policy_logits, base_logits)[:, :-1].mean()


def rolled(policy_logits: torch.Tensor, base_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Let a row's last position predict its first token."""
    return _forward_kl(policy_logits, base_logits)[labels.roll(-1, dims=1) != -100].mean()


def _forward_kl(policy_logits: torch.Tensor, base_logits: torch.Tensor) -> torch.Tensor:
    policy, reference = policy_logits.log_softmax(-1), base_logits.log_softmax(-1)
    return (reference.exp() * (reference - policy)).sum(-1)


@cache
def _batches() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return logits of two models, and labels: two rows of six tokens, and the same with one more.

    The third row has no prompt.
    """
    import torch

    generator = torch.Generator().manual_seed(4)
    policy, base = torch.randn(2, 3, 6, 5, generator=generator)
    labels = [[-100, -100, 3, 1, 4, -100], [-100, 2, 2, -100, -100, -100], [3, 4, 1, -100, -100, -100]]
    rows = torch.tensor(labels)
    return [(policy[:2], base[:2], rows[:2]), (policy, base, rows)]


def grade_kl_term(answer: Any) -> None:
    """Call a function of two models' logits and the labels."""
    hints = (
        (
            unshifted,
            "Which position predicts the first trained token? The header's last one, one place before.",
        ),
        (shifted_the_wrong_way, "The positions moved the wrong way: position t predicts token t + 1."),
        (reverse_direction, "The places are right, but the direction is the other one now."),
        (every_position, "Now every position counts, the user's words and the padding too."),
        (rolled, "What would predict the first token of a row? The row's last position does not."),
    )
    for batch in _batches():
        value, right = number(call(answer, *batch)), number(kl_term(*batch))
        if is_close(value, right, 1e-4):
            continue
        name_mistake(hints, value, *batch, same=partial(is_close, tolerance=1e-4))
        raise NotYet(
            f"Your function returns {value:.4f} for a batch whose term is {right:.4f}. Take the mean over "
            "the positions that predict a trained token, and over no others."
        )


# --- 04.4: one changed setting

SETTINGS = (
    "args.kl_beta",
    "args.learning_rate",
    "args.weight_decay",
    "args.max_steps",
    "args.lr_scheduler_type",
)
_LOST = paired_binary([True] * 90 + [False] * 10, [True] * 70 + [False] * 30)

EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        "04.1",
        "predict",
        grade_few,
        _FEW,
        (
            ({**_FEW, "loss": "about the same"}, "How often does the model see"),
            ({**_FEW, "right": "higher"}, "learned by heart"),
            ({"loss": "lower"}, "the keys"),
        ),
        "The training loss goes down to almost nothing while the answers get worse: a "
        "loss on rows that were seen many times says little about anything else.",
    ),
    Exercise(
        "04.2",
        "function",
        grade_distinct,
        distinct_n,
        (
            (mean_over_texts, "put all n-grams together"),
            (across_texts, "must not begin in one text"),
            (per_word, "not by that of words"),
            (of_letters, "single characters"),
        ),
        "Longer or more texts have a lower share by themselves: compare only sets of the same size.",
    ),
    Exercise(
        "04.3",
        "bug",
        grade_kl_term,
        kl_term,
        (
            (unshifted, "one place before"),
            (shifted_the_wrong_way, "the wrong way"),
            (reverse_direction, "the other one"),
            (every_position, "every position counts"),
            (rolled, "first token of a row"),
        ),
        "One place off, the term never looks at the first token of a reply, which decides most, and looks "
        "at what would follow the end instead. Nothing fails: it is 0 at the start and grows with training.",
    ),
    change_exercise(
        "04.4",
        SETTINGS,
        "args.max_steps=60",
        _LOST,
        "One change, the same questions, an interval, and a verdict that follows from it.",
    ),
)
