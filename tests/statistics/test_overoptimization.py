"""The curve of over-optimization: known curves are found again, and its peak is where it is highest."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain_helpers.statistics import fit_overoptimization

KL = np.array([0.5, 2.0, 6.0, 12.0, 30.0])


def test_a_known_curve_is_found_again() -> None:
    d = np.sqrt(KL)
    curve = fit_overoptimization(KL, d * (1.2 - 0.9 * np.log(d)))
    assert (curve.alpha, curve.beta, curve.explained) == pytest.approx((1.2, 0.9, 1.0))
    assert curve.gain(KL) == pytest.approx(d * (1.2 - 0.9 * np.log(d)))
    assert curve.gain([0.0]) == pytest.approx([0.0])


def test_the_peak_is_the_highest_point() -> None:
    d = np.sqrt(KL)
    curve = fit_overoptimization(KL, d * (1.2 - 0.9 * np.log(d)))
    grid = np.linspace(0.01, 60, 60_000)
    assert curve.peak == pytest.approx(grid[curve.gain(grid).argmax()], rel=1e-2)


def test_a_curve_that_does_not_turn_has_no_peak() -> None:
    assert fit_overoptimization(KL, np.sqrt(KL)).peak > 1e300
    assert fit_overoptimization(KL, KL).peak == math.inf


def test_noise_is_not_explained() -> None:
    assert fit_overoptimization(KL, [1.0, -1.0, 1.0, -1.0, 1.0]).explained < 0.5


def test_what_is_explained_is_what_the_mean_leaves() -> None:
    # Gains that are all but constant, which no curve through 0 is.
    assert fit_overoptimization(KL, [5.0, 5.1, 4.9, 5.0, 5.1]).explained < 0


@pytest.mark.parametrize(
    ("kl", "gain", "words"),
    [
        ([1.0], [1.0], "two unknowns"),
        ([1.0, 2.0], [1.0], "2 divergences, but 1 gains"),
        ([0.0, 1.0], [0.0, 1.0], "its divergence is 0"),
    ],
)
def test_points_that_decide_nothing_are_refused(kl: list[float], gain: list[float], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        fit_overoptimization(kl, gain)
