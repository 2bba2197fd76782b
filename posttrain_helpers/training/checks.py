"""What can make a training worthless without an error: checked on the finished trainer, before it trains.

Each check takes a trainer whose data set TRL has already tokenized, so that it sees what the model will see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import positions
from posttrain_helpers.models.chat_markers import changes_replies, check_markers

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, Trainer

# A mask that is wrong is wrong in every row; a sample keeps the check below a second on large data sets.
MOST_ROWS_CHECKED = 2000
# A shuffled data set fails the check of its order less often than this; the run of either label may fail it.
CHANCE_OF_FALSE_ALARM = 1e-6


def check_positions(model: PreTrainedModel, args: Any) -> None:
    """Check that no row is longer than a table of learned positions, as GPT-2 and OPT have one.

    Rotary positions can be computed for any length; a learned one that is missing ends a GPU's kernel with an
    assertion that names nothing.

    Args:
        model: to be trained.
        args: the trainer's; `max_length` and `max_completion_length` say how long rows become.

    Raises:
        CourseError: rows may be longer than the table.
    """
    from torch.nn import Embedding

    limit = positions(model)
    # OPT's table has two rows more than positions.
    tables = [
        module
        for module in model.modules()
        if isinstance(module, Embedding) and module is not model.get_input_embeddings()
    ]
    if not any(limit <= table.num_embeddings <= limit + 2 for table in tables):
        return
    for name in ("max_length", "max_completion_length"):
        length = getattr(args, name, None)
        if length is not None and length > limit:
            raise CourseError(
                f"args.{name} is {length}, but the model has learned a table of {limit} positions and "
                f"cannot read longer rows; set args.{name}={limit} or less."
            )


def check_unpatched(model: PreTrainedModel) -> None:
    """Check that a model can be copied: the forward of one that TRL has trained is bound to the original.

    Raises:
        CourseError: another trainer has replaced its forward.
    """
    if "forward" in vars(model):
        raise CourseError(
            "the model's forward was replaced by another trainer, and a copy of it would go on running the "
            "original's weights; save the model as a stage and load it from there."
        )


def check_supervision(trainer: Trainer) -> None:
    """Check that the labels of the training set supervise replies and their end token.

    Args:
        trainer: an SFT trainer; its training set has `labels`, -100 where a token is not trained.

    Raises:
        CourseError: the chat template cannot mark replies, no row is left, a row has no supervised token, or
            the end token is never supervised.
    """
    dataset, tokenizer, args = trainer.train_dataset, trainer.processing_class, trainer.args
    if args.assistant_only_loss:
        check_markers(tokenizer)  # TRL puts templates of its own in the place of some, which prompt otherwise
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


def lost_in_tokenization(trainer: Trainer, rows_given: int) -> list[str]:
    """Count the rows that an SFT trainer has left out, and those that it has cut, without a word.

    Args:
        trainer: its training set is tokenized, and packed if `args.packing` asks for it.
        rows_given: rows before TRL prepared them.

    Returns:
        One sentence for each reason.
    """
    dataset, args = trainer.train_dataset, trainer.args
    masked = cut = 0
    for labels in _full_rows(dataset, args.max_length):
        masked += all(label == -100 for label in labels)
        cut += _stops_before(trainer.processing_class.eos_token_id, labels)
    if args.packing and args.packing_strategy != "bfd":
        sentence = (
            f"{cut:,} packed rows end within a reply: packing_strategy={args.packing_strategy!r} splits at "
            f"max_length={args.max_length} and trains the rest without what came before it; raise "
            "max_length, or shorten the rows"
        )
        return [sentence] if cut else []
    # TRL takes out what no reply is left of, but packs it with the others where it packs.
    left_out, taken = (
        (masked, "teach nothing") if args.packing else (rows_given - len(dataset), "were left out")
    )
    notes = []
    if left_out:
        notes.append(
            f"{left_out:,} of {rows_given:,} rows {taken}: no token of a reply is within "
            f"max_length={args.max_length}"
        )
    if cut:
        notes.append(_cut_sentence(cut, rows_given - left_out, args.max_length))
    return notes


def replies_read_only(trainer: Trainer, given: Dataset) -> list[str]:
    """Count the replies that an SFT trainer reads but does not train, as the chat template changes them.

    Args:
        trainer: its training set is tokenized, and packed if `args.packing` asks for it.
        given: the training set before TRL prepared it.

    Returns:
        One sentence, or none.
    """
    args = trainer.args
    if not (args.assistant_only_loss and "messages" in given.column_names):
        return []
    if not changes_replies(trainer.processing_class):
        return []
    replies = sum(message["role"] == "assistant" for messages in given["messages"] for message in messages)
    trained = sum(map(_stretches, trainer.train_dataset["labels"]))
    if trained >= replies:
        return []
    return [
        f"{replies - trained:,} of {replies:,} replies are read but not trained: the chat template changes "
        f"them once more turns follow, or they are not within max_length={args.max_length}"
    ]


def _stretches(labels: Sequence[int]) -> int:
    """Return how many stretches of supervised tokens there are."""
    return sum(supervised for supervised, _ in groupby(labels, key=lambda label: label != -100))


def _full_rows(dataset: Dataset, length: int | None) -> Iterator[list[int]]:
    """Yield the labels of the rows that one conversation fills to the end: only they may have been cut."""
    import pyarrow.compute

    if length is None:
        return
    columns = [name for name in ("labels", "seq_lengths") if name in dataset.column_names]
    for batch in dataset.select_columns(columns).with_format("arrow").iter(10_000):
        full = pyarrow.compute.greater_equal(pyarrow.compute.list_value_length(batch["labels"]), length)
        if "seq_lengths" in columns:
            alone = pyarrow.compute.equal(pyarrow.compute.list_value_length(batch["seq_lengths"]), 1)
            full = pyarrow.compute.and_(full, alone)
        yield from batch["labels"].filter(full).to_pylist()


def _stops_before(end: int, labels: Sequence[int]) -> bool:
    """Say whether labels break off in a reply, before its end token."""
    last_reply = list(takewhile(lambda label: label != -100, reversed(labels)))
    return bool(last_reply) and end not in last_reply


def _cut_sentence(cut: int, rows: int, length: int) -> str:
    return (
        f"{cut:,} of {rows:,} rows are cut off at max_length={length}, before the end token of a reply; "
        "raise it, or shorten them"
    )


def leave_out_useless_rows(trainer: Trainer, rows_given: int) -> list[str]:
    """Take out of the training set the pairs that teach nothing, and count what TRL has left out itself.

    TRL drops rows that are longer than `max_length` without a word. A pair whose replies are equal, or become
    equal or empty when they are cut off at `max_length`, has no preference to teach.

    Args:
        trainer: a trainer on preference data; its `train_dataset` may be replaced.
        rows_given: rows before TRL prepared them.

    Returns:
        One sentence for each reason why rows were left out.

    Raises:
        CourseError: no row is left.
    """
    dataset, length = trainer.train_dataset, trainer.args.max_length
    notes = []
    too_long = rows_given - len(dataset)
    if too_long:
        notes.append(f"{too_long:,} of {rows_given:,} rows were left out: longer than max_length={length}")
    if len(dataset) == 0:
        raise CourseError(
            f"no row is left: each of the {rows_given:,} rows is longer than max_length={length}; raise "
            "max_length or shorten the prompts."
        )
    if cut := sum(_is_cut(trainer)):
        notes.append(_cut_sentence(cut, len(dataset), length))
    pairs = list(_compared(trainer))
    empty = sum(not chosen or not rejected for chosen, rejected in pairs)
    kept = [n for n, (chosen, rejected) in enumerate(pairs) if chosen and rejected and chosen != rejected]
    equal = len(pairs) - empty - len(kept)
    if not empty and not equal:
        return notes
    if not kept:
        raise CourseError(
            f"no pair is left that prefers one reply: of {len(dataset):,} pairs {equal:,} have two equal "
            f"replies and {empty:,} an empty one, as tokens and within max_length={length}; check chosen and "
            "rejected, or raise max_length."
        )
    trainer.train_dataset = dataset.select(kept)
    for count, reason in ((equal, "their two replies are the same tokens"), (empty, "a reply has no token")):
        if count:
            notes.append(
                f"{count:,} of {len(dataset):,} pairs were left out: {reason} within max_length={length}"
            )
    return notes


def check_scored_tokens(trainer: Trainer) -> None:
    """Check that a reward trainer scores the last token of every conversation.

    Raises:
        CourseError: model and collator name another padding token, or a conversation ends with it.
    """
    pad = trainer.model.config.get_text_config().pad_token_id
    if pad is None or trainer.data_collator.pad_token_id != pad:
        raise CourseError(
            f"batches are padded with the token {trainer.data_collator.pad_token_id}, but the model takes "
            f"{pad} for padding, so padding would be scored; load both with load_model_and_tokenizer()."
        )
    for column in ("chosen_ids", "rejected_ids"):
        for number, (ids,) in enumerate(islice(_rows(trainer, column), MOST_ROWS_CHECKED)):
            if ids[-1] == pad:
                raise CourseError(
                    f"the conversation in {column} of row {number} ends with the padding token (id {pad}), "
                    "so an earlier token would be scored; give the tokenizer a padding token that no text "
                    "ends with."
                )


def check_reference_source(model: PreTrainedModel, config: Any) -> None:
    """Check that a trainer with a reference model finds one where it looks: where the policy came from.

    Args:
        model: the policy.
        config: the trainer's arguments, of any method.

    Raises:
        CourseError: the policy was not loaded from a directory, or that directory is gone.
    """
    if not _reads_reference(config) or hasattr(model, "peft_config"):
        return
    source = model.config._name_or_path
    if not source or (Path(source).is_absolute() and not Path(source).is_dir()):
        raise CourseError(
            f"TRL reads the reference model from where the policy was loaded, but {source!r} is no model "
            "directory; save the model as a stage and load it from there."
        )


def _reads_reference(config: Any) -> bool:
    if hasattr(config, "precompute_ref_log_probs"):
        return not config.precompute_ref_log_probs
    # Of the others those that can update their reference have one: GRPO and RLOO, if they look at it.
    return hasattr(config, "sync_ref_model") and config.beta != 0


def check_reference(trainer: Trainer) -> None:
    """Check that the reference model is the one that the recipe names, or equals the policy at the start.

    A trainer that is given no reference model reads one from the path that the policy was loaded from. What
    happened to the policy in memory since then is missing there.

    Args:
        trainer: has as `given_reference` what the recipe names.

    Raises:
        CourseError: the trainer looks at another model, or the weights differ.
    """
    import torch

    given = getattr(trainer, "given_reference", None)
    if given is not None:
        used = trainer.ref_model
        if used is None or trainer.accelerator.unwrap_model(used) is not given:
            raise CourseError(
                f"{type(trainer).__name__} does not use the reference model that the recipe names, but "
                f"{'the policy itself' if used is None else 'another'}; leave reference out."
            )
        return
    # With an adapter, or with log-probabilities computed in advance, the policy is its own reference; without
    # a KL penalty there is none.
    if trainer.ref_model is None:
        return
    policy = dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters())
    reference = dict(trainer.accelerator.unwrap_model(trainer.ref_model).named_parameters())
    if any(hasattr(weights, "ds_id") for weights in reference.values()):
        return  # DeepSpeed's ZeRO-3 keeps parts of the weights that do not lie as the policy's do
    differing = sorted(policy.keys() ^ reference.keys()) or [
        name
        for name, weights in policy.items()
        if weights.shape != reference[name].shape
        or not torch.equal(_whole(weights), _whole(reference[name]).to(weights.device, weights.dtype))
    ]
    if differing:
        raise CourseError(
            "the reference model is not the model to be trained: TRL read it from "
            f"{trainer.model.config._name_or_path!r}, and {len(differing)} of {len(policy)} weights (the "
            f"first is {differing[0]}) differ in memory; save the model as a stage and load it from there."
        )


def _whole(weights: torch.Tensor) -> torch.Tensor:
    """Return all of a weight; with FSDP2 each process holds a part, and all of them must ask for the same."""
    return weights.full_tensor() if hasattr(weights, "full_tensor") else weights


def check_labels(trainer: Trainer) -> None:
    """Check that a KTO trainer meets both labels, and mixed: it trains in the order of the data set.

    Raises:
        CourseError: only one label, or a run of one label that no shuffled data set has.
    """
    labels = [bool(label) for label in trainer.train_dataset["label"]]
    desirable = sum(labels)
    if desirable in (0, len(labels)):
        raise CourseError(
            f"all {len(labels):,} rows have the label {labels[0]}, but KTO learns from the contrast of "
            "desirable and undesirable replies; give it both."
        )
    if trainer.args.train_sampling_strategy != "sequential":
        return
    start, length = _longest_run(labels)
    if _log_chance_of_run(labels, start, length) < math.log(CHANCE_OF_FALSE_ALARM / 2):
        raise CourseError(
            f"the rows {start:,} to {start + length - 1:,} of {len(labels):,} all have the label "
            f"{labels[start]}, and KTO trains in the order of the data set; shuffle it: "
            "dataset.shuffle(seed=0)."
        )


def _longest_run(labels: Sequence[bool]) -> tuple[int, int]:
    """Return start and length of the longest run of one label."""
    runs = [list(run) for _, run in groupby(range(len(labels)), key=labels.__getitem__)]
    longest = max(runs, key=len)
    return longest[0], len(longest)


def _log_chance_of_run(labels: Sequence[bool], start: int, length: int) -> float:
    """Return an upper bound of the log-probability that a random order has such a run anywhere."""
    total, same = len(labels), sum(label == labels[start] for label in labels)
    # Of all orders, C(same, length) / C(total, length) have this label at `length` given places.
    at_one_place = math.lgamma(same + 1) - math.lgamma(same - length + 1)
    at_one_place -= math.lgamma(total + 1) - math.lgamma(total - length + 1)
    return at_one_place + math.log(total - length + 1)


def _compared(trainer: Trainer) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the two replies of each pair as the tokens that the loss compares; nothing for unpaired data."""
    columns, args = trainer.train_dataset.column_names, trainer.args
    if "chosen_labels" in columns:  # ORPO and CPO, already cut off
        for pair in _rows(trainer, "chosen_labels", "rejected_labels"):
            yield tuple([token for token in labels if token != -100] for labels in pair)
    elif "chosen_ids" in columns:
        names = [name for name in ("chosen_ids", "rejected_ids", "prompt_ids") if name in columns]
        # DPO cuts replies off when it forms a batch; RewardTrainer has no prompts and cuts nothing.
        cuts = "prompt_ids" in columns and args.max_length and _keeps_start(args)
        for row in _rows(trainer, *names):
            room = args.max_length - len(row[2]) if cuts else None
            yield row[0][:room], row[1][:room]


def _is_cut(trainer: Trainer) -> Iterator[bool]:
    """Yield for each row whether a reply of it is cut off at the end."""
    columns, args = trainer.train_dataset.column_names, trainer.args
    if "chosen_labels" in columns:  # ORPO and CPO, already cut off
        end = trainer.processing_class.eos_token_id
        for pair in _rows(trainer, "chosen_labels", "rejected_labels"):
            yield any(len(labels) >= args.max_length and _stops_before(end, labels) for labels in pair)
    elif "prompt_ids" in columns and args.max_length and _keeps_start(args):
        replies = [name for name in ("chosen_ids", "rejected_ids", "completion_ids") if name in columns]
        for prompt, *row in _rows(trainer, "prompt_ids", *replies):
            yield any(len(prompt) + len(reply) > args.max_length for reply in row)


def _keeps_start(args: Any) -> bool:
    return getattr(args, "truncation_mode", "keep_start") == "keep_start"


def _rows(trainer: Trainer, *columns: str) -> Iterator[tuple[list[int], ...]]:
    return zip(*(trainer.train_dataset[name] for name in columns), strict=True)
