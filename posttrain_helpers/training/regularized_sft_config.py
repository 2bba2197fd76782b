"""The arguments of `RegularizedSFTTrainer`: those of `trl.SFTConfig`, and two about the KL term."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trl import SFTConfig

from posttrain_helpers.errors import CourseError

DIRECTIONS = ("forward", "reverse")


@dataclass
class RegularizedSFTConfig(SFTConfig):
    """Arguments of a supervised fine-tuning that is held near the model that it starts from.

    Attributes:
        kl_beta: weight of the KL divergence in the loss; 0 is plain SFT, of which the divergence is measured.
        kl_direction: "forward" is KL(base || policy), which costs most where the base gives probability and
            the policy does not; "reverse" is KL(policy || base), which costs most where the policy gives
            probability and the base does not.
    """

    kl_beta: float = 0.1
    kl_direction: str = "forward"

    def __post_init__(self) -> None:
        beta = self.kl_beta
        is_number = isinstance(beta, int | float) and not isinstance(beta, bool)
        if not (is_number and math.isfinite(beta) and beta >= 0):
            raise CourseError(f"kl_beta must be a number of at least 0, but it is {beta!r}.")
        if self.kl_direction not in DIRECTIONS:
            raise CourseError(
                f"kl_direction must be 'forward', KL(base || policy), or 'reverse', KL(policy || base), but "
                f"it is {self.kl_direction!r}."
            )
        super().__post_init__()
