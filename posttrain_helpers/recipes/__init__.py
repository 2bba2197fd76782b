"""Recipes: one YAML file per method that says which model, which data and which trainer arguments.

The notebook, `load_stage`, the command line and CI load the same file, so no hyper-parameter is written
twice. A file holds shared keys and, under `profiles`, what one profile adds or replaces:

    method: sft
    parent: base
    args: {num_train_epochs: 1}
    profiles:
      tiny: {args: {learning_rate: 5e-4}}

Later wins, key by key: shared keys, the profile's section, the changes of a call, `POSTTRAIN_OVERRIDES`.
`data: {same_as: dpo}` takes the data of another recipe, and further keys change it.
"""

from posttrain_helpers.recipes.loading import load_recipe
from posttrain_helpers.recipes.recipe import Recipe
from posttrain_helpers.recipes.shipped import recipe_names, stage_recipes

__all__ = ["Recipe", "load_recipe", "recipe_names", "stage_recipes"]
