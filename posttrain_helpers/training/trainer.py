"""From a recipe to a TRL trainer, with the checks that TRL leaves to the reader.

`recipes.methods` names the config and trainer class of each method.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.failures import memory_failure
from posttrain_helpers.environment.processes import sharded_by
from posttrain_helpers.environment.runtime import prepare_trainers
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.chat_markers import check_markers, check_openings, mark_replies
from posttrain_helpers.models.loading import has_score_head
from posttrain_helpers.recipes.methods import (
    METHODS,
    Method,
    config_class,
    imported,
    method_named,
    trainer_class,
)
from posttrain_helpers.rewards.functions import reward_functions
from posttrain_helpers.rewards.guard import guarded
from posttrain_helpers.training.checks import (
    check_labels,
    check_positions,
    check_reference,
    check_reference_source,
    check_scored_tokens,
    check_supervision,
    leave_out_useless_rows,
    lost_in_tokenization,
    replies_read_only,
)
from posttrain_helpers.training.distillation import check_distillation
from posttrain_helpers.training.frozen import load_reference, load_teacher
from posttrain_helpers.training.reward_checks import check_rewards
from posttrain_helpers.training.state import check_weights_are_sound

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

    from posttrain_helpers.recipes import Recipe

# The trainer checks what it is told about these when the training begins, not before.
_BEGINNING = frozenset(
    {"create_optimizer", "create_scheduler", "get_train_dataloader", "get_eval_dataloader"}
)
# How libraries speak about a package that is missing, where they raise no ImportError.
_ASKS_FOR_A_PACKAGE = re.compile(r"pip install|to be installed|[Pp]lease install")
# What the finished trainer of a method must pass: it raises where it would train on the wrong thing.
_CHECKS: dict[str, tuple[Callable[[Trainer], None], ...]] = {
    **dict.fromkeys(("sft", "kl_sft"), (check_supervision,)),
    "reward": (check_scored_tokens,),
    "dpo": (check_reference,),
    "kto": (check_reference, check_labels),
    **dict.fromkeys(("grpo", "rloo", "ppo"), (check_reference, check_rewards)),
    **dict.fromkeys(("distill_offline", "distill_on_policy"), (check_distillation,)),
}


def make_trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_dataset: Dataset,
    callbacks: Sequence[TrainerCallback] = (),
    verbose: bool = True,
    reward_funcs: Sequence[Callable[..., list[float]]] | None = None,
    eval_dataset: Dataset | None = None,
) -> Trainer:
    """Build the trainer that a recipe describes and check what it would train on.

    Args:
        recipe: gives method and arguments.
        model: as `load_model_and_tokenizer` returns it.
        tokenizer: with chat template, end token and a padding token of its own.
        train_dataset: as `load_data` returns it.
        callbacks: more callbacks, such as `memory.callback()`.
        verbose: as for `check_trainer`.
        reward_funcs: for a method that learns from rewards, functions in place of those that the recipe
            names.
        eval_dataset: rows to evaluate on while it trains, as the recipe's arguments say.

    Returns:
        The TRL trainer, ready for `.train()`.

    Raises:
        CourseError: an argument that the config or the trainer refuses, a missing column, a model with the
            wrong head, a template that cannot mark replies, or data or a reference model that a check of the
            method refuses (see `training.checks`).
    """
    prepare_trainers()
    method = method_named(recipe.method)
    rewards = _reward_arguments(recipe, method, reward_funcs)
    _check_columns(recipe, method, train_dataset)
    _check_head(recipe, method, model)
    config = checked_config(recipe)
    _check_template(config, tokenizer)
    _check_offloading(config)
    check_positions(model, config)
    reference = load_reference(recipe, tokenizer) if recipe.reference else None
    if reference is None:
        check_reference_source(model, config)
    with _refusals(f"recipe {recipe.name!r}: {method.trainer.split(':')[1]}", "arguments or data"):
        trainer = trainer_class(recipe.method)(
            model=model,
            args=config,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            callbacks=list(callbacks),
            **rewards,
            **({"teacher_model": load_teacher(recipe, tokenizer)} if method.teacher else {}),
            **({} if reference is None else {"ref_model": reference}),
            **_sampler(method, config),
            **({} if eval_dataset is None else {"eval_dataset": eval_dataset}),
        )
    trainer.given_reference = reference
    check_trainer(trainer, train_dataset, verbose)
    return trainer


def checked_config(recipe: Recipe) -> Any:
    """Return the config of a recipe's trainer.

    Raises:
        CourseError: the config refuses an argument.
    """
    method = method_named(recipe.method)
    with _refusals(f"recipe {recipe.name!r}: {method.config.split(':')[1]}", "arguments"):
        return config_class(recipe.method)(**{**method.arguments, **recipe.args})


def check_trainer(trainer: Trainer, train_dataset: Dataset, verbose: bool = True) -> None:
    """Check what a finished trainer would train on, and leave out the rows that teach nothing.

    TRL drops and cuts rows without a word, and trains on a mask without replies as readily as on any other.

    Args:
        trainer: of TRL, or the course's own PPO trainer; its raw printing of log entries is switched off, as
            `trainer.state.log_history` keeps them.
        train_dataset: what it was given.
        verbose: print one line for each reason why rows were left out or cut, and one about the rewards of
            the policy's replies before training.

    Raises:
        CourseError: data, template or a reference model that a check of the method refuses.
    """
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    name = _method_of(trainer)
    compared = name is not None and METHODS[name].data in ("pairs", "labels")
    if compared and METHODS[name].head == "language":
        row = train_dataset[0]
        if any(isinstance(row.get(column), list) for column in ("chosen", "completion")):
            check_openings(trainer.processing_class)
    left_out = leave_out_useless_rows(trainer, len(train_dataset)) if compared else []
    checks = _CHECKS.get(name, ())
    with _refusals_of_the_template():
        for check in checks:
            check(trainer)
    if check_supervision in checks:
        left_out = lost_in_tokenization(trainer, len(train_dataset))
        left_out += replies_read_only(trainer, train_dataset)
    if verbose:
        for sentence in left_out:
            print(f"data: {sentence}")
        if getattr(trainer, "reward_check", None):
            print(trainer.reward_check)


def train(trainer: Trainer, checkpoint: Path | None = None) -> dict[str, float]:
    """Train, leave the model ready to generate, and return the final metrics.

    TRL leaves the model in training mode, in which generation without a cache writes garbage.

    Args:
        trainer: as `make_trainer` returns it.
        checkpoint: the directory of one to go on from.

    Raises:
        CourseError: there is too little memory; what the run held there is freed. The loss or the weights
            have become NaN, infinite or enormous. A package is missing that an argument asks for, or an
            argument of the optimizer, the schedule or the loading of rows is refused.
    """
    import torch

    try:
        return trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint)).metrics
    except ImportError as error:  # an optimizer is looked for at the first step only
        raise _missing_package(error) from error
    except (TypeError, ValueError) as error:
        if not any(frame.f_code.co_name in _BEGINNING for frame, _ in walk_tb(error.__traceback__)):
            raise
        with _refusals(type(trainer.args).__name__, "arguments"):
            raise
    except torch.cuda.OutOfMemoryError as error:
        reason, on_gpu = str(error), True
    except (MemoryError, RuntimeError) as error:
        if memory_failure(error) is None:
            # A policy of NaN cannot be sampled from, before a loss is seen.
            check_weights_are_sound(trainer.model)
            raise
        reason, on_gpu = str(error), False
    finally:
        trainer.model.eval()
    # Only now: while an exception is handled, the frames of the failed step live, and with them its tensors.
    from posttrain_helpers.training.out_of_memory import after_out_of_memory

    raise CourseError(after_out_of_memory(trainer, _method_of(trainer), reason, on_gpu))


def _method_of(trainer: Trainer) -> str | None:
    """Return the name of the method whose trainer this is."""
    methods = {method.trainer.split(":")[1]: name for name, method in METHODS.items()}
    # From the class itself upwards: a trainer of the course's own may build on one of TRL's.
    return next((methods[base.__name__] for base in type(trainer).__mro__ if base.__name__ in methods), None)


def _reward_arguments(
    recipe: Recipe, method: Method, functions: Sequence[Callable[..., list[float]]] | None
) -> dict[str, Any]:
    """Return what a trainer that learns from rewards gets more than others."""
    if not method.rewards:
        if functions is not None:
            raise CourseError(
                f"the method {recipe.method!r} does not learn from rewards; leave out reward_funcs."
            )
        return {}
    functions = list(functions or reward_functions(recipe.rewards, recipe.profile))
    if not functions:
        raise CourseError(
            f"the method {recipe.method!r} learns from rewards, but there are none; set rewards in the "
            "recipe or pass reward_funcs."
        )
    return {"reward_funcs": guarded(functions)}


def _sampler(method: Method, config: Any) -> dict[str, Any]:
    """Return the course's sampler where it does what the arguments ask: the whole distribution, unsharded."""
    if method.sampler is None:
        return {}
    other_engine = config.use_vllm or config.use_transformers_continuous_batching
    sharded = config.fsdp or config.deepspeed or sharded_by()
    cut = config.top_p != 1 or config.top_k or config.min_p or config.repetition_penalty != 1
    if other_engine or sharded or cut or config.generation_kwargs or config.chat_template_kwargs:
        return {}
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # TRL may change what it asks of a sampler
    return {"rollout_func": imported(method.sampler)}


