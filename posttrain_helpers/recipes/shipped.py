"""The recipes that the course ships: their names, their files, and the stages that they make."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes.yaml_files import read_yaml
from posttrain_helpers.wording import suggestion

DIRECTORY = Path(__file__).resolve().parent


def recipe_files() -> dict[str, Path]:
    """Return the files of the recipes that the course ships, the lessons' own and those on public data.

    Raises:
        CourseError: two files have the same name.
    """
    files = [*DIRECTORY.glob("*.yaml"), *DIRECTORY.glob("public/*.yaml")]
    names = [file.stem for file in files]
    if twice := {name for name in names if names.count(name) > 1}:
        raise CourseError(f"two recipes are called {', '.join(sorted(twice))}; give one another file name.")
    return {file.stem: file for file in sorted(files, key=lambda file: file.stem)}


def recipe_names() -> list[str]:
    """Return the names of the recipes that the course ships."""
    return list(recipe_files())


def stage_recipes() -> dict[str, str]:
    """Return which of the shipped recipes makes which stage: stage name to recipe name.

    Raises:
        CourseError: two recipes make a stage of the same name, or a file is no valid YAML.
    """
    files = recipe_files().values()
    return dict(_stages_of(tuple((path, path.stat().st_mtime_ns) for path in files)))


@lru_cache(maxsize=1)
def _stages_of(files: tuple[tuple[Path, int], ...]) -> dict[str, str]:
    """Read the stage names once for each state of the files."""
    stages: dict[str, str] = {}
    for path, _ in files:
        stage = stage_name(read_yaml(path), path.stem)
        if stage in stages:
            raise CourseError(
                f"the recipes {stages[stage]!r} and {path.stem!r} both make the stage {stage!r}; give one of "
                "them another `stage`."
            )
        stages[stage] = path.stem
    return stages


def stage_name(settings: Mapping[str, Any], name: str) -> str:
    """Return the name of the stage that a recipe makes: its own, unless it sets another.

    Raises:
        CourseError: what it sets is no name.
    """
    stage = settings.get("stage")
    if stage is not None and (not isinstance(stage, str) or not stage):
        raise CourseError(f"recipe {name!r}: stage must be the name of a stage, but it is {stage!r}.")
    return stage or name


def recipe_path(name_or_path: str | Path) -> Path:
    """Return the file of a shipped recipe, or a file of the reader's own as a whole path.

    Raises:
        CourseError: there is none; the sentence names the closest recipe.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise CourseError(f"the recipe file {path} does not exist (working directory {Path.cwd()}).")
        return path.resolve()
    files = recipe_files()
    if str(name_or_path) not in files:
        raise CourseError(
            f"the recipe {str(name_or_path)!r} does not exist{suggestion(name_or_path, files)}The recipes "
            f"are {', '.join(files)}; a file of your own must end with .yaml."
        )
    return files[str(name_or_path)]


def check_parents(settings: dict[str, Any], path: Path) -> None:
    """Refuse a recipe that starts, itself or through its parents, from the stage that it makes.

    Recipes beside its file count as well as the shipped ones.

    Raises:
        CourseError: the sentence shows the circle.
    """
    line = [stage_name(settings, path.stem)]
    while (parent := settings.get("model") or settings.get("parent")) not in line:
        shipped, own = stage_recipes().get(str(parent)), path.parent / f"{parent}.yaml"
        if not shipped and not own.is_file():
            return
        line.append(parent)
        settings = read_yaml(recipe_files()[shipped] if shipped else own)
    raise CourseError(
        f"recipe {path.stem!r} starts from the stage that it makes: {' <- '.join((*line, parent))}; start "
        "from 'base' or another stage, or give what it makes another name by stage=..."
    )
