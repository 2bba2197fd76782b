"""A model that does not train and that another is trained beside: a teacher, or a reference model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from posttrain_helpers.environment.processes import sharded_by
from posttrain_helpers.environment.runtime import current_runtime
from posttrain_helpers.errors import CourseError
from posttrain_helpers.training.distillation import check_same_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from posttrain_helpers.recipes import Recipe


def load_teacher(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Load the teacher that a recipe names for a student's tokenizer, frozen; a stage must be there.

    Raises:
        CourseError: as loading a model does, or the teacher's tokens are not the student's.
    """
    teacher, its_tokenizer = _loaded("teacher", recipe.teacher, recipe.profile)
    check_same_vocabulary(tokenizer, its_tokenizer)
    return teacher


def load_reference(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Load the reference model that a recipe names for a policy's tokenizer, frozen; a stage must be there.

    Raises:
        CourseError: as loading a model does, or the reference model reads other tokens than the policy.
    """
    reference, its_tokenizer = _loaded("reference", recipe.reference, recipe.profile)
    if tokenizer.get_vocab() != its_tokenizer.get_vocab():
        raise CourseError(
            f"the reference {recipe.reference!r} has another vocabulary than the policy, whose tokens it "
            "would read as other words; name a model of the policy's family."
        )
    return reference


def _loaded(kind: str, name: str, profile: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from posttrain_helpers.models.loading import load_repaired
    from posttrain_helpers.models.manifest import STAGE_NAME, location

    place = location(name, profile)
    if STAGE_NAME.fullmatch(place) and not Path(place).is_dir():
        raise CourseError(f"the {kind} {name!r} is not there yet; load_stage({name!r}) builds it.")
    # TRL shares out the weights of a reference model, which need not fit into one GPU, and not a teacher's.
    device = "cpu" if kind == "reference" and sharded_by() else current_runtime(profile).device
    model, tokenizer, _ = load_repaired(place, device, head="language", merge=True, profile=profile)
    return model.requires_grad_(False).eval(), tokenizer