@contextmanager
def _refusals(name: str, what: str) -> Iterator[None]:
    """Say in one sentence what a config or trainer class does not accept."""
    try:
        with _refusals_of_the_template():
            yield
    except CourseError:
        raise
    except ImportError as error:
        raise _missing_package(error) from error
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        if _ASKS_FOR_A_PACKAGE.search(str(error)):
            raise _missing_package(error) from error
        of_a_defect = isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError)
        of_the_machine = isinstance(error, OSError) and error.errno is not None
        if of_a_defect or of_the_machine:
            raise
        raise CourseError(f"{name} refuses its {what}: {error}") from error


@contextmanager
def _refusals_of_the_template() -> Iterator[None]:
    from jinja2 import TemplateError

    try:
        yield
    except TemplateError as error:
        raise CourseError(
            f"the model's chat template refuses a row of the data: {error}; correct the roles of the "
            "messages and their order, or take a model whose template accepts them."
        ) from error
    except RuntimeError as error:
        if "no assistant tokens" not in str(error):
            raise
        raise CourseError(
            "a row of the data has no reply that could be trained: the model's chat template changes each of "
            "them in what follows (it drops thoughts once a question follows, say, or a system text once the "
            "reply is there), or the reply is the first turn; cut such rows after a reply, or leave them out."
        ) from error


