"""From a recipe to a TRL trainer, with the checks that TRL leaves to the reader.

`METHODS` names for each method of the course its config and trainer class; they are imported when they are
needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from posttrain_helpers.cpu_trainer import skip_untrained_positions
from posttrain_helpers.errors import CourseError
from posttrain_helpers.suggestions import closest

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

    from posttrain_helpers.recipes import Recipe

# A mask that is wrong is wrong in every row; a sample keeps the check below a second on large data sets.
MOST_ROWS_CHECKED = 2000


@dataclass(frozen=True)
class Method:
    """How to build the trainer of one method.

    Attributes:
        config: "module:class" of the arguments.
        trainer: "module:class" of the trainer.
        columns: alternatives of columns that the training set may have.
        check: called with the finished trainer; raises when it would train on the wrong tokens.
    """

    config: str
    trainer: str
    columns: tuple[tuple[str, ...], ...]
    check: Callable[[Trainer], None] | None = None


def config_class(method: str) -> type:
    """Return the config class of a method, such as `trl.SFTConfig`.

    Whatever trains asks for it first, so this is where TRL learns to skip untrained positions on a CPU.
    """
    config = _imported(_method(method).config)
    skip_untrained_positions()
    return config


def trainer_class(method: str) -> type:
    """Return the trainer class of a method, such as `trl.SFTTrainer`."""
    return _imported(_method(method).trainer)


def make_trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_dataset: Dataset,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trainer:
    """Build the trainer that a recipe describes and check what it would train on.

    Args:
        recipe: gives method and arguments.
        model: as `load_model_and_tokenizer` returns it.
        tokenizer: with chat template, end token and a padding token of its own.
        train_dataset: as `load_data` returns it.
        callbacks: more callbacks, such as `memory.callback()`.

    Returns:
        The TRL trainer, ready for `.train()`.

    Raises:
        CourseError: an argument that the config refuses, a missing column, a template that cannot mark
            replies, or a mask that supervises no token or no end token.
    """
    from transformers.trainer_callback import PrinterCallback

    method = _method(recipe.method)
    _check_columns(recipe, method, train_dataset)
    try:
        config = config_class(recipe.method)(**recipe.args)
    except (TypeError, ValueError) as error:
        raise CourseError(
            f"recipe {recipe.name!r}: {method.config.split(':')[1]} refuses its arguments: {error}"
        ) from error
    _check_template(config, tokenizer)
    trainer = trainer_class(recipe.method)(
        model=model,
        args=config,
        train_dataset=train_dataset,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # it prints one raw dict per log; `log_history` keeps them
    if method.check:
        method.check(trainer)
    return trainer


def train(trainer: Trainer) -> dict[str, float]:
    """Train, leave the model ready to generate, and return the final metrics.

    TRL leaves the model in training mode, in which generation without a cache writes garbage.

    Raises:
        CourseError: the GPU has too little memory.
    """
    import torch

    try:
        metrics = trainer.train().metrics
    except torch.cuda.OutOfMemoryError as error:
        size = trainer.args.per_device_train_batch_size
        raise CourseError(
            f"the GPU is out of memory at per_device_train_batch_size={size} ({str(error).split('. ')[0]}); "
            "lower it and raise gradient_accumulation_steps, set activation_checkpointing=true, or lower "
            "max_length."
        ) from error
    finally:
        trainer.model.eval()
    return metrics


def check_supervision(trainer: Trainer) -> None:
    """Check that the labels of the training set supervise replies and their end token.

    Args:
        trainer: an SFT trainer; its training set has `labels`, -100 where a token is not trained.

    Raises:
        CourseError: no row is left, a row has no supervised token, or the end token is never supervised.
    """
    dataset, tokenizer, args = trainer.train_dataset, trainer.processing_class, trainer.args
    if len(dataset) == 0:
        raise CourseError(
            f"no row has a supervised token within max_length={args.max_length}: the replies begin later; "
            "raise max_length."
        )
    labels = [row["labels"] for row in islice(dataset.select_columns("labels"), MOST_ROWS_CHECKED)]
    empty = [number for number, row in enumerate(labels) if all(label == -100 for label in row)]
    # Packing may cut a long question into a row of its own; alone it is no mistake.
    if len(empty) == len(labels) or (empty and not args.packing):
        raise CourseError(
            f"{len(empty)} of {len(labels)} rows have no supervised token (the first is row {empty[0]}): the "
            "mask hides every reply; check the {% generation %} markers of the chat template and the roles "
            "of the messages."
        )
    if not any(tokenizer.eos_token_id in row for row in labels):
        raise CourseError(
            f"the end token {tokenizer.eos_token!r} is supervised in none of {len(labels)} rows, so the "
            "model would never learn to stop; keep it inside the {% generation %} markers, and raise "
            "max_length if replies are cut off."
        )


METHODS: dict[str, Method] = {
    "sft": Method(
        config="trl:SFTConfig",
        trainer="trl:SFTTrainer",
        columns=(("messages",), ("prompt", "completion"), ("text",), ("input_ids", "labels")),
        check=check_supervision,
    ),
}


def _method(name: str) -> Method:
    if name not in METHODS:
        raise CourseError(
            f"the method {name!r} does not exist; {closest(name, METHODS)}The methods are "
            f"{', '.join(METHODS)}."
        )
    return METHODS[name]


def _imported(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(importlib.import_module(module), name)


def _check_columns(recipe: Recipe, method: Method, dataset: Dataset) -> None:
    found = set(dataset.column_names)
    if not any(found.issuperset(columns) for columns in method.columns):
        wanted = " or ".join("+".join(columns) for columns in method.columns)
        raise CourseError(
            f"the training set lacks the columns that {recipe.method!r} needs: {wanted}; found "
            f"{', '.join(sorted(found))}."
        )
    if len(dataset) == 0:
        raise CourseError("the training set has no rows; check the recipe's data section.")


def _check_template(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a template that cannot mark replies: TRL needs the markers, or must know the template."""
    if not getattr(config, "assistant_only_loss", False):
        return
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if not tokenizer.chat_template:
        raise CourseError(
            "the tokenizer has no chat template, so replies cannot be told from questions; load it with "
            "load_model_and_tokenizer(), which gives it one."
        )
    if has_generation_markers(tokenizer.chat_template):
        return
    try:
        get_training_chat_template(processing_class=tokenizer)
    except ValueError as error:
        raise CourseError(
            "the chat template has no {% generation %} markers and TRL does not know it, so "
            "assistant_only_loss cannot tell replies from questions; add the markers, or set "
            "tokenizer.chat_template = tinyworld.tokenizer.chat_template()."
        ) from error
