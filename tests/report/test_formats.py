"""Numbers, times and names as the report card writes them."""

from __future__ import annotations

import pytest

from posttrain_helpers.report.formats import (
    interval,
    lesson_title,
    moment,
    number,
    signed,
    tick_label,
    words,
)
from posttrain_helpers.statistics.paired_tests import format_p


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.7, "0.700"),
        (-0.0243, "−0.024"),
        (12.34, "12.3"),
        (12345.6, "12,346"),
        (0.0, "0.000"),
        (1e-5, "1e−05"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_words_for_readers() -> None:
    assert lesson_title("01_supervised_fine_tuning") == "01 Supervised fine tuning"
    assert lesson_title("08_ppo") == "08 PPO"
    assert lesson_title("03_lora_and_qlora") == "03 LoRA and QLoRA"
    assert [signed(value) for value in (0.5, 0.0, -0.0, -0.5)] == ["+0.500", "0.000", "0.000", "−0.500"]
    assert [format_p(1e-9), format_p(0.031), format_p(0.0002, at_floor=True)] == [
        "p < 0.0001",
        "p = 0.031",
        "p <= 0.0002",
    ]
    assert interval(-0.5, 12.345) == "−0.500 to 12.3"
    assert [tick_label(value) for value in (-0.5, 0.0, 2000.0)] == ["−0.5", "0", "2000"]
    assert words("non_inferior") == "non-inferior"
    assert words("no_difference_shown") == "no difference shown"
    assert moment("2026-01-02T03:04:05+00:00") == "2026-01-02 03:04 UTC"
    assert moment("") == "an unknown time"
