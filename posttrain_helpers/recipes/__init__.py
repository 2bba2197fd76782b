"""Recipes: one YAML file per method that says which model, which data and which trainer arguments.

The notebook, `load_stage`, the command line and CI load the same file, so no hyper-parameter is written
twice. A file holds shared keys and, under `profiles`, what one profile adds or replaces:

    method: sft
    parent: base
    args: {num_train_epochs: 1}
    profiles:
      tiny: {args: {learning_rate: 5e-4}}

`data: {same_as: dpo}` takes the data of another recipe, and further keys change it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.data import KEYS_OF_ONE_SOURCE, data_keys, is_built_in
from posttrain_helpers.errors import CourseError
from posttrain_helpers.profiles import OVERRIDES_VARIABLE, Profile, get_profile
from posttrain_helpers.recipes.files import read_yaml
from posttrain_helpers.recipes.overrides import SECTIONS, VALUES, parsed_overrides, readers_changes
from posttrain_helpers.recipes.values import VALUE_TYPES, argument_types, check_values, data_types
from posttrain_helpers.runtime import current_runtime, display_path, trainer_defaults
from posttrain_helpers.storage import output_root
from posttrain_helpers.tinyworld.splits import WORLD
from posttrain_helpers.training import METHODS, config_class
from posttrain_helpers.wording import closest

if TYPE_CHECKING:
    import pandas

_DIRECTORY = Path(__file__).resolve().parent
# What one profile may not change: a stage is found by this name in every profile.
_SHARED_ONLY = ("stage",)
_EXAMPLES = {"data": "data.source=rows.jsonl", "args": "args.learning_rate=1e-3", "lora": "lora.r=8"}
_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "max_seq_length": "max_length",
    "warmup_ratio": "warmup_steps (below 1 it is a share of all steps)",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
}


@dataclass(frozen=True, repr=False)
class Recipe:
    """One training run, fully described.

    Attributes:
        name: the file's name without its ending.
        method: a key of `training.METHODS`.
        parent: the stage that it starts from, "base" for the base model.
        profile: the profile that it was loaded for.
        model: what to load: the parent, unless the recipe or an override names another model.
        data: source and sizes of the data.
        args: arguments of the method's TRL config, the defaults of this machine included.
        lora: arguments of `peft.LoraConfig`, None to train every weight.
        quantization: "4bit", "8bit" or None.
        seed: of data order and training.
        path: the file.
        stage: the name of the stage that it makes; the recipe's own name unless it sets another.
        description: one line for readers.
        own_args: the part of `args` that the recipe itself sets.
        rewards: what rates a reply, for methods that learn from rewards: functions of `verifiers`, and stages
            or directories of reward models.
    """

    name: str
    method: str
    parent: str
    profile: str
    model: str
    data: dict[str, Any]
    args: dict[str, Any]
    lora: dict[str, Any] | None
    quantization: str | None
    seed: int
    path: Path
    stage: str
    description: str = ""
    own_args: dict[str, Any] = field(default_factory=dict)
    rewards: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """Identity of everything that the recipe sets: equal recipes have equal hashes on every machine."""
        world = {"world": WORLD} if is_built_in(self.data.get("source")) else {}
        text = json.dumps({**self.content(), **world}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def content(self) -> dict[str, Any]:
        """Return what the recipe sets, without what depends on the machine."""
        return {
            # A recipe without its own stage name or rewards keeps the identity that it had before these keys.
            **({"stage": self.stage} if self.stage != self.name else {}),
            **({"rewards": list(self.rewards)} if self.rewards else {}),
            "method": self.method,
            "profile": self.profile,
            "model": self.model,
            "seed": self.seed,
            "data": self.data,
            "args": self.own_args,
            "lora": self.lora,
            "quantization": self.quantization,
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return what the recipe sets as pairs of dotted key (as in overrides) and value."""
        pairs: list[tuple[str, str]] = []
        for key, value in self.content().items():
            if isinstance(value, dict):
                pairs += [(f"{key}.{inner}", _shown(item)) for inner, item in value.items()]
            elif value is not None:
                pairs.append((key, display_path(_shown(value))))
        return pairs

    def to_frame(self) -> pandas.DataFrame:
        """Return what the recipe sets as a table."""
        import pandas

        return pandas.DataFrame(self.rows(), columns=["setting", "value"])

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, border=0)

    def __repr__(self) -> str:
        rows = self.rows()
        width = max(len(key) for key, _ in rows)
        return "\n".join([f"recipe {self.name}", *(f"  {key:<{width}}  {value}" for key, value in rows)])


