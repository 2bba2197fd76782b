"""How a lesson's claims came out over fresh seeds: the committed table, and what a lesson asserts by it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.paths import read_json, repository_root
from posttrain_helpers.environment.profiles import Profile, changes_in_force
from posttrain_helpers.environment.splits import DEFAULT_SPLIT, SPLIT_VARIABLE, reported_split
from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.claims import Bound, Claim

if TYPE_CHECKING:
    import pandas as pd

    from posttrain_helpers.environment.runtime import Runtime

# Where this variable is set, a lesson measures its claims and asserts none of them.
MEASURE_VARIABLE = "POSTTRAIN_MEASURE_ONLY"
PROFILE = "tiny"
ESTABLISHED_SHARE = 0.9
FEWEST_SEEDS = 10
_SPREAD = ("lowest", "median", "highest")


def seeds_path() -> Path:
    """Return the path of the committed table."""
    return repository_root() / "docs" / "seeds.json"


def spread(lesson: str) -> pd.DataFrame:
    """Return how a lesson's claims came out over fresh seeds.

    Args:
        lesson: the notebook's name without its ending.

    Returns:
        One row per claim, indexed by its name: `seeds` (how many ran), `held` (on how many it held), and the
        lowest, middle and highest value; an empty table where the lesson was not run over seeds.
    """
    import pandas as pd

    claims = read_table().get(lesson, {}).get("claims", [])
    runs = [{"claim": claim["name"], **run} for claim in claims for run in claim["runs"].values()]
    return (
        pd.DataFrame(runs, columns=["claim", "held", "value"])
        .groupby("claim", sort=False)
        .agg(
            seeds=("value", "size"),
            held=("held", "sum"),
            lowest=("value", "min"),
            median=("value", "median"),
            highest=("value", "max"),
        )
    )


def held_often(table: pd.DataFrame, name: str) -> bool:
    """Say whether a claim held on at least nine of ten seeds, at least ten of them measured.

    Args:
        table: what `spread` returned.
        name: of the claim.
    """
    if name not in table.index:
        return False
    row = table.loc[name]
    return bool(row["seeds"] >= FEWEST_SEEDS and row["held"] >= ESTABLISHED_SHARE * row["seeds"])


def is_measured_world(profile: Profile) -> bool:
    """Say whether a profile, as it is in force, is what the fresh seeds were measured with."""
    is_changed = profile.changes or changes_in_force()  # recipes, or another base model
    return profile.name == PROFILE and not is_changed and reported_split() == DEFAULT_SPLIT


def check_unchanged(what: str) -> None:
    """Check that what is measured for a committed table is the course's own.

    Args:
        what: the table, as the subject of the sentence.

    Raises:
        CourseError: a variable asks for another base model, other recipes or another split.
    """
    split = [] if reported_split() == DEFAULT_SPLIT else [SPLIT_VARIABLE]
    if changed := [*split, *changes_in_force()]:
        raise CourseError(
            f"{what} is about the course's own models and recipes on test items, but {' and '.join(changed)} "
            f"would change what is measured; unset {'it' if len(changed) == 1 else 'them'}."
        )


def check_claims(
    lesson: str, runtime: Runtime, claims: Sequence[Claim], bounds: Sequence[Bound] = ()
) -> pd.DataFrame:
    """Assert what is established about a lesson, and show this run beside the fresh seeds.

    A claim is established when it held on at least nine of ten fresh seeds (`docs/seeds.json`), for the model
    and the items that these seeds were measured with; elsewhere it is reported as it comes.

    Args:
        lesson: the notebook's name without its ending.
        runtime: what `setup()` returned.
        claims: those of the lesson.
        bounds: what it promises besides.

    Returns:
        One row per claim: whether it holds in this run and its value, on how many fresh seeds it held, and
        between which values. Where the seeds were measured with something else, the corner says with what.

    Raises:
        AssertionError: an established claim does not hold; all of them are named.
    """
    import pandas as pd

    fresh = spread(lesson)
    measured = is_measured_world(runtime.profile)
    asserted = measured and not os.environ.get(MEASURE_VARIABLE)
    rows, broken = [], []
    for claim in (*claims, *bounds):
        row: dict[str, Any] = {"claim": claim.name, "this run": value_of(claim), "holds": claim.held}
        row |= {"held on seeds": "not measured"} | dict.fromkeys(_SPREAD)
        if claim.name in fresh.index:
            seen = fresh.loc[claim.name]
            row["held on seeds"] = f"{seen['held']:.0f} of {seen['seeds']:.0f}"
            row |= {key: seen[key] for key in _SPREAD}
        row["asserted"] = asserted and held_often(fresh, claim.name)
        rows.append(row)
        if row["asserted"]:
            try:
                claim.check()
            except AssertionError as error:
                broken.append(str(error))
    if broken:
        raise AssertionError(" ".join(broken))
    table = pd.DataFrame(rows).set_index("claim").round(3)
    if not measured:  # nobody is to take them for seeds of this run's model
        table.columns.name = f"seeds: {PROFILE}, {DEFAULT_SPLIT}"
    return _shown_whole(table)


def _shown_whole(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of which a notebook shows every name to its end; pandas cuts off after 50 characters."""
    import pandas as pd

    class Whole(pd.DataFrame):
        def __repr__(self) -> str:
            with pd.option_context("display.max_colwidth", None):
                return super().__repr__()

        def _repr_html_(self) -> str:
            with pd.option_context("display.max_colwidth", None):
                return super()._repr_html_()

    return Whole(frame)


def value_of(claim: Claim | Bound) -> float:
    """Return the number that a claim is about: a rate's or score's new level, or the change it makes."""
    if isinstance(claim, Bound):
        return claim.value
    return claim.after if claim.at_least is not None else claim.difference


def read_table() -> dict[str, Any]:
    """Return the committed table, empty where there is none."""
    path = seeds_path()
    return read_json(path, "take it from the repository again, or delete it") if path.is_file() else {}
