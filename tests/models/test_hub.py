from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, ModelInfo, constants, errors

from posttrain_helpers.environment.profiles import PROFILES
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models import hub
from posttrain_helpers.models.hub import hub_snapshot

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


def model_info(sizes: dict[str, int | None], card: dict | None = None) -> ModelInfo:
    files = [{"rfilename": name, "size": size} for name, size in sizes.items()]
    return ModelInfo(id="someone/some-model", siblings=files, cardData=card)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """A Hub that answers; what would be downloaded is written down."""
    import huggingface_hub

    made = []

    def download(*, local_files_only: bool = False, **arguments: object) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        made.append(arguments)
        return str(arguments["cache_dir"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return made


def test_offline_and_not_cached_names_id_cache_and_the_offline_profile(private_cache: Path) -> None:
    with pytest.raises(CourseError) as caught:
        hub_snapshot("someone/some-model")
    for part in ("'someone/some-model'", str(private_cache), "offline mode", "profile 'tiny'"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_network_that_does_not_answer_is_noticed_within_seconds(
    repo_type: str, private_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.perf_counter()
    with pytest.raises(CourseError, match=r"'someone/something' is not in the cache") as caught:
        hub_snapshot("someone/something", repo_type=repo_type)
    assert time.perf_counter() - started < 5
    for part in (str(private_cache), "cannot be reached (ConnectError)", "profile 'tiny'"):
        assert part in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("online", "output_root")
@pytest.mark.parametrize(
    ("name", "profile", "repo"),
    [
        ("base", "qwen3", "Qwen/Qwen3-0.6B-Base"),
        ("instruct", "qwen3", "Qwen/Qwen3-0.6B"),
        ("ready_made_sft", "qwen3", "banghua/Qwen3-0.6B-SFT"),
        ("openai-community/gpt2", "tiny", "openai-community/gpt2"),
    ],
)
def test_whatever_needs_a_model_says_within_seconds_that_the_network_is_blocked(
    name: str, profile: str, repo: str
) -> None:
    from posttrain_helpers.stages.build import load_stage
    from posttrain_helpers.stages.loading import load_model_and_tokenizer

    calls = [lambda: load_model_and_tokenizer(name, profile=profile)]
    if "/" not in name:
        calls.append(lambda: load_stage(name, profile))
    for call in calls:
        started = time.perf_counter()
        with pytest.raises(CourseError, match=f"'{repo}' is not in the cache .*offline profile 'tiny'"):
            call()
        assert time.perf_counter() - started < 5


@pytest.mark.usefixtures("online", "output_root")
@pytest.mark.parametrize("recipe", ["sft_dl", "dpo_dl", "grpo_gsm8k"])
def test_whatever_needs_a_data_set_says_within_seconds_that_the_network_is_blocked(recipe: str) -> None:
    from posttrain_helpers.data.loading import load_data
    from posttrain_helpers.recipes import load_recipe

    recipe = load_recipe(recipe, "qwen3")
    started = time.perf_counter()
    with pytest.raises(CourseError, match=rf"'{recipe.data['source']}' is not in the cache .*profile 'tiny'"):
        load_data(recipe)
    assert time.perf_counter() - started < 5


def test_hf_home_says_where_the_cache_is(tmp_path: Path, random_model_dir: Path) -> None:
    """The library reads the variable when it is imported, so this is another process."""
    home = tmp_path / "elsewhere"
    code = "from posttrain_helpers.models.hub import hub_snapshot; print(hub_snapshot('someone/some-model'))"
    caches = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")  # these would win over HF_HOME
    environment = {name: value for name, value in os.environ.items() if name not in caches}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    assert f"not in the cache {home / 'hub'} and the Hub cannot be reached (offline mode)" in run().stderr
    snapshot = cached(home / "hub", random_model_dir)
    assert run().stdout.strip() == str(snapshot)


def test_a_cached_model_needs_no_network(private_cache: Path, random_model_dir: Path) -> None:
    snapshot = cached(private_cache, random_model_dir)
    assert hub_snapshot("someone/some-model") == snapshot
    assert hub_snapshot("someone/some-model", revision=COMMIT) == snapshot


def test_another_revision_is_not_taken_from_the_cache(private_cache: Path, random_model_dir: Path) -> None:
    cached(private_cache, random_model_dir)
    with pytest.raises(CourseError, match=f"not in the cache .* at revision '{'f' * 40}' and the Hub"):
        hub_snapshot("someone/some-model", revision="f" * 40)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_half_a_model_in_the_cache_does_not_count(
    private_cache: Path, random_model_dir: Path, missing: str
) -> None:
    (cached(private_cache, random_model_dir) / missing).unlink()
    with pytest.raises(CourseError, match="not in the cache"):
        hub_snapshot("someone/some-model")


def test_a_model_in_the_cache_without_a_tokenizer_does_not_count(
    private_cache: Path, random_model_dir: Path
) -> None:
    snapshot = cached(private_cache, random_model_dir)
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"):
        (snapshot / name).unlink(missing_ok=True)
    with pytest.raises(CourseError, match="not in the cache"):
        hub_snapshot("someone/some-model")
    # The base of an adapter has a tokenizer.
    (snapshot / "config.json").rename(snapshot / "adapter_config.json")
    (snapshot / "model.safetensors").rename(snapshot / "adapter_model.safetensors")
    assert hub_snapshot("someone/some-model") == snapshot


def test_a_cached_data_set(private_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text("{}", encoding="utf-8")
    snapshot = cached(private_cache, tmp_path / "rows", "datasets--someone--rows")
    assert hub_snapshot("someone/rows", repo_type="dataset") == snapshot


def test_a_folder_that_is_not_in_the_cached_copy_is_not_there(private_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "rows" / "data" / "rl").mkdir(parents=True)
    (tmp_path / "rows" / "data" / "rl" / "train.jsonl").write_text("{}", encoding="utf-8")
    snapshot = cached(private_cache, tmp_path / "rows", "datasets--someone--rows")
    assert hub_snapshot("someone/rows", repo_type="dataset", folder="data/rl") == snapshot
    with pytest.raises(CourseError, match="'someone/rows' is not in the cache"):
        hub_snapshot("someone/rows", repo_type="dataset", folder="data/reward")


@pytest.mark.usefixtures("online")
def test_only_the_asked_folder_is_downloaded_and_announced(
    downloads: list[dict], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"data/rl/a.parquet": 2_000_000, "data/reward/b.parquet": 9_000_000_000, "README.md": 0}
    answer(monkeypatch, model_info(sizes))
    hub_snapshot("someone/rows", repo_type="dataset", folder="data/rl")
    [asked] = downloads
    assert "data/rl/*.parquet" in asked["allow_patterns"]
    assert all(
        pattern.startswith("data/rl/") or pattern == "README.md" for pattern in asked["allow_patterns"]
    )
    assert "2 MB at most" in capsys.readouterr().out
    with pytest.raises(CourseError, match="has no folder 'data/rm'; its folders are data/reward, data/rl"):
        hub_snapshot("someone/rows", repo_type="dataset", folder="data/rm")
    assert len(downloads) == 1


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
    answer(monkeypatch, model_info({"pytorch_model.bin": 10}))
    with pytest.raises(CourseError, match="no safetensors weights on the Hub"):
        hub_snapshot("someone/some-model")


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("info", "parts"),
    [
        (
            model_info(
                {"model.safetensors": 1_200_000_000, "config.json": 800, "pytorch_model.bin": 5_000_000_000},
                {"license": "apache-2.0"},
            ),
            ("'someone/some-model' once, 1.2 GB at most", "licence: apache-2.0"),
        ),
        (
            model_info({"model.safetensors": 269_060_552, "tokenizer.json": 2_100_000}),
            ("271 MB", "licence: not stated on its card"),
        ),
        (
            model_info({"model.safetensors": None}, {"license": ["mit", "cc-by-4.0"]}),
            ("of unknown size", "licence: mit, cc-by-4.0"),
        ),
    ],
    ids=["large", "without a card", "without sizes"],
)
def test_size_and_licence_are_shown_before_a_download(
    downloads: list[dict],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    private_cache: Path,
    info: ModelInfo,
    parts: tuple[str, ...],
) -> None:
    asked = []

    def repo_info(self: HfApi, *args: object, **kwargs: object) -> ModelInfo:
        asked.append(kwargs)
        assert not downloads
        return info

    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    hub_snapshot("someone/some-model", revision=COMMIT)
    (line,) = capsys.readouterr().out.splitlines()
    for part in (*parts, str(private_cache), "HF_HOME"):
        assert part in line
    assert asked[0]["files_metadata"] is True  # without it the Hub tells no sizes
    assert asked[0]["revision"] == downloads[0]["revision"] == COMMIT


def test_a_cached_model_is_not_announced(
    private_cache: Path, random_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cached(private_cache, random_model_dir)
    hub_snapshot("someone/some-model")
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("online", "output_root")
@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("base", PROFILES["qwen3"].revision_of("Qwen/Qwen3-0.6B-Base")),
        ("instruct", "c1899de289a04d12100db370d81485cdf75e47ca"),
        ("Qwen/Qwen3-0.6B", "c1899de289a04d12100db370d81485cdf75e47ca"),
        ("ready_made_sft", None),
        ("someone/some-model", None),
    ],
)
def test_a_known_model_comes_at_its_pinned_commit(
    downloads: list[dict], monkeypatch: pytest.MonkeyPatch, name: str, revision: str | None
) -> None:
    from posttrain_helpers.models.loading import model_directory
    from posttrain_helpers.stages.build import resolve_model

    answer(monkeypatch, model_info({"model.safetensors": 10}))
    profile = PROFILES["qwen3"]
    model_directory(resolve_model(name, profile), None, profile)
    assert downloads[-1]["revision"] == revision
    model_directory(resolve_model(name, profile), "v9", profile)
    assert downloads[-1]["revision"] == "v9"


@pytest.mark.usefixtures("online")
def test_a_download_that_fills_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def download(*args: object, local_files_only: bool = False, **kwargs: object) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        raise OSError(28, "No space left on device")

    answer(monkeypatch, model_info({"model.safetensors": 10}))
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
