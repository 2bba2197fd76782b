from __future__ import annotations

import subprocess
import sys

import pytest

import posttrain_helpers


def test_every_public_name_can_be_imported() -> None:
    for name in posttrain_helpers.__all__:
        assert getattr(posttrain_helpers, name).__name__ == name
    assert len(posttrain_helpers.__all__) == 28
    assert set(posttrain_helpers.__all__) <= set(dir(posttrain_helpers))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = posttrain_helpers.no_such_name


def test_import_loads_no_heavy_library() -> None:
    code = (
        "import sys, posttrain_helpers, posttrain_helpers.recipes, posttrain_helpers.stages.build\nheavy = "
        "{'torch', 'transformers', 'trl', 'datasets', 'peft', 'pandas', 'matplotlib', 'scipy', "
        "'numpy'}\nprint(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_recipes_load_no_trainer_no_data_and_no_stage() -> None:
    code = (
        "import sys, posttrain_helpers.recipes\nupper = {f'posttrain_helpers.{name}' for name in "
        "('data', 'training', 'stages', 'models.loading', 'rewards.functions', 'tinyworld')}\n"
        "print(sorted(upper & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
