"""A file or public set as a directory that is ready to train on: three splits, statistics and a data card.

`python -m posttrain_helpers prepare tatsu-lab/alpaca ./alpaca --max-samples 5000`, then
`train sft data.source=./alpaca/train.jsonl`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain_helpers.data.conversations import listed_counts, usable_conversations
from posttrain_helpers.data.forms import turns
from posttrain_helpers.data.lengths import length_counts, length_profile, length_sentence, token_lengths
from posttrain_helpers.data.loading import public_rows
from posttrain_helpers.data.preferences import for_method
from posttrain_helpers.data.public.adapters import licence_of
from posttrain_helpers.data.public.files import local_file
from posttrain_helpers.environment.paths import (
    atomic_directory,
    naming_file,
    new_directory,
    write_json_atomic,
    write_text_atomic,
)
from posttrain_helpers.environment.profiles import Profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import Row
from posttrain_helpers.models.loading import load_tokenizer
from posttrain_helpers.models.manifest import BASE
from posttrain_helpers.recipes.checks import check_settings
from posttrain_helpers.recipes.methods import METHODS, method_named
from posttrain_helpers.recipes.sources import is_built_in
from posttrain_helpers.wording import counted

# Keys of a data section that say nothing here, and what to do in their place.
_ELSEWHERE = {
    "source": "name the file or Hub id as SOURCE",
    "seed": "set --seed",
    "held_out_samples": "dev and test are shares of the rows: set --test-share",
    "dev": "dev and test are shares of the rows: set --test-share",
    "length_groups": "set it in the recipe that trains",
}


def prepare(
    source: str,
    target: str | Path,
    method: str = "sft",
    *,
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
    max_length: int | None = None,
    test_share: float = 0.1,
    model: str = BASE,
    profile: str | Profile | None = None,
) -> Path:
    """Write the usable rows of a source as train, dev and test, which share no first question.

    Args:
        source: a file or a Hub id.
        target: a directory that does not exist, or is empty.
        method: which will learn from the rows, and so their form.
        data: more keys of a recipe's data section, such as `columns`, `max_samples` (of all three splits) and
            `system_prompt`.
        seed: of the order and the splits.
        max_length: rows of more tokens are dropped.
        test_share: of the rows for dev, and as many for test.
        model: whose tokenizer counts, and whose special tokens no text may hold.
        profile: what its name refers to; None takes the profile in use.

    Returns:
        The directory, written whole or not at all.

    Raises:
        CourseError: something at the target, a key that says nothing here, a source that cannot be read or
            holds nothing for the method, or too few different questions for the splits.
    """
    target, kind = new_directory(target), method_named(method).data
    if apart := [key for key in _ELSEWHERE if (data or {}).get(key) is not None]:
        raise CourseError(f"prepare: data.{apart[0]} has no meaning here; {_ELSEWHERE[apart[0]]}.")
    data = {**(data or {}), "source": source, "seed": seed}
    settings = {"method": method, "parent": BASE, "data": data, "args": {}, "lora": {}}
    check_settings(settings, "prepare")
    if is_built_in(source):
        raise CourseError(f"{source!r} is made anew by every recipe; prepare takes a file or a Hub id.")
    if not 0 <= test_share < 0.5 or (max_length is not None and max_length < 1):
        raise CourseError(
            f"the share of dev and of test must be at least 0 and below 0.5, and a length at least 1; found "
            f"{test_share} and {max_length}."
        )
    of_the_hub = local_file(source) is None
    tokenizer = load_tokenizer(model, profile)
    rows, form, dropped = public_rows(source, data, seed, kind, tokenizer)
    read = len(rows) + dropped.total()
    if (form, kind) == ("pairs", "conversations"):
        chosen = [{"messages": row["prompt"] + row["chosen"]} for row in rows]
        rows, repeated = usable_conversations(chosen, source)
        dropped.update(repeated)
        form = kind
    tokens = token_lengths(rows, tokenizer) if rows else []
    lengths = dict(zip(map(id, rows), tokens, strict=True))
    if max_length is not None:
        short = [row for row in rows if max(lengths[id(row)]) <= max_length]
        dropped[f"longer than {max_length:,} tokens"] += len(rows) - len(short)
        rows = short
    if not rows:
        raise CourseError(f"no row of {source!r} is left, {listed_counts(dropped) or 'it is empty'}.")
    usable, rows = len(rows), rows[: data.get("max_samples")]
    splits = _splits(rows, form, test_share, source)
    measured = [lengths[id(row)] for row in rows]
    written = {
        name: for_method(part, kind, seed).to_list() if (form, kind) == ("pairs", "labels") else part
        for name, part in splits.items()
    }
    facts = {
        "source": source if of_the_hub else Path(source).name,
        **{
            key: data[key]
            for key in ("subset", "split", "revision", "system_prompt")
            if data.get(key) is not None
        },
        "licence": (of_the_hub and licence_of(source)) or "not known here; ask the source",
        "method": method,
        "seed": seed,
        "rows read": read,
        "usable rows": usable,
        "rows": {name: len(part) for name, part in written.items()},
        "dropped": dict((+dropped).most_common()),
        "tokens": f"{length_sentence(measured, max_length)} Counted by the tokenizer of {Path(model).name}.",
    }
    counts = length_counts(measured)
    card = _card(facts, length_profile(counts))
    with naming_file(target), atomic_directory(target) as directory:
        for name, part in written.items():
            lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in part)
            write_text_atomic(directory / f"{name}.jsonl", "".join(lines))
        write_json_atomic(directory / "statistics.json", facts | {"lengths": counts})
        write_text_atomic(directory / "README.md", card)
    print(card.partition("---\n\n")[2])
    return target


def _splits(rows: list[Row], form: str, share: float, source: str) -> dict[str, list[Row]]:
    """Share out rows in their order; all that begin with one question fall into the same split."""
    questions = [
        next((turn["content"].strip() for turn in turns(row, form) if turn["role"] == "user"), "")
        for row in rows
    ]
    wanted = max(1, round(share * len(rows))) if share else 0
    counts, place, filled = Counter(questions), {}, Counter()
    for question, count in counts.items():
        place[question] = next((name for name in ("test", "dev") if filled[name] + count <= wanted), "train")
        filled[place[question]] += count
    expected = ("train", "dev", "test") if share else ("train",)
    if empty := [name for name in expected if not filled[name]]:
        raise CourseError(
            f"{source!r} has {counted(len(rows), 'usable row')} with "
            f"{counted(len(counts), 'different question')}, too few for the split {empty[0]!r}; give more, "
            "or --test-share 0 to have only train."
        )
    return {
        name: [row for row, question in zip(rows, questions, strict=True) if place[question] == name]
        for name in expected
    }


def _card(facts: Mapping[str, Any], profile: str) -> str:
    from huggingface_hub import DatasetCardData

    names = {"train": "train", "dev": "validation", "test": "test"}
    files = [{"split": names[name], "path": f"{name}.jsonl"} for name in facts["rows"]]
    licence = facts["licence"]
    data = DatasetCardData(
        license=None if licence.startswith("not ") else licence.partition(",")[0].lower().replace(" ", "-"),
        tags=["trl", facts["method"]],
        configs=[{"config_name": "default", "data_files": files}],
    )
    shown = {key: value for key, value in facts.items() if not isinstance(value, dict)}
    shown |= {name: counted(count, "row") for name, count in facts["rows"].items()}
    shown |= {f"dropped: {reason}": f"{count:,}" for reason, count in facts["dropped"].items()}
    cells = {key: str(value).replace("|", "&#124;").replace("\n", "<br>") for key, value in shown.items()}
    table = "\n".join(f"| {key} | {cell} |" for key, cell in cells.items())
    return f"""---
{data.to_yaml()}
---

# {facts["source"]}, prepared for {facts["method"]}

| | |
|---|---|
{table}

Rows that begin with the same question are in one split. Columns: {_COLUMNS[METHODS[facts["method"]].data]}.

```text
{profile}
```
"""


_COLUMNS = {
    "conversations": "messages",
    "pairs": "prompt, chosen, rejected",
    "labels": "prompt, completion, label",
    "prompts": "prompt, and what else the source has",
}
