"""How the report card writes numbers, moments and names."""

from __future__ import annotations

_NAMES = {"grpo": "GRPO", "lora": "LoRA", "ppo": "PPO", "qlora": "QLoRA", "sft": "SFT"}


def lesson_title(lesson: str) -> str:
    """Return a lesson's name for readers: `08_ppo` becomes `08 PPO`."""
    order, _, rest = lesson.partition("_")
    first, *others = [_NAMES.get(word, word) for word in rest.split("_")]
    return " ".join([order, first[:1].upper() + first[1:], *others])


def number(value: float) -> str:
    """Return a number with as many digits as readers compare, and a true minus sign."""
    size = abs(value)
    if size >= 1000:
        text = f"{value:,.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    else:
        text = f"{value:.3f}" if size >= 0.0005 or size == 0 else f"{value:.1g}"
    return text.replace("-", "−")


def tick_label(value: float) -> str:
    """Return the label of a round value on an axis."""
    return f"{value:g}".replace("-", "−")


def signed(value: float) -> str:
    """Return a number as `number` does, with its sign; zero has none."""
    return f"+{number(value)}" if value > 0 else number(value + 0.0)


def interval(low: float, high: float) -> str:
    """Return an interval for readers, such as `0.912 to 0.951`."""
    return f"{number(low)} to {number(high)}"


def words(name: str) -> str:
    """Return a name of code for readers: `no_difference_shown` becomes `no difference shown`."""
    return {"non_inferior": "non-inferior"}.get(name, name.replace("_", " "))


def moment(written: str) -> str:
    """Return a time stamp (ISO 8601, UTC) for readers, to the minute."""
    return f"{written[:16].replace('T', ' ')} UTC" if written else "an unknown time"
