"""Bradley-Terry ratings, from pairs of replies that were judged against each other.

A match is a row `(first, second, outcome)` or `(first, second, outcome, prompt)`: two labels of models, 1
when the first one wins, 0 when the second one does, 0.5 for a tie, and the prompt that they answered.
Unlike ratings that are updated match by match, as online Elo's are, these do not depend on the order of the
rows.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.intervals import TAIL

# Ten times as likely to win is 400 points apart.
ELO_PER_NAT = 400 / math.log(10)
CENTRE = 1000.0
_MAX_STEPS = 200
_CLOSE_ENOUGH = 1e-12

Match = tuple[str, str, float] | tuple[str, str, float, Hashable]


@dataclass(frozen=True)
class Ranking:
    """Ratings on the Elo scale, with 95 % intervals.

    Attributes:
        ratings: the rating of every label, best first; their mean is 1000.
        low, high: ends of the interval of each rating, by label.
    """

    ratings: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]


def bradley_terry(matches: Iterable[Match], *, resamples: int = 500, seed: int = 0) -> Ranking:
    """Rate models so that the logit of a win is the difference of their strengths; a tie is half a win each.

    A model that wins every match has no finite strength of largest likelihood. Virtual ties keep it finite:
    in total one per free parameter (the number of labels less one), as many as Jeffreys' prior adds, shared
    out by the leverage of each compared pair in a field of equals. For two models with `w` wins in `n`
    matches, the difference of strengths is log((w + 1/2) / (n - w + 1/2)).

    The interval is a Bayesian bootstrap over prompts: each resample gives every prompt, with all of its
    matches, a random weight, and splits the virtual ties at random. For two models it is Jeffreys' interval
    of a rate when every prompt has one match without a tie. The matches of one prompt are alike, so weighting
    them one by one would make the intervals too narrow. Below about 20 prompts they are somewhat too narrow
    in any case: for 10 prompts, simulated 95 % intervals cover in 89 to 97 %.

    Args:
        matches: rows (first, second, outcome) or (first, second, outcome, prompt); either all rows name their
            prompt or none does, and then every row counts as a prompt of its own.
        resamples: number of resamples.
        seed: seed of the resampling.

    Returns:
        The ratings on the Elo scale, 400 / log(10) times the strength.

    Raises:
        CourseError: when there are no rows, or groups of labels were never compared with one another.

    Source: Bradley and Terry (1952), Biometrika 39, 324-345; Firth (1993), Biometrika 80, 27-38, for the
    prior; Rubin (1981), Annals of Statistics 9, 130-134, for the bootstrap.
    """
    rows = [tuple(row) for row in matches]
    if not rows:
        raise CourseError("A ranking needs matches of at least two models; found none. Judge some pairs.")
    for row in rows:
        assert len(row) == len(rows[0]) in (3, 4), f"{row} is no match"
        assert row[0] != row[1], f"{row} is no match"
        assert row[2] in (0, 0.5, 1), f"{row}: an outcome is 1, 0.5 or 0"
    labels = list(dict.fromkeys(label for row in rows for label in row[:2]))
    by_prompt = _wins_by_prompt(rows, labels)
    shape = (len(labels), len(labels))
    wins = np.asarray(by_prompt.sum(axis=0)).reshape(shape)
    played = wins + wins.T
    _check_connected(played, labels)
    virtual = _virtual_ties(played)

    draws = np.random.default_rng(seed)
    weights = draws.standard_exponential((resamples, by_prompt.shape[0]))
    resampled_wins = np.asarray(weights @ by_prompt).reshape(resamples, *shape)
    resampled_wins += draws.standard_gamma(virtual / 2, size=(resamples, *shape))

    ratings = CENTRE + ELO_PER_NAT * _strengths((wins + virtual / 2)[None])[0]
    low, high = np.quantile(CENTRE + ELO_PER_NAT * _strengths(resampled_wins), (TAIL, 1 - TAIL), axis=0)
    order = np.argsort(-ratings, kind="stable")
    return Ranking(*({labels[i]: float(values[i]) for i in order} for values in (ratings, low, high)))


def _wins_by_prompt(rows: Sequence[Match], labels: Sequence[str]) -> Any:
    """Return a sparse matrix [prompts, labels * labels]: how often the row label beats the column label."""
    from scipy.sparse import csr_array

    places = {label: place for place, label in enumerate(labels)}
    names = [row[3] if len(row) == 4 else place for place, row in enumerate(rows)]
    prompts = {name: place for place, name in enumerate(dict.fromkeys(names))}
    first = np.array([places[row[0]] for row in rows])
    second = np.array([places[row[1]] for row in rows])
    outcome = np.array([row[2] for row in rows], dtype=float)
    prompt = np.array([prompts[name] for name in names])
    cells = np.concatenate([first * len(labels) + second, second * len(labels) + first])
    values = np.concatenate([outcome, 1 - outcome])
    return csr_array((values, (np.tile(prompt, 2), cells)), shape=(len(prompts), len(labels) ** 2))


def _check_connected(played: np.ndarray, labels: Sequence[str]) -> None:
    from scipy.sparse.csgraph import connected_components

    count, group = connected_components(played > 0, directed=False)
    if count > 1:
        groups = [[label for label, own in zip(labels, group, strict=True) if own == k] for k in range(count)]
        raise CourseError(
            "Ratings need comparisons that link all models; found groups that were never compared with one "
            f"another: {'; '.join(', '.join(map(str, names)) for names in groups)}. Judge a pair across them."
        )


def _virtual_ties(played: np.ndarray) -> np.ndarray:
    # The leverage of a pair when all strengths are equal: its number of matches times the resistance between
    # its ends when every match is a resistor of 1 ohm. These add up to the number of labels less one
    # (Foster's theorem), and to at least 1 over the pairs that link any two parts of the labels, so that no
    # part can drift off.
    inverse = np.linalg.pinv(np.diag(played.sum(1)) - played)
    resistance = np.diag(inverse)[:, None] + np.diag(inverse)[None, :] - inverse - inverse.T
    return played * resistance


def _strengths(wins: np.ndarray) -> np.ndarray:
    """Return the likeliest strengths, in nats [tables, labels], of tables of wins [tables, labels, labels].

    Source: Newton's method, after Sun and Tran-Dinh (2019), arXiv:1703.04599: a step shortened by
    log(1 + r) / r, with r the largest change of a difference of strengths, always raises a logistic
    likelihood, where a full one may diverge.
    """
    from scipy.special import expit

    tables, labels, _ = wins.shape
    strengths = np.zeros((tables, labels))
    played = wins + wins.swapaxes(1, 2)
    for _ in range(_MAX_STEPS):
        # Both chances on their own, as 1 - chance would round a small one off.
        beats = expit(strengths[:, :, None] - strengths[:, None, :])
        loses = beats.swapaxes(1, 2)
        gradient = (wins * loses - wins.swapaxes(1, 2) * beats).sum(-1)
        weights = played * beats * loses
        total = weights.sum(-1)
        # Strengths are determined up to a constant: adding it makes the matrix regular and keeps the mean 0.
        constant = total.sum(-1)[:, None, None] / labels**2
        information = total[:, :, None] * np.eye(labels) - weights + constant
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        largest = np.maximum(np.ptp(step, axis=-1, keepdims=True), np.finfo(float).tiny)
        strengths += step * np.log1p(largest) / largest
        # Twice the gain in log-likelihood that is left. The change of the strengths themselves has no such
        # limit: where a pair has next to no losses, the likelihood is flat.
        if (gradient * step).sum(-1).max() < _CLOSE_ENOUGH:
            return strengths
    raise RuntimeError(f"Bradley-Terry strengths still change after {_MAX_STEPS} steps.")
