from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants, errors

from posttrain_helpers import hub
from posttrain_helpers.errors import CourseError
from posttrain_helpers.hub import hub_snapshot

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def cached(cache: Path, source: Path, repo: str = "models--someone--some-model") -> Path:
    snapshot = cache / repo / "snapshots" / COMMIT
    shutil.copytree(source, snapshot)
    (cache / repo / "refs").mkdir()
    (cache / repo / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return snapshot


def http_error(kind: type, status: int) -> Exception:
    request = SimpleNamespace(url="https://huggingface.co", headers={})
    return kind("refused", response=SimpleNamespace(status_code=status, headers={}, request=request))


def answer(monkeypatch: pytest.MonkeyPatch, result: object) -> None:
    def repo_info(self: HfApi, *args: object, **kwargs: object) -> object:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(HfApi, "repo_info", repo_info)


def test_offline_and_not_cached_names_id_cache_and_the_offline_profile(private_cache: Path) -> None:
    with pytest.raises(CourseError) as caught:
        hub_snapshot("someone/some-model")
    for part in ("'someone/some-model'", str(private_cache), "offline mode", "profile 'tiny'"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("online")
def test_a_network_that_does_not_answer_is_noticed_within_seconds() -> None:
    started = time.perf_counter()
    with pytest.raises(CourseError, match=r"'someone/some-model' is not in the cache .*cannot be reached"):
        hub_snapshot("someone/some-model")
    assert time.perf_counter() - started < 5


def test_a_cached_model_needs_no_network(private_cache: Path, random_model_dir: Path) -> None:
    snapshot = cached(private_cache, random_model_dir)
    assert hub_snapshot("someone/some-model") == snapshot
    assert hub_snapshot("someone/some-model", revision=COMMIT) == snapshot


def test_another_revision_is_not_taken_from_the_cache(private_cache: Path, random_model_dir: Path) -> None:
    cached(private_cache, random_model_dir)
    with pytest.raises(CourseError, match="not in the cache"):
        hub_snapshot("someone/some-model", revision="f" * 40)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_half_a_model_in_the_cache_does_not_count(
    private_cache: Path, random_model_dir: Path, missing: str
) -> None:
    (cached(private_cache, random_model_dir) / missing).unlink()
    with pytest.raises(CourseError, match="not in the cache"):
        hub_snapshot("someone/some-model")


def test_a_cached_data_set(private_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text("{}", encoding="utf-8")
    snapshot = cached(private_cache, tmp_path / "rows", "datasets--someone--rows")
    assert hub_snapshot("someone/rows", repo_type="dataset") == snapshot


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (http_error(errors.RepositoryNotFoundError, 404), "does not exist on the Hub, or is private"),
        (http_error(errors.RevisionNotFoundError, 404), "does not exist on the Hub at revision 'v9'"),
        (http_error(errors.GatedRepoError, 403), "asks for permission"),
        (http_error(errors.HfHubHTTPError, 503), "cannot be reached"),
    ],
    ids=["repository", "revision", "gated", "server"],
)
def test_what_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str) -> None:
    answer(monkeypatch, error)
    with pytest.raises(CourseError, match=sentence):
        hub_snapshot("someone/some-model", revision="v9" if "v9" in sentence else None)


@pytest.mark.usefixtures("online")
def test_a_model_with_pickled_weights_only_is_refused_before_the_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, SimpleNamespace(siblings=[SimpleNamespace(rfilename="pytorch_model.bin")]))
    with pytest.raises(CourseError, match="no safetensors weights on the Hub"):
        hub_snapshot("someone/some-model")


@pytest.mark.usefixtures("online")
def test_a_download_that_fills_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def download(*args: object, local_files_only: bool = False, **kwargs: object) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        raise OSError(28, "No space left on device")

    answer(monkeypatch, SimpleNamespace(siblings=[SimpleNamespace(rfilename="model.safetensors")]))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CourseError, match=r"broke off.*No space left on device.*HF_HOME"):
        hub_snapshot("someone/some-model")


def test_a_name_that_cannot_be_an_id() -> None:
    with pytest.raises(CourseError, match="'no id!' is no stage, no existing directory"):
        hub_snapshot("no id!")


def test_code_and_pickles_are_never_downloaded() -> None:
    from fnmatch import fnmatch

    for name in ("modeling.py", "pytorch_model.bin", "model.pt"):
        assert not any(fnmatch(name, pattern) for pattern in hub._PATTERNS["model"])
