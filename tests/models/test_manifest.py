"""What a manifest must say, and when a stage is complete, on stages that are written by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.manifest import MANIFEST, is_complete, read_manifest, verify

SHARDS = {"model-1.safetensors": b"first", "model-2.safetensors": b"second"}


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A stage of two weights files."""
    for name, content in SHARDS.items():
        (tmp_path / name).write_bytes(content)
    weights = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in SHARDS.items()
    }
    texts = {"recipe_hash": "0123", "parent_identity": "4567", "identity": "89ab", "model": "base"}
    (tmp_path / MANIFEST).write_text(json.dumps({**texts, "weights": weights}), encoding="utf-8")
    return tmp_path


def rewrite(stage: Path, without: str = "", **changes: object) -> None:
    manifest = json.loads((stage / MANIFEST).read_text(encoding="utf-8")) | changes
    manifest.pop(without, None)
    (stage / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("shard", SHARDS)
def test_every_shard_must_be_there_and_whole(stage: Path, shard: str) -> None:
    verify(stage)
    assert is_complete(stage)
    (stage / shard).write_bytes(SHARDS[shard][:-1])
    assert not is_complete(stage)
    (stage / shard).unlink()
    assert not is_complete(stage)


@pytest.mark.parametrize("key", ["recipe_hash", "parent_identity", "identity", "model", "weights"])
def test_what_a_manifest_lacks_is_named(stage: Path, key: str) -> None:
    assert read_manifest(stage)
    rewrite(stage, without=key)
    with pytest.raises(CourseError, match=rf"manifest\.json lacks {key}; delete .*rebuild=True"):
        read_manifest(stage)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recipe_hash", 1),
        ("parent_identity", None),
        ("identity", ["89ab"]),
        ("model", {}),
        ("reward_identities", ["89ab"]),
        ("data_identities", "89ab"),
    ],
)
def test_what_is_not_what_was_written_is_named(stage: Path, key: str, value: object) -> None:
    rewrite(stage, reward_identities={}, data_identities={"data.source": "89ab"})
    assert read_manifest(stage)
    rewrite(stage, **{key: value})
    with pytest.raises(CourseError, match=rf"manifest\.json is damaged: {key} is not what was written"):
        read_manifest(stage)
