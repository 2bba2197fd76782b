"""How far two ways to one number may lie apart in float32, on any processor."""

from __future__ import annotations

from typing import Any

import pytest

# A few operations round by up to 3e-7 of the number; the mistakes in the tests change it by 1e-3 or more.
FEW_OPERATIONS = 1e-5
# AdamW's own 1e-8 turns the rounding of gradients that are almost 0 into whole steps.
ADAM_EPSILON = 1e-5
# With it, two ways to a few steps of 1e-3 end 1e-6 apart or less; a mistake changes weights by a whole step.
SAME_WEIGHTS = 1e-5


def close(expected: Any) -> Any:
    """Compare with what a few operations in float32 should give."""
    return pytest.approx(expected, rel=FEW_OPERATIONS)
