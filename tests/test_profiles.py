from __future__ import annotations

from pathlib import Path

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.profiles import PROFILES, get_profile


def test_default_is_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTTRAIN_PROFILE", raising=False)
    assert get_profile().name == "tiny"
    monkeypatch.setenv("POSTTRAIN_PROFILE", "")
    assert get_profile().name == "tiny"


def test_environment_variable_chooses_and_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_PROFILE", "qwen3")
    assert get_profile().name == "qwen3"
    assert get_profile("tiny").name == "tiny"


def test_a_profile_passes_through() -> None:
    profile = PROFILES["qwen3"]
    assert get_profile(profile) is profile


def test_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(CourseError, match=r"'qwen' does not exist; did you mean 'qwen3'\?.*tiny, qwen3"):
        get_profile("qwen")


def test_unknown_name_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_PROFILE", "nonsense")
    with pytest.raises(CourseError, match=r"POSTTRAIN_PROFILE.*'nonsense'"):
        get_profile()


def test_offline_profiles_ship_their_model_and_online_ones_pin_a_commit() -> None:
    for profile in PROFILES.values():
        if profile.offline:
            assert Path(profile.base_model).is_absolute()
            assert profile.revision is None
        else:
            assert len(profile.revision) == 40
            int(profile.revision, 16)
