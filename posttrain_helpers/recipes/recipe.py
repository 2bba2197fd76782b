"""A recipe as it is loaded: one training run, fully described."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain_helpers.environment.runtime import display_path
from posttrain_helpers.environment.splits import WORLD
from posttrain_helpers.recipes.sources import is_built_in


@dataclass(frozen=True, repr=False)
class Recipe:
    """One training run, fully described.

    Attributes:
        name: the file's name without its ending.
        method: a key of `recipes.methods.METHODS`.
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
        models: what `train` starts from, one after the other, in place of `model`; each makes a stage with an
            identity of its own, so the list is no part of any.
        rewards: what rates a reply, for methods that learn from rewards: functions of `rewards.verifiers`,
            and stages or directories of reward models.
        teacher: what the student imitates, for methods that distil: a stage, a directory or a Hub id.
        reference: the reference model, for methods whose trainer takes one: a stage, a directory or a Hub id;
            None for the parent.
        early_stopping: after so many evaluations that get no better the training ends, None for never.
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
    models: tuple[str, ...] = ()
    teacher: str | None = None
    reference: str | None = None
    early_stopping: int | None = None

    @property
    def hash(self) -> str:
        """Identity of everything that the recipe sets: equal recipes have equal hashes on every machine."""
        world = {"world": WORLD} if is_built_in(self.data.get("source")) else {}
        text = json.dumps({**self.content(), **world}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def content(self) -> dict[str, Any]:
        """Return what the recipe sets, without what depends on the machine."""
        return {
            # A recipe that sets none of these keeps the identity that it had before they could be set.
            **({"stage": self.stage} if self.stage != self.name else {}),
            **({"rewards": list(self.rewards)} if self.rewards else {}),
            **({"teacher": self.teacher} if self.teacher else {}),
            **({"reference": self.reference} if self.reference else {}),
            **({"early_stopping": self.early_stopping} if self.early_stopping else {}),
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

    def _repr_html_(self) -> str:
        import pandas

        return pandas.DataFrame(self.rows(), columns=["setting", "value"]).to_html(index=False, border=0)

    def __repr__(self) -> str:
        rows = self.rows()
        width = max(len(key) for key, _ in rows)
        return "\n".join([f"recipe {self.name}", *(f"  {key:<{width}}  {value}" for key, value in rows)])


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
