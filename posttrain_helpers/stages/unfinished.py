"""A training that was killed: its checkpoints lie in `runs/` until the stage is whole, and it can go on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from posttrain_helpers.environment.paths import read_json, write_json_atomic
from posttrain_helpers.environment.processes import is_main_process
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import Recipe
from posttrain_helpers.training.checkpoints import checkpoints, newest_checkpoint, progress_of

_ORIGIN = "run.json"  # what the run was started with


@dataclass(frozen=True)
class Run:
    """The directory of the runs that make one stage, which has its name."""

    directory: Path  # where the trainer writes
    origin: dict[str, str]  # the identities of what it trains with: only an equal one goes on

    def start(self, resume: bool, anew: bool) -> Path | None:
        """Return the checkpoint of an unfinished run to go on from (`resume`), None to begin `anew`.

        Raises:
            CourseError: there is one, and nothing was said about it, or it was started with other settings.
        """
        newest = None if anew else newest_checkpoint(self.directory)
        if newest is not None:
            step, last = progress_of(newest)
            stage = self.directory.name
            found = f"the stage {stage!r} has an unfinished run, saved after step {step:,} of {last:,}"
            if not resume:
                raise CourseError(f"{found}; --resume goes on with it, and --rebuild starts anew.")
            began = read_json(self.directory / _ORIGIN, "start anew with --rebuild")
            if changed := [name for name, value in self.origin.items() if began.get(name) != value]:
                raise CourseError(
                    f"{found}, but its {' and '.join(changed)} changed since; go on with what it was started "
                    "with, or start anew with --rebuild."
                )
        elif is_main_process():
            self.drop()
            write_json_atomic(self.directory / _ORIGIN, self.origin)
        return newest

    def trainer_arguments(self, recipe: Recipe) -> Recipe:
        """Return a recipe whose trainer writes its checkpoints here, and keeps the newest."""
        places = {"output_dir": str(self.directory), "save_total_limit": 1}
        return replace(recipe, args={**recipe.args, **places})

    def drop(self) -> None:
        """Remove the checkpoints; what a tracker wrote here stays."""
        for checkpoint in checkpoints(self.directory):
            shutil.rmtree(checkpoint)
        for name in (_ORIGIN, "README.md"):  # the card that a checkpoint of an adapter or of TRL brings
            (self.directory / name).unlink(missing_ok=True)
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()
