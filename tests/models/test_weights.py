from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.weights import (
    check_weights,
    sha256,
    unsound_weight,
    weight_files,
    weights_identity,
)


@pytest.fixture
def model_dir(random_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_model_dir, tmp_path / "model"))


@pytest.fixture
def sharded_dir(random_model_dir: Path, tmp_path: Path) -> Path:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(random_model_dir)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    return tmp_path / "sharded"


def test_whole_weights_pass(model_dir: Path, sharded_dir: Path) -> None:
    assert [path.name for path in check_weights(model_dir)] == ["model.safetensors"]
    assert len(check_weights(sharded_dir)) > 1


def test_a_missing_shard_counts_as_no_weights(sharded_dir: Path) -> None:
    weight_files(sharded_dir)[0].unlink()
    assert weight_files(sharded_dir) == []
    with pytest.raises(CourseError, match="lacks weights"):
        check_weights(sharded_dir)


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b[:-1], lambda b: b"", lambda b: b[:4], lambda b: b"x" * 1000],
    ids=["half", "one byte short", "empty", "no header", "another format"],
)
def test_a_damaged_file_is_one_sentence(model_dir: Path, damage) -> None:
    path = model_dir / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CourseError, match=r"model\.safetensors is corrupt or cut off .*delete"):
        check_weights(model_dir)


def test_pickled_weights_are_refused(model_dir: Path) -> None:
    (model_dir / "model.safetensors").rename(model_dir / "pytorch_model.bin")
    with pytest.raises(CourseError, match=r"pytorch_model\.bin, a pickle that can run code"):
        check_weights(model_dir)


def test_no_weights_lists_what_was_found(model_dir: Path) -> None:
    (model_dir / "model.safetensors").unlink()
    with pytest.raises(CourseError, match=r"lacks weights.*found .*config\.json"):
        check_weights(model_dir)


def test_sha256_sees_a_change_of_the_same_length(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    first = sha256(path)
    assert first == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"abd")
    import os

    os.utime(path, ns=(0, 0))
    assert sha256(path) != first


def test_identity_depends_on_names_and_digests_but_not_on_order() -> None:
    identity = weights_identity({"a": "1", "b": "2"})
    assert identity == weights_identity(json.loads('{"b": "2", "a": "1"}'))
    assert identity != weights_identity({"a": "2", "b": "1"})


def test_a_weight_may_be_as_large_as_the_limit() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, -3.0)
    assert unsound_weight(layer, 3.0) is None
    assert unsound_weight(layer, 2.5) == "weight holds the number -3"