def recipe_names() -> list[str]:
    """Return the names of the recipes that the course ships."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.yaml"))


def stage_recipes() -> dict[str, str]:
    """Return which of the shipped recipes makes which stage: stage name to recipe name.

    Raises:
        CourseError: two recipes make a stage of the same name, or a file is no valid YAML.
    """
    files = sorted(_DIRECTORY.glob("*.yaml"))
    return dict(_stages_of(tuple((path, path.stat().st_mtime_ns) for path in files)))


@lru_cache(maxsize=1)
def _stages_of(files: tuple[tuple[Path, int], ...]) -> dict[str, str]:
    """Read the stage names once for each state of the files."""
    stages: dict[str, str] = {}
    for path, _ in files:
        stage = _stage_name(read_yaml(path), path.stem)
        if stage in stages:
            raise CourseError(
                f"the recipes {stages[stage]!r} and {path.stem!r} both make the stage {stage!r}; give one of "
                "them another `stage`."
            )
        stages[stage] = path.stem
    return stages


def _stage_name(settings: Mapping[str, Any], name: str) -> str:
    stage = settings.get("stage")
    if stage is not None and (not isinstance(stage, str) or not stage):
        raise CourseError(f"recipe {name!r}: stage must be the name of a stage, but it is {stage!r}.")
    return stage or name


def load_recipe(
    name_or_path: str | Path,
    profile: str | Profile | None = None,
    overrides: Mapping[str, Any] | Iterable[str] | None = None,
) -> Recipe:
    """Load and check a recipe.

    Args:
        name_or_path: the name of a shipped recipe, or a path that ends with .yaml or .yml.
        profile: None takes `POSTTRAIN_PROFILE`, else "tiny".
        overrides: changes by dotted key, as {"args.learning_rate": 1e-3} or as texts
            "args.learning_rate=1e-3". Those of `POSTTRAIN_OVERRIDES` come after them.

    Returns:
        The recipe; `trl.SFTConfig(**recipe.args)` and its like accept its arguments.

    Raises:
        CourseError: no such recipe or profile section, not valid YAML, or an unknown key; the sentence names
            the closest known one.
    """
    profile = get_profile(profile)
    path = _recipe_path(name_or_path)
    where = f"recipe {path.stem!r}"
    document = read_yaml(path)
    settings = _for_profile(document, profile, where)
    _apply_overrides(settings, parsed_overrides(overrides), where)
    changes = readers_changes(profile, path.stem, recipe_names())
    _apply_overrides(settings, changes, f"{where}, {OVERRIDES_VARIABLE}")
    _check(settings, where)
    _check_parents(settings, path)
    model = settings.get("model") or settings["parent"]
    seed = settings.get("seed")
    seed = current_runtime(profile).seed if seed is None else seed
    return Recipe(
        name=path.stem,
        method=settings["method"],
        parent=settings["parent"],
        profile=profile.name,
        model=model,
        data=settings["data"],
        args={
            **trainer_defaults(profile),
            "seed": seed,
            "output_dir": str(output_root() / profile.name / "runs" / path.stem),
            **settings["args"],
        },
        lora=settings["lora"] or None,
        quantization=settings.get("quantization"),
        seed=settings["args"].get("seed", seed),
        path=path,
        stage=_stage_name(settings, path.stem),
        description=settings.get("description", ""),
        own_args=settings["args"],
        rewards=_rewards(settings, profile, where),
    )


def _recipe_path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise CourseError(f"the recipe file {path} does not exist (working directory {Path.cwd()}).")
        return path.resolve()
    names = recipe_names()
    if str(name_or_path) not in names:
        raise CourseError(
            f"the recipe {str(name_or_path)!r} does not exist; {closest(name_or_path, names)}The recipes are "
            f"{', '.join(names)}; a file of your own must end with .yaml."
        )
    return _DIRECTORY / f"{name_or_path}.yaml"


def _for_profile(document: dict[str, Any], profile: Profile, where: str) -> dict[str, Any]:
    """Return the shared keys with those of the profile laid over them.

    A profile without a section of its own borrows that of another one and changes its sizes.
    """
    shared = deepcopy(document)
    shared.pop("profiles", None)
    sections = _profile_sections(document, where)
    section = _section_name(sections, profile)
    if sections and section not in sections:
        raise CourseError(
            f"{where} has no section for the profile {profile.name!r}; it has "
            f"{', '.join(map(str, sections))}: add one, or choose one of these."
        )
    known = (*VALUES, *SECTIONS)
    own = sections.get(section) or {}
    in_profile = [key for key in known if key not in _SHARED_ONLY]
    for part, place, keys in (
        (shared, where, (*known, "profiles")),
        (own, f"{where}, profile {section}", in_profile),
    ):
        _check_keys(part, keys, "", place)
        for name in SECTIONS:
            if not isinstance(part.get(name) or {}, dict):
                raise CourseError(f"{place}: {name} must hold keys and values, but it is {part[name]!r}.")
    settings = {**shared, **own}
    for name in SECTIONS:
        settings[name] = {**(shared.get(name) or {}), **(own.get(name) or {})}
    if (other := settings["data"].pop("same_as", None)) is not None:
        settings["data"] = {**_data_of(other, profile, where), **settings["data"]}
    if section in sections and section != profile.name:
        _check(settings, where)
        known = {f"args.{key}" for key in _field_names(config_class(settings["method"]))}
        known |= {f"data.{key}" for key in data_keys(settings["data"].get("source"))}
        changes = {key: value for key, value in profile.overrides.items() if key in known}
        _apply_overrides(settings, changes, where)
    return settings


def _profile_sections(document: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
    sections = document.get("profiles") or {}
    if not isinstance(sections, dict):
        raise CourseError(f"{where}: profiles must map a profile's name to its settings.")
    for name, section in sections.items():
        if not isinstance(section or {}, dict):
            raise CourseError(
                f"{where}, profile {name}: keys and values such as args and data are expected, but "
                f"{section!r} was found."
            )
    return sections


def _section_name(sections: dict[str, Any], profile: Profile) -> str | None:
    return profile.name if profile.name in sections else profile.recipe_section


def _data_of(recipe: Any, profile: Profile, where: str) -> dict[str, Any]:
    """Return the data section of another recipe: two methods are compared on the same data, written once."""
    names = recipe_names()
    if recipe not in names:
        raise CourseError(
            f"{where}: data.same_as must name a recipe, but it is {recipe!r}; {closest(recipe, names)}The "
            f"recipes are {', '.join(names)}."
        )
    document = read_yaml(_DIRECTORY / f"{recipe}.yaml")
    sections = _profile_sections(document, f"recipe {recipe!r}")
    parts = (document, sections.get(_section_name(sections, profile)) or {})
    if any("same_as" in (part.get("data") or {}) for part in parts):
        raise CourseError(
            f"{where}: data.same_as names {recipe!r}, which has data.same_as itself; name its source."
        )
    settings = _for_profile(document, profile, f"recipe {recipe!r}")
    changes = readers_changes(profile, recipe, names)
    _apply_overrides(settings, changes, f"recipe {recipe!r}, {OVERRIDES_VARIABLE}")
    return settings["data"]


def _apply_overrides(settings: dict[str, Any], overrides: dict[str, Any], where: str) -> None:
    for key, value in overrides.items():
        section, dot, inner = key.partition(".")
        if dot and section in SECTIONS:
            settings[section][inner] = value
        elif not dot and section in VALUES:
            settings[section] = value
        elif key in SECTIONS:
            raise CourseError(
                f"{where}: {key!r} is a section of settings, and an override changes one of them; write "
                f"{key}.<name>=<value>, such as {_EXAMPLES[key]}."
            )
        else:
            known = [*VALUES, *(f"{name}.…" for name in SECTIONS)]
            raise CourseError(
                f"{where}: the override {key!r} does not exist; "
                f"{closest(section, (*VALUES, *SECTIONS))}Known: {', '.join(known)}."
            )
    if "data.source" in overrides:
        # What the recipe says about the old source has no meaning for another one.
        allowed = data_keys(settings["data"]["source"]) - KEYS_OF_ONE_SOURCE
        settings["data"] = {
            key: value
            for key, value in settings["data"].items()
            if key in allowed or f"data.{key}" in overrides
        }


def _check(settings: dict[str, Any], where: str) -> None:
    for key in ("method", "parent"):
        if not isinstance(settings.get(key), str):
            raise CourseError(f"{where} lacks {key!r}, or it is no text; found {settings.get(key)!r}.")
    if settings.get("quantization") not in (None, "4bit", "8bit"):
        raise CourseError(
            f"{where}: quantization must be 4bit, 8bit or null, but it is {settings['quantization']!r}."
        )
    check_values(
        {key: settings[key] for key in VALUES if settings.get(key) is not None}, VALUE_TYPES, "", where
    )
    source, config = settings["data"].get("source"), config_class(settings["method"])
    _check_keys(settings["data"], data_keys(source), "data.", where)
    # Null means "not set" for all of the data but the seed, which is never left open.
    data = {key: value for key, value in settings["data"].items() if value is not None or key == "seed"}
    check_values(data, data_types(source), "data.", where)
    _check_keys(settings["args"], _field_names(config), "args.", where)
    check_values(settings["args"], argument_types(config), "args.", where)
    if settings["lora"]:
        from peft import LoraConfig

        _check_keys(settings["lora"], _field_names(LoraConfig), "lora.", where)
        check_values(settings["lora"], argument_types(LoraConfig), "lora.", where)


def _check_parents(settings: dict[str, Any], path: Path) -> None:
    """Refuse a recipe that starts, itself or through its parents, from the stage that it makes."""
    line = [_stage_name(settings, path.stem)]
    while (parent := settings.get("model") or settings.get("parent")) not in line:
        file = _recipe_file(parent, path.parent)
        if file is None:
            return
        line.append(parent)
        settings = read_yaml(file)
    raise CourseError(
        f"recipe {path.stem!r} starts from the stage that it makes: {' <- '.join((*line, parent))}; start "
        "from 'base' or another stage, or give what it makes another name by stage=..."
    )


def _recipe_file(stage: Any, directory: Path) -> Path | None:
    """Return the recipe that makes a stage, shipped or beside another recipe, None where there is none."""
    if not isinstance(stage, str):
        return None
    shipped = stage_recipes().get(stage)
    own = directory / f"{stage}.yaml"
    return _DIRECTORY / f"{shipped}.yaml" if shipped else own if own.is_file() else None


def _rewards(settings: dict[str, Any], profile: Profile, where: str) -> tuple[str, ...]:
    """Return the rewards of a recipe, checked: there if and only if its method learns from them."""
    from posttrain_helpers.reward_functions import check_reward_names

    names, method = settings.get("rewards"), settings["method"]
    if not METHODS[method].rewards:
        if names:
            raise CourseError(
                f"{where}: the method {method!r} does not learn from rewards, but rewards is {names!r}; "
                "remove it, or choose a method that does: "
                f"{', '.join(name for name, other in METHODS.items() if other.rewards)}."
            )
        return ()
    return check_reward_names(names, method, profile, where)


def _check_keys(found: Mapping[str, Any], known: Iterable[str], prefix: str, where: str) -> None:
    known = list(known)
    for key in found:
        if prefix == "args." and key in _RENAMED:
            raise CourseError(f"{where}: the key {prefix}{key} was renamed; write {prefix}{_RENAMED[key]}.")
        if key not in known:
            hint = closest(key, known) or (
                f"known are {', '.join(sorted(known))}. " if len(known) < 20 else ""
            )
            raise CourseError(
                f"{where}: the key {prefix}{key} does not exist; {hint or 'no known key is near. '}Correct "
                "or remove it."
            )


def _field_names(config: type) -> list[str]:
    return [item.name for item in fields(config) if item.init]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
