"""How long the trainings of this process took: counted whoever built the trainer, but for missing stages."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_trainings import small_recipe, trainer_of

from posttrain_helpers.environment import training_watch
from posttrain_helpers.environment.training_watch import trained_seconds, uncounted_training


def test_every_training_that_ends_is_counted_but_what_is_left_out(
    random_model_dir: Path, output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_watch, "_seconds", 0.0)
    first = trainer_of(random_model_dir, small_recipe())
    first.train()
    once = trained_seconds()
    # The trainer's own clock runs a little longer: it includes the preparation.
    assert 0 < once <= first.state.log_history[-1]["train_runtime"] + 0.01
    with uncounted_training():
        trainer_of(random_model_dir, small_recipe()).train()
    assert trained_seconds() == once
    trainer_of(random_model_dir, small_recipe()).train()
    assert trained_seconds() > once
