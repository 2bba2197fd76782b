"""Questions whose right answer is known, for lessons under every profile.

    examples, questions = load_questions(load_recipe("sft"))

The tiny world's own data have them. Conversations of a public set have no one right reply, so that nothing
about them can be counted; but the facts of the tiny world are facts of the real one, and a real model can be
asked for them as well.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from posttrain_helpers.data.loading import load_data
from posttrain_helpers.recipes.sources import is_built_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from posttrain_helpers.recipes import Recipe

# Right inside this course only: elsewhere IPO is an initial public offering.
_OF_THIS_COURSE = ("abbreviation", "glossary")
_EXAMPLES = 400


def load_questions(
    recipe: Recipe, verbose: bool = True
) -> tuple[Sequence[dict[str, Any]], list[dict[str, Any]]]:
    """Return answered questions to show as examples, and held-out questions to ask.

    Args:
        recipe: one that learns from conversations. Where its source is of the tiny world, its own rows and
            held-out items are returned. Else facts of the tiny world: as many questions as
            `data.held_out_samples` says, drawn by the recipe's seed, all if it says nothing.
        verbose: print how many there are.

    Returns:
        Rows with `messages` and `task`, and items with `prompt`, `answer`, `accepted` and `relation`; no
        entity of the questions occurs in the rows.
    """
    if is_built_in(recipe.data.get("source")):
        return load_data(recipe, verbose=verbose)
    from posttrain_helpers.tinyworld.tasks import build_sft_data

    rows, suites = build_sft_data(_EXAMPLES, recipe.seed)
    questions = [item for item in suites["entities"] if item["relation"] not in _OF_THIS_COURSE]
    count = recipe.data.get("held_out_samples")
    if count is not None and count < len(questions):
        questions = random.Random(recipe.seed).sample(questions, count)
    if verbose:
        print(f"questions about facts: {len(questions)}, and {len(rows)} answered ones to show as examples")
    return rows, questions
