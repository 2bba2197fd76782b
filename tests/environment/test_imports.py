"""Libraries are imported without a look for garbage, and later looks pass over them."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from posttrain_helpers.environment.imports import importing_libraries, is_installed


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What was left out of the collector's sight: nothing, or once more everything."""
    calls: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append(True))
    return calls


def test_a_directory_of_its_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "runs_of_a_tracker").mkdir()
    assert is_installed("pytest")
    assert not is_installed("runs_of_a_tracker")
    assert not is_installed("nothing_of_this_name")


@pytest.mark.usefixtures("frozen")
def test_the_collector_rests_and_goes_on_also_after_an_error() -> None:
    def broken() -> None:
        with importing_libraries():
            assert not gc.isenabled()
            raise ImportError

    with pytest.raises(ImportError):
        broken()
    assert gc.isenabled()
    gc.disable()
    try:
        with importing_libraries():
            pass
        assert not gc.isenabled(), "a reader who switched it off keeps it so"
    finally:
        gc.enable()


def test_only_what_is_there_with_the_first_import_is_left_out(
    frozen: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import modeling_utils

    monkeypatch.delitem(sys.modules, modeling_utils.__name__)
    with importing_libraries():
        pass
    assert frozen == [], "nothing was imported"
    with importing_libraries():
        sys.modules[modeling_utils.__name__] = modeling_utils
    assert frozen == [True]
    with importing_libraries():
        pass
    assert frozen == [True], "models may be there now, which become garbage"
