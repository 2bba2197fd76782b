"""Whether what a recipe says can be: every key known, every value of its type, every reward there.

`where` is what errors call the recipe, and `profile` what names of stages refer to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from posttrain_helpers.environment.profiles import READY_MADE, Profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.manifest import BASE, saved_stages
from posttrain_helpers.recipes.methods import METHODS, config_class
from posttrain_helpers.recipes.shipped import stage_name, stage_recipes
from posttrain_helpers.recipes.sources import data_types
from posttrain_helpers.recipes.values import VALUE_TYPES, argument_types, check_values
from posttrain_helpers.rewards.verifiers import VERIFIERS
from posttrain_helpers.wording import closest, suggestion

_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "max_seq_length": "max_length",
    "warmup_ratio": "warmup_steps (below 1 it is a share of all steps)",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
}


# What is done elsewhere than in a recipe.
_NO_UPLOADS = (
    "a recipe holds no keys, and nothing is uploaded while a model trains; `export` the stage and upload that"
)
_ELSEWHERE = {
    "output_dir": "all is written below one directory; choose it with --output-dir or POSTTRAIN_OUTPUT",
    "resume_from_checkpoint": "an interrupted training goes on with `train --resume`",
    "push_to_hub": _NO_UPLOADS,
}


def check_settings(settings: dict[str, Any], where: str) -> None:
    """Check the settings of a recipe but its rewards.

    Args:
        settings: with all sections, as they are after every change.

    Raises:
        CourseError: a key that does not exist, a value of another type or out of range, or no method or
            parent.
    """
    for key in ("method", "parent"):
        if not isinstance(settings.get(key), str):
            raise CourseError(f"{where} lacks {key!r}, or it is no text; found {settings.get(key)!r}.")
    values = {key: settings[key] for key in VALUE_TYPES if settings.get(key) is not None}
    check_values(values, VALUE_TYPES, "", where)
    if settings.get("quantization") and not settings["lora"]:
        raise CourseError(
            f"{where}: quantized weights do not train, and there is no adapter that would; set lora.r=8, or "
            "quantization to null."
        )
    types = data_types(settings["data"].get("source"))
    check_keys(settings["data"], types, "data.", where)
    # Null means "not set" for all of the data but the seed, which is never left open.
    data = {key: value for key, value in settings["data"].items() if value is not None or key == "seed"}
    check_values(data, types, "data.", where)
    if other := [field for field in data.get("columns") or {} if not isinstance(field, str)]:
        raise CourseError(
            f"{where}: data.columns maps fields, which are texts, but {other[0]!r} was found; name a field, "
            "such as prompt."
        )
    _check_arguments(settings["args"], config_class(settings["method"]), "args.", where)
    if settings["method"] in ("dpo", "kto") and settings["args"].get("beta") == 0:
        raise CourseError(
            f"{where}: with args.beta=0 the method {settings['method']!r} learns nothing, as beta multiplies "
            "the log-ratios of the policy to the reference; set a number above 0."
        )
    _check_evaluation(settings, where)
    if settings["lora"]:
        from peft import LoraConfig

        _check_arguments(settings["lora"], LoraConfig, "lora.", where)


def check_rewards(names: Any, method: str, profile: Profile, where: str) -> tuple[str, ...]:
    """Return the rewards of a recipe, there if and only if its method learns from them; nothing is loaded.

    Raises:
        CourseError: rewards for a method that has none, none for one that needs them, one twice, or one that
            is neither verifier nor stage nor a place of models.
    """
    if not METHODS[method].rewards:
        if names:
            able = [name for name, other in METHODS.items() if other.rewards]
            raise _misplaced(
                where, method, "does not learn from rewards", f"rewards is {names!r}", "that does", able
            )
        return ()
    if not names:
        raise CourseError(
            f"{where}: the method {method!r} learns from rewards, but the recipe names none; set rewards, "
            f"for example [{next(iter(VERIFIERS))}] or [reward_model]."
        )
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise CourseError(f"{where}: rewards must be a list of names, but it is {names!r}.")
    if len(set(names)) < len(names):
        raise CourseError(f"{where}: rewards names one reward twice: {', '.join(names)}; name each once.")
    known = [*VERIFIERS, *stage_recipes(), *saved_stages(profile)]
    remedy = f"Known are the verifiers {', '.join(VERIFIERS)}, and stages and directories of reward models."
    for name in names:
        _check_place(name, known, f"{where}: the reward", remedy)
    return tuple(names)


def check_teacher(name: str | None, method: str, where: str) -> str | None:
    """Return the teacher of a recipe, there if and only if its method distils; nothing is loaded.

    Raises:
        CourseError: a teacher for a method that has none, or none for one that needs it.
    """
    if name and not METHODS[method].teacher:
        able = [key for key, other in METHODS.items() if other.teacher]
        raise _misplaced(where, method, "has no teacher", f"teacher is {name!r}", "that distils", able)
    if METHODS[method].teacher and not name:
        raise CourseError(
            f"{where}: the method {method!r} learns from a teacher, but the recipe names none; set teacher, "
            "for example teacher=grpo."
        )
    return name or None


def check_reference_name(
    settings: Mapping[str, Any], recipe: str, profile: Profile, where: str
) -> str | None:
    """Return the reference model that a recipe names, None where it is the parent; nothing is loaded.

    Args:
        settings: of the recipe, their types checked.
        recipe: its name.

    Raises:
        CourseError: the method's trainer takes no reference model, there is no stage of that name, or it is
            the stage that the recipe makes.
    """
    name, method = settings.get("reference"), settings["method"]
    if name is None:
        return None
    if METHODS[method].reference != "any":
        lacks = "has no reference model"
        if METHODS[method].reference == "parent":
            lacks += f" but the parent, as {METHODS[method].trainer.split(':')[1]} takes no other"
        able = [key for key, other in METHODS.items() if other.reference == "any"]
        raise _misplaced(where, method, lacks, f"reference is {name!r}", "whose trainer takes one", able)
    if name == stage_name(settings, recipe):
        raise CourseError(
            f"{where}: the reference {name!r} is the stage that the recipe makes; name another stage, or "
            "give what it makes another name by stage=..."
        )
    known = [BASE, *READY_MADE, *stage_recipes(), *saved_stages(profile)]
    remedy = "Name a stage, a directory, or a Hub id with its owner."
    _check_place(name, known, f"{where}: the reference", remedy)
    return name


def _misplaced(where: str, method: str, lacks: str, found: str, which: str, able: list[str]) -> CourseError:
    return CourseError(
        f"{where}: the method {method!r} {lacks}, but {found}; remove it, or choose a method {which}: "
        f"{', '.join(able)}."
    )


def _check_place(name: str, known: list[str], what: str, remedy: str) -> None:
    """Refuse a name that is neither known nor can be that of a directory or of a model on the Hub."""
    if name not in known and "/" not in name and "\\" not in name and not Path(name).expanduser().exists():
        raise CourseError(f"{what} {name!r} does not exist{suggestion(name, known)}{remedy}")


def check_keys(found: Mapping[str, Any], known: Iterable[str], prefix: str, where: str) -> None:
    """Check that keys exist.

    Args:
        prefix: what to write before a key, such as "args.".

    Raises:
        CourseError: the sentence names the key and the closest known one.
    """
    known = list(known)
    for key in found:
        if prefix == "args." and key in _RENAMED:
            raise CourseError(f"{where}: the key {prefix}{key} was renamed; write {prefix}{_RENAMED[key]}.")
        if prefix == "args." and (key in _ELSEWHERE or key.startswith("hub_")):
            raise CourseError(
                f"{where}: {prefix}{key} does not belong into a recipe: {_ELSEWHERE.get(key, _NO_UPLOADS)}."
            )
        if key not in known:
            hint = closest(key, known) or (
                f"known are {', '.join(sorted(known))}. " if len(known) < 20 else ""
            )
            raise CourseError(
                f"{where}: the key {prefix}{key} does not exist; {hint or 'no known key is near. '}Correct "
                "or remove it."
            )


def _check_evaluation(settings: Mapping[str, Any], where: str) -> None:
    """Check that evaluations have rows, dev rows evaluations, and early stopping what it needs."""
    method, args = settings["method"], settings["args"]
    evaluates, dev = args.get("eval_strategy", "no") not in ("no", None), settings["data"].get("dev")
    if (evaluates or dev is not None) and not METHODS[method].evaluates:
        raise CourseError(
            f"{where}: the method {method!r} is not evaluated while it trains; leave args.eval_strategy and "
            "data.dev out, and compare its stages on dev with `evaluate --split dev`."
        )
    if evaluates and dev is None:
        raise CourseError(
            f"{where}: args.eval_strategy asks for evaluations, but there are no rows for them; set data.dev "
            "to a number of questions that are then not trained on, or to a file, as prepare's dev.jsonl."
        )
    if settings.get("early_stopping") and not evaluates:
        raise CourseError(
            f"{where}: early_stopping waits for evaluations that get no better, but there are none; set "
            "args.eval_strategy=steps, args.eval_steps and data.dev."
        )
    if not evaluates and (dev is not None or args.get("eval_steps") is not None):
        raise CourseError(
            f"{where}: data.dev and args.eval_steps are for evaluations, but there are none; set "
            "args.eval_strategy=steps, or leave them out."
        )
    for key, value in best_kept(method).items():
        early = settings.get("early_stopping") or key in ("metric_for_best_model", "greater_is_better")
        if early and args.get(key, value) != value:
            raise CourseError(
                f"{where}: args.{key} is {args[key]!r}, but what is best on dev is told and kept with "
                f"{value!r} for the method {method!r}; leave it out."
            )


def best_kept(method: str) -> dict[str, Any]:
    """Return the arguments with which early stopping ends with the best weights, also where it is resumed."""
    rewards = METHODS[method].rewards
    return {
        "load_best_model_at_end": True,
        "metric_for_best_model": "reward" if rewards else "loss",
        "greater_is_better": rewards,
        "save_strategy": "best",
        "restore_callback_states_from_checkpoint": True,  # how long it has been waiting
    }


def _check_arguments(arguments: Mapping[str, Any], config: type, prefix: str, where: str) -> None:
    check_keys(arguments, [item.name for item in fields(config) if item.init], prefix, where)
    check_values(arguments, argument_types(config), prefix, where)
