"""Weights files on disk: which belong to a model, whether they are whole, and what identifies them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain_helpers.environment.paths import read_json
from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    from torch.nn import Module

_NAMES = ("model", "adapter_model")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_digests: dict[tuple[str, int, int], str] = {}


def loading_errors() -> tuple[type[Exception], ...]:
    """Return what transformers and PEFT raise about files or settings that do not make a model."""
    from huggingface_hub.errors import StrictDataclassError

    return (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, StrictDataclassError)


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a model or adapter; an empty list if one is missing.

    Raises:
        CourseError: an index of shards that names none.
    """
    for name in _NAMES:
        single = directory / f"{name}.safetensors"
        if single.is_file():
            return [single]
        index = directory / f"{name}.safetensors.index.json"
        if index.is_file():
            remedy = "save or download the model again"
            shards = read_json(index, remedy).get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
                raise CourseError(
                    f"{index} is damaged: weight_map should name the file of each weight; {remedy}."
                )
            paths = [directory / shard for shard in sorted(set(shards.values()))]
            return paths if all(path.is_file() for path in paths) else []
    return []


def has_tokenizer(directory: Path) -> bool:
    """Say whether a model's directory holds a tokenizer."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    return any((directory / name).is_file() for name in names)


def check_weights(directory: Path) -> list[Path]:
    """Return the weights files of a directory after a look at each file's header and length.

    Raises:
        CourseError: no weights, pickled weights only, or a file that is cut off or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    files = weight_files(directory)
    if not files:
        pickled = [path.name for pattern in _PICKLED for path in directory.glob(pattern)]
        found = ", ".join(sorted(path.name for path in directory.iterdir())) or "nothing"
        if pickled:
            raise CourseError(
                f"{directory} has its weights only as {pickled[0]}, a pickle that can run code, and is not "
                "loaded; save the model again as safetensors."
            )
        raise CourseError(
            f"{directory} lacks weights: expected model.safetensors, adapter_model.safetensors or every "
            f"shard of an index, found {found}; save or download the model again."
        )
    for path in files:
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise CourseError(
                f"the weights file {path} is corrupt or cut off ({path.stat().st_size:,} bytes: {error}); "
                "delete its directory and save or download the model again."
            ) from error
    return files


def unsound_weight(model: Module, largest: float = float("inf")) -> str | None:
    """Return what is wrong with the first parameter that holds NaN, infinity or a number beyond `largest`.

    Args:
        model: its quantized parameters, of 8 bits and less, are not looked at.
        largest: a finite number may be as large as this.

    Returns:
        A part of a sentence, or None.
    """
    for name, parameter in model.named_parameters():
        readable = parameter.is_floating_point() and parameter.itemsize > 1 and not parameter.is_meta
        if not readable or parameter.numel() == 0:
            continue
        low, high = (bound.item() for bound in parameter.detach().aminmax())
        extreme = max(low, high, key=abs)
        if not abs(extreme) <= largest or abs(extreme) == float("inf"):  # NaN compares as False
            return f"{name} holds the number {extreme:g}"
    return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; an unchanged file is read once per process."""
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _digests:
        with path.open("rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]


def weights_identity(digests: dict[str, str]) -> str:
    """Return one identity (16 hexadecimal digits) for weights files given as name to SHA-256."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]
