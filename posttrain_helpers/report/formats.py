"""How the report card writes numbers, times and names."""

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


def duration(seconds: float) -> str:
    """Return a time for readers, such as `48 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def words(name: str) -> str:
    """Return a name of code for readers: `no_difference_shown` becomes `no difference shown`."""
    return {"non_inferior": "non-inferior"}.get(name, name.replace("_", " "))


def moment(written: str) -> str:
    """Return a time stamp (ISO 8601, UTC) for readers, to the minute."""
    return f"{written[:16].replace('T', ' ')} UTC" if written else "an unknown time"
