"""From a recipe's data section to a training set for TRL and held-out items for the comparison.

Sources: the built-in ones of the tiny world, a local file (see `data.public.readers`), and data sets of the
Hugging Face Hub. The latter two are read through an adapter (see `data.public.adapters`), or have one of
TRL's forms: a `messages` column; `prompt` and `completion`; `chosen` and `rejected` (`preferences` reads
these); `prompt`, `completion` and `label`; or for methods that sample their own replies a `prompt` column
(`prompts` reads it). Texts where messages might stand are one message each. What is dropped, and why, is
counted and printed.

Keys of the data section for such a source: `source`, `adapter` or `columns`, `split`, `subset`, `revision`,
`seed`, `max_samples`, `held_out_samples`, `length_groups`, `answer_format`, and
    dev: rows to watch the loss of while the others are trained on: a file, or a number of questions to hold
        back (of a built-in source too).
    system_prompt: a system turn before the first user turn of every row. It replaces a row's own, so that the
        model is trained with the one prompt that it will get; an empty text takes the rows' own away.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.data.conversations import listed_counts, usable_conversations
from posttrain_helpers.data.forms import (
    as_form,
    held_out_item,
    set_system_prompt,
    turns,
    with_clean_texts,
    with_messages,
)
from posttrain_helpers.data.labels import has_labels, usable_labels
from posttrain_helpers.data.preferences import explicit_pairs, for_method, in_length_groups, is_preference
from posttrain_helpers.data.prompts import prompt_dataset, usable_prompts
from posttrain_helpers.data.public.adapters import Adapter, convert, find_adapter, serves, text_adapter
from posttrain_helpers.data.public.files import local_file, read_rows
from posttrain_helpers.data.replay import tokenized_rows
from posttrain_helpers.data.tool_calls import calls_in_words
from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import Row, special_tokens, text_key
from posttrain_helpers.recipes.methods import METHODS
from posttrain_helpers.recipes.sources import data_types, is_built_in
from posttrain_helpers.wording import counted, suggestion

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from posttrain_helpers.recipes import Recipe

# More rows than are asked for, as some are dropped; the rest of a very large set is not looked at.
_SPARE_ROWS = 20_000


def load_data(
    recipe: Recipe, verbose: bool = True, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[Dataset, list[Row]]:
    """Load what a recipe trains on and what it is measured on.

    Args:
        recipe: its `data` section names the source and the sizes; its method decides the columns. Sizes of
            preference data count pairs.
        verbose: print one line that counts what was loaded and what was dropped.
        tokenizer: its special tokens are looked for in the texts of a file or public set, beside those of the
            usual families, which are always: such a text would forge the end of a turn. Conversations with
            calls of tools are kept if its chat template renders these.

    Returns:
        The training set in an order that the seed fixes (a `messages` column, for preference data the columns
        of `preferences.for_method`, for prompts `prompt` and whatever else their rows have) and the held-out
        items: dicts with `id`, `task`, `prompt` (messages) and `answer`, and `accepted` replies where exact
        ones exist.

    Raises:
        CourseError: unknown source or suite, unreadable file, missing column, rows that are not
            conversational or not of the kind that the method needs, nothing left after filtering.
    """
    train, _, held_out = load_rows(recipe, verbose, tokenizer)
    return train, held_out


def load_rows(
    recipe: Recipe, verbose: bool = True, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[Dataset, Dataset | None, list[Row]]:
    """Return what `load_data` does, with the dev rows in between: None where the recipe has no `data.dev`."""
    from datasets import Dataset

    source, data = recipe.data.get("source"), recipe.data
    if not isinstance(source, str) or not source:
        raise CourseError(
            f"recipe {recipe.name!r} has no data source; set data.source to 'tinyworld/sft', a .jsonl file "
            "or a Hub id."
        )
    seed = data.get("seed", recipe.seed)
    kind = METHODS[recipe.method].data
    if is_built_in(source):
        rows, held_out, dropped = _built_in(source, data, seed, recipe.profile)
    else:
        rows, held_out, dropped = _public(source, data, seed, kind, tokenizer)
    if not rows:
        reasons = listed_counts(dropped) or "the source is empty"
        raise CourseError(
            f"no training row of {source!r} is left: {len(held_out)} held out, {dropped.total()} dropped "
            f"({reasons}); correct the data or the recipe's data section."
        )
    if kind == "prompts":
        train = prompt_dataset(rows, recipe.method, source)
    elif is_preference(rows):
        train = for_method(rows, kind, seed)
    elif kind == "conversations" and any("text" in row for row in rows):
        train = tokenized_rows(rows, tokenizer)
    elif (kind == "labels" and has_labels(rows)) or (kind == "conversations" and "completion" in rows[0]):
        train = Dataset.from_list(rows)  # in random order, which KTO needs and does not make itself
    elif not any("messages" in row for row in rows):
        raise CourseError(
            f"the method {recipe.method!r} learns from replies, but the source {source!r} holds prompts "
            "without any; set data.source to one with conversations or pairs of replies."
        )
    elif kind == "conversations":
        train = Dataset.from_list(rows)
    else:
        raise CourseError(
            f"the method {recipe.method!r} learns from pairs of replies, but the source {source!r} holds "
            "conversations; set data.source to one with chosen and rejected replies."
        )
    train, dev, questions = _without_dev(train, held_out, recipe, tokenizer, dropped)
    if size := recipe.data.get("length_groups"):
        train = in_length_groups(train, size)
    if verbose:
        reasons = f"; dropped {dropped.total():,}: {listed_counts(dropped)}" if dropped.total() else ""
        watched = f", {len(dev):,} dev rows of {counted(questions, 'question')}" if dev else ""
        print(
            f"data {source}: {len(train):,} training rows{watched}, {len(held_out):,} held-out items{reasons}"
        )
    return train, dev, held_out


def _without_dev(
    train: Dataset,
    held_out: list[Row],
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase | None,
    dropped: Counter[str],
) -> tuple[Dataset, Dataset | None, int]:
    """Return the rows to train on, those to watch meanwhile, and of how many questions the latter are."""
    # A question is all of a conversation but its last turn. Held-out items share none with either part.
    wanted = recipe.data.get("dev")
    if wanted is None:
        return train, None, 0
    of_train = [_turns(row) for row in train]
    if isinstance(wanted, str):
        apart = ("dev", "max_samples", "held_out_samples", "length_groups")
        data = {
            key: recipe.data[key] for key in data_types(wanted) if key in recipe.data and key not in apart
        }
        _check_dev_file(recipe)
        dev, _ = load_data(
            replace(recipe, data=data | {"source": wanted}), verbose=False, tokenizer=tokenizer
        )
        held_back = {text_key(item["prompt"]) for item in held_out}
        of_dev = [_turns(row) for row in dev]
        kept = [place for place, messages in enumerate(of_dev) if not _begins_with(held_back, messages)]
        dropped["dev row with the prompt of a held-out item"] += len(dev) - len(kept)
        dev, questions = dev.select(kept), {text_key(of_dev[place][:-1]) for place in kept}
    else:
        all_of_them = dict.fromkeys(text_key(messages[:-1]) for messages in of_train)
        questions = set([*all_of_them][: max(0, wanted)])
        dev = train.select(
            [place for place, messages in enumerate(of_train) if text_key(messages[:-1]) in questions]
        )
    kept = [place for place, messages in enumerate(of_train) if not _begins_with(questions, messages)]
    if not kept or not questions:
        raise CourseError(
            f"data.dev={wanted} leaves {len(kept):,} of {len(train):,} training rows and {len(questions):,} "
            "questions to watch that are no held-out items; each needs at least one."
        )
    dropped["prompt of a dev row"] += len(train) - len(kept) - (0 if isinstance(wanted, str) else len(dev))
    return train.select(kept), dev, len(questions)


def _turns(row: Row) -> list[Row]:
    """Return the messages of a training row and its reply last; of a row of tokens, these as a question."""
    if row.get("messages") and not row.get("prompt"):  # prompts may have any other column
        return row["messages"]
    prompt = row.get("prompt") or str(row)
    if isinstance(prompt, str):  # rendered already, or tokens
        prompt = [{"role": "user", "content": prompt}]
    return [*prompt, {"role": "assistant", "content": ""}]


def _begins_with(questions: Collection[str], messages: list[Row]) -> bool:
    """Say whether a conversation is one of the questions, as `text_key` writes them, or goes on from one."""
    return any(text_key(messages[:end]) in questions for end in range(1, len(messages) + 1))


def _check_dev_file(recipe: Recipe) -> None:
    dev = recipe.data.get("dev")
    if isinstance(dev, str) and not is_built_in(dev):
        local_file(dev, "data.dev")


def raw_rows(recipe: Recipe) -> list[Row]:
    """Return rows of a recipe's file or public set as they are, before anything is renamed or dropped.

    Of a larger set these are a thousand, drawn by the recipe's seed.

    Raises:
        CourseError: a built-in source, or one that cannot be read.
    """
    source = recipe.data.get("source")
    if not isinstance(source, str) or is_built_in(source):
        raise CourseError(f"raw rows are those of a file or a set on the Hub, but the source is {source!r}.")
    adapter = find_adapter(source, recipe.data)
    return read_rows(source, recipe.data, adapter, recipe.data.get("seed", recipe.seed), 1000)


# Module and function that make each source. The function's parameters are the keys of `recipes.sources`, and
# `profile`. It returns rows and suites, and what it dropped if it drops anything.
BUILDERS = {
    "tinyworld/sft": ("tasks", "build_sft_data"),
    "tinyworld/preferences": ("training_data.preferences", "build_preference_data"),
    "tinyworld/judgements": ("training_data.judgements", "build_judgement_data"),
    "tinyworld/best_of_k": ("training_data.made_data", "build_best_of_k_data"),
    "tinyworld/ai_feedback": ("training_data.made_data", "build_ai_feedback_data"),
    "tinyworld/prompts": ("training_data.prompts", "build_prompt_data"),
    "tinyworld/word_problems": ("training_data.prompts", "build_word_problem_data"),
    "tinyworld/distillation": ("training_data.distillation", "build_distillation_data"),
}


def builder(source: str) -> Callable[..., tuple]:
    """Return the function that makes a built-in source."""
    module, function = BUILDERS[source]
    return getattr(import_module(f"posttrain_helpers.tinyworld.{module}"), function)


def _built_in(
    source: str, data: dict[str, Any], seed: int, profile: str
) -> tuple[list[Row], list[Row], Counter[str]]:
    function = builder(source)
    settings = {**data, "seed": seed, "profile": profile}
    parameters = signature(function).parameters
    given = {key: settings[key] for key in parameters if settings.get(key) is not None}
    needed = [key for key, parameter in parameters.items() if parameter.default is Parameter.empty]
    if missing := [f"data.{key}" for key in needed if key not in given]:
        raise CourseError(f"the source {source!r} needs {', '.join(missing)}; set it in the recipe.")
    rows, suites, *counted = function(**given)
    names = data.get("held_out")
    if names is None:
        names = list(suites)
    names = [names] if isinstance(names, str) else names
    for name in names:
        if name not in suites:
            raise CourseError(
                f"data.held_out: the suite {name!r} does not exist{suggestion(name, suites)}The suites of "
                f"{source} are {', '.join(suites)}."
            )
    return rows, [item for name in names for item in suites[name]], Counter(*counted)


# What keeps the usable rows of each form.
_USABLE = {
    "conversations": usable_conversations,
    "pairs": explicit_pairs,
    "labels": usable_labels,
    "prompts": usable_prompts,
}


def check_source(recipe: Recipe) -> bool:
    """Check that a method can learn from a file or public set, as far as that shows without its rows.

    Returns:
        Whether the rows would be downloaded; those of a built-in source are not.

    Raises:
        CourseError: the file does not exist, or the set is one for other methods.
    """
    source = recipe.data.get("source")
    _check_dev_file(recipe)
    if not isinstance(source, str) or not source or is_built_in(source):
        return False
    _adapter_for(source, recipe.data, METHODS[recipe.method].data)
    return local_file(source) is None


def _adapter_for(source: str, data: Mapping[str, Any], kind: str) -> Adapter | None:
    adapter = find_adapter(source, data)
    if adapter and not serves(adapter.kind, kind):
        raise CourseError(
            f"the columns of {source!r} are read as {adapter.kind}, but this recipe's method learns from "
            f"{kind}; choose another source, or say with data.columns how to read this one."
        )
    return adapter


def public_rows(
    source: str, data: Mapping[str, Any], seed: int, kind: str, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[list[Row], str, Counter[str]]:
    """Return the usable rows of a file or public set in an order that the seed fixes.

    Args:
        data: the data section of a recipe.
        seed: of the order, and of the rows drawn where there are many more than are asked for.
        kind: of the rows that a method learns from.

    Returns:
        The rows, their form (a key of `forms.PARTS`), and how many were dropped for which reason.

    Raises:
        CourseError: as `load_data`.
    """
    adapter = _adapter_for(source, data, kind)
    most, held_out_count = data.get("max_samples"), data.get("held_out_samples")
    limit = None if most is None else 10 * (most + (held_out_count or 0)) + _SPARE_ROWS
    rows = read_rows(source, data, adapter, seed, limit)
    converted: Counter[str] = Counter()
    plain = None if adapter or kind == "prompts" else text_adapter(rows)
    if plain and serves(plain.kind, kind):
        adapter = plain
    if adapter:
        rows, converted = convert(adapter, rows, source)
        form = adapter.kind
    else:
        rows = with_messages(rows)
        form = _form_of(rows, kind)
    if form == "conversations" and tokenizer is not None:
        rows = [
            row | {"messages": calls_in_words(row["messages"], tokenizer)} if "messages" in row else row
            for row in rows
        ]
    kept, dropped = _USABLE[form](rows, source)
    dropped.update(converted)
    # What a method needs; `for_method` makes that of pairs later.
    wanted = form if form == "pairs" and kind != "prompts" else kind
    if wanted != form:
        kept = as_form(kept, form, wanted, dropped)
    kept = set_system_prompt(kept, wanted, data.get("system_prompt"), dropped)
    kept = with_clean_texts(kept, wanted, dropped, special_tokens(tokenizer) if tokenizer else ())
    random.Random(seed).shuffle(kept)
    return kept, wanted, dropped


def _public(
    source: str, data: dict[str, Any], seed: int, kind: str, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[list[Row], list[Row], Counter[str]]:
    kept, form, dropped = public_rows(source, data, seed, kind, tokenizer)
    held_out, kept = _split(kept, form, data.get("held_out_samples"), dropped)
    path = local_file(source)
    name = path.stem if path else Path(source).name  # a Hub id may hold a dot and has no ending
    items = [held_out_item(row, form, f"{name}/{number}") for number, row in enumerate(held_out)]
    return kept[: data.get("max_samples")], items, dropped


def _form_of(rows: list[Row], kind: str) -> str:
    """Return the form of rows that no adapter has read: TRL's own, as the method and the first row tell."""
    if kind == "prompts":
        return "prompts"
    if kind in ("labels", "conversations") and has_labels(rows):
        return "labels"
    return "pairs" if kind != "conversations" or is_preference(rows) else "conversations"


def _split(
    rows: list[Row], form: str, count: int | None, dropped: Counter[str]
) -> tuple[list[Row], list[Row]]:
    """Take `count` rows with prompts of their own; whatever else has one of these prompts is dropped."""
    if count is None:
        return [], rows
    held_out: dict[str, Row] = {}
    for row in rows:
        if len(held_out) == count:
            break
        messages = turns(row, form)
        if messages[-1]["role"] == "assistant" and len(messages) > 1:
            held_out.setdefault(text_key(messages[:-1]), row)
    chosen = {id(row) for row in held_out.values()}
    kept = []
    for row in rows:
        if id(row) in chosen:
            continue
        if _begins_with(held_out, turns(row, form)):
            dropped["prompt of a held-out item"] += 1
        else:
            kept.append(row)
    return list(held_out.values()), kept
