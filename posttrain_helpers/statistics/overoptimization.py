"""Over-optimization: true quality as a function of the distance from where training began."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OveroptimizationCurve:
    """The curve gain(d) = d (alpha - beta ln d), where d is the square root of the KL divergence.

    Attributes:
        alpha: gain per unit of distance where d is 1.
        beta: how fast that falls with the distance.
        explained: share of the variance of the gains that the curve explains; below 0 a constant does better.
    """

    alpha: float
    beta: float
    explained: float

    @property
    def peak(self) -> float:
        """The KL divergence at which the curve is highest; infinite for a curve that does not turn."""
        if self.beta <= 0:
            return math.inf
        return math.exp(min(2 * (self.alpha / self.beta - 1), 700.0))

    def gain(self, kl: Sequence[float]) -> np.ndarray:
        """Return the gain at KL divergences of at least 0."""
        distance = np.sqrt(np.asarray(kl, dtype=float))
        # d ln d tends to 0 with d.
        return distance * (self.alpha - self.beta * np.log(np.where(distance > 0, distance, 1.0)))


def fit_overoptimization(kl: Sequence[float], gain: Sequence[float]) -> OveroptimizationCurve:
    """Fit the curve of over-optimization by reinforcement learning to points, by least squares.

    Args:
        kl: KL divergence from the first policy, above 0, in nats.
        gain: mean quality less that of the first policy.

    Source: Gao, Schulman and Hilton (2023), arXiv:2210.10760, the form for reinforcement learning.
    """
    distances, gains = np.sqrt(np.asarray(kl, dtype=float)), np.asarray(gain, dtype=float)
    assert distances.shape == gains.shape, f"{len(distances)} divergences, but {len(gains)} gains"
    assert len(np.unique(distances)) >= 2, "two unknowns need 2 different divergences"
    assert (distances > 0).all(), "leave out the first policy: its divergence is 0"
    terms = np.stack([distances, -distances * np.log(distances)], axis=1)
    alpha, beta = np.linalg.lstsq(terms, gains, rcond=None)[0]
    spread = ((gains - gains.mean()) ** 2).sum()
    left = ((gains - terms @ (alpha, beta)) ** 2).sum()
    return OveroptimizationCurve(float(alpha), float(beta), float(1 - left / spread) if spread else math.nan)