def _missing_package(error: Exception) -> CourseError:
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    if "deepspeed" in str(error).lower():
        # The half-made configuration is the process's own for as long as this error is kept, as notebooks do.
        unset_hf_deepspeed_config()
    found = " ".join(str(error).split()).rstrip(".")
    return CourseError(
        f"an argument asks for a package that is not installed: {found}; install it (`pip install ...`), or "
        "change the argument: args.report_to, args.optim, args.use_liger_kernel and args.deepspeed are the "
        "usual ones."
    )


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


def _check_head(recipe: Recipe, method: Method, model: PreTrainedModel) -> None:
    if (method.head == "reward") != has_score_head(model):
        raise CourseError(
            f"{recipe.method!r} trains a model with a {method.head} head, but a {type(model).__name__} was "
            f"given; load one with load_model_and_tokenizer(..., head={method.head!r})."
        )


def _check_offloading(config: Any) -> None:
    from torch import accelerator

    if getattr(config, "activation_offloading", False) and not accelerator.is_available():
        raise CourseError(
            "args.activation_offloading moves activations out of the memory of a GPU, but there is no GPU; "
            "leave it out, or set it to false."
        )


def _check_template(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the chat template mark replies, and refuse one that cannot."""
    if not getattr(config, "assistant_only_loss", False):
        return
    if not tokenizer.chat_template:
        raise CourseError(
            "the tokenizer has no chat template, so replies cannot be told from questions; load it with "
            "load_model_and_tokenizer(), which gives it one."
        )
    mark_replies(tokenizer)
    check_markers(tokenizer)
