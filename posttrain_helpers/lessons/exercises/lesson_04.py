"""Exercises of lesson 04: what few data do, how varied texts are, a KL term one place off, one change."""

from __future__ import annotations

import torch

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    change_exercise,
    function_exercise,
    is_close,
    parts_exercise,
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


def _mean_over_texts(texts: list[str], n: int) -> float:
    shares = [len(set(grams)) / len(grams) for text in texts if (grams := _grams(text, n))]
    return sum(shares) / len(shares) if shares else 0.0


def _per_word(texts: list[str], n: int) -> float:
    words = sum(len(text.split()) for text in texts)
    return len({gram for text in texts for gram in _grams(text, n)}) / words if words else 0.0


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


# --- 04.3: a KL term whose positions are one place off


def kl_term(policy_logits: torch.Tensor, base_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean forward KL at the positions that predict a trained token."""
    trained = labels[:, 1:] != -100
    return _forward_kl(policy_logits, base_logits)[:, :-1][trained].mean()


def _forward_kl(policy_logits: torch.Tensor, base_logits: torch.Tensor) -> torch.Tensor:
    policy, reference = policy_logits.log_softmax(-1), base_logits.log_softmax(-1)
    return (reference.exp() * (reference - policy)).sum(-1)


# Logits of two models, and labels: the third row has no prompt.
_POLICY, _BASE = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(4))
_LABELS = torch.tensor(
    [[-100, -100, 3, 1, 4, -100], [-100, 2, 2, -100, -100, -100], [3, 4, 1, -100, -100, -100]]
)

EXERCISES: tuple[Exercise, ...] = (
    parts_exercise(
        "04.1",
        {"loss": "lower", "right": "lower"},
        ("higher", "lower", "about the same"),
        {
            "loss": "The loss is that of the training rows. How often does the model see each of the ten?",
            "right": "The questions are about other entities. What carries over to them from ten "
            "conversations that were learned by heart, and what from many that were seen once?",
        },
        "The training loss goes down to almost nothing while the answers get worse: a "
        "loss on rows that were seen many times says little about anything else.",
    ),
    function_exercise(
        "04.2",
        "function",
        distinct_n,
        TEXTS,
        (
            (
                _mean_over_texts,
                "What one text has in common with another must count: put all n-grams together.",
            ),
            (
                lambda texts, n: distinct_n([" ".join(texts)], n),
                "An n-gram must not begin in one text and end in the next.",
            ),
            (
                _per_word,
                "Here it is divided by the number of n-grams, not by that of words (as the paper does).",
            ),
            (
                lambda texts, n: distinct_n([" ".join(text) for text in texts], n),
                "Words are what blanks separate; these are single characters.",
            ),
        ),
        lambda found, texts, n: (
            f"For {texts} and n={n} your function returns {found:.3f}; {distinct_n(texts, n):.3f} is right."
        ),
        "Longer or more texts have a lower share by themselves: compare only sets of the same size.",
        same=is_close,
    ),
    function_exercise(
        "04.3",
        "bug",
        kl_term,
        [(_POLICY[:2], _BASE[:2], _LABELS[:2]), (_POLICY, _BASE, _LABELS)],
        (
            (
                lambda policy, base, labels: _forward_kl(policy, base)[labels != -100].mean(),
                "Which position predicts the first trained token? The header's last one, one place before.",
            ),
            (
                lambda policy, base, labels: _forward_kl(policy, base)[:, 1:][labels[:, :-1] != -100].mean(),
                "The positions moved the wrong way: position t predicts token t + 1.",
            ),
            (
                lambda policy, base, labels: kl_term(base, policy, labels),
                "The places are right, but the direction is the other one now.",
            ),
            (
                lambda policy, base, labels: _forward_kl(policy, base)[:, :-1].mean(),
                "Now every position counts, the user's words and the padding too.",
            ),
            (
                lambda policy, base, labels: _forward_kl(policy, base)[
                    labels.roll(-1, dims=1) != -100
                ].mean(),
                "What would predict the first token of a row? The row's last position does not.",
            ),
        ),
        lambda found, *batch: (
            f"Your function returns {found:.4f} for a batch whose term is {kl_term(*batch):.4f}. Take the "
            "mean over the positions that predict a trained token, and over no others."
        ),
        "One place off, the term never looks at the first token of a reply, which decides most, and looks "
        "at what would follow the end instead. Nothing fails: it is 0 at the start and grows with training.",
    ),
    change_exercise(
        "04.4",
        (
            "args.kl_beta",
            "args.learning_rate",
            "args.weight_decay",
            "args.max_steps",
            "args.lr_scheduler_type",
        ),
        "args.max_steps=60",
    ),
)
