"""Models in GGUF, the format of llama.cpp, which holds quantized weights and the tokenizer in one file.

Such a file is dequantized once, into a directory in float32 that loads, trains and is saved like that of any
other model. What the quantization rounded away stays lost: the weights are near the publisher's, not equal.
"""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.fetched import PROVENANCE, models_root
from posttrain_helpers.environment.imports import is_installed
from posttrain_helpers.environment.paths import atomic_directory, write_json_atomic
from posttrain_helpers.environment.progress_bars import is_live
from posttrain_helpers.environment.runtime import display_path
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.weights import loading_errors, sha256
from posttrain_helpers.wording import readable_size

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SUFFIX = ".gguf"
# What llama.cpp calls the ways of splitting a text before its words are looked up. transformers knows others
# than these; where it does not know one, it splits as GPT-2's tokenizer does.
_SPLITS_AS_GPT2 = ("gpt-2", "default")
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r")


def is_gguf_file(place: str | Path) -> bool:
    """Say whether a place is a file that is named as a GGUF file."""
    path = Path(place).expanduser()
    return path.suffix == SUFFIX and path.is_file()


def dequantized_directory(path: Path) -> Path:
    """Return the directory with the dequantized model of a GGUF file, which is made the first time.

    Args:
        path: the file; its content, not its name, says whether it was dequantized before.

    Raises:
        CourseError: the file is damaged, its architecture is not supported, or the package gguf is missing.
    """
    digest = sha256(path)
    target = models_root() / f"{path.stem}-{digest[:8]}"
    if (target / PROVENANCE).is_file():
        return target
    size = readable_size(path.stat().st_size)
    print(f"dequantizing {display_path(path)} ({size}) to {display_path(target)}, once …", flush=True)
    with atomic_directory(target) as directory:
        for note in dequantize(path, directory):
            print(f"  note: {note}")
        write_provenance(directory, {"source": str(path), "gguf_sha256": digest})
    return target


def write_provenance(directory: Path, content: dict[str, str]) -> str:
    """Write where the model in a directory comes from, with the date, and return the date."""
    date = datetime.now(UTC).date().isoformat()
    write_json_atomic(directory / PROVENANCE, {**content, "written": date})
    return date


def dequantize(path: Path, directory: Path, settings: dict[str, Any] | None = None) -> list[str]:
    """Write the model of a GGUF file into a directory: float32 weights, tokenizer, chat template, configs.

    Args:
        path: the file.
        directory: an empty one.
        settings: values of the config that the format does not hold.

    Returns:
        One sentence for each thing that could not be taken over.

    Raises:
        CourseError: as `dequantized_directory`.
    """
    if not is_installed("gguf"):
        raise CourseError(
            f"{display_path(path)} can only be read with the package gguf, which is missing; run "
            "`python -m pip install -r requirements.txt`."
        )
    with _bars_for_watchers_only():
        with _one_sentence(path):
            model, tokenizer = _read(path.resolve(), directory)
            notes = _repair_splitting(tokenizer, path)
        _clean(model.config, settings or {})
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    _clean_tokenizer_config(directory / "tokenizer_config.json", model.config)
    return notes


@contextmanager
def _bars_for_watchers_only() -> Iterator[None]:
    """Keep the libraries' progress bars out of a file or a pipe; they cannot be switched off otherwise."""
    with nullcontext() if is_live(sys.stderr) else redirect_stderr(io.StringIO()):
        yield


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Turn what the readers raise about a file into one sentence."""
    try:
        yield
    except (*loading_errors(), ImportError, IndexError, OverflowError, struct.error) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise CourseError(
            f"{display_path(path)} could not be read as a GGUF model ({reason}); download the file again, or "
            "take a model of an architecture that transformers can dequantize."
        ) from error


def _read(path: Path, empty: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model and tokenizer, by way of an empty directory: what lies beside the file may be of others."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options = {"gguf_file": str(path), "local_files_only": True, "trust_remote_code": False}
    model, report = AutoModelForCausalLM.from_pretrained(
        empty,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        **options,
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"it lacks {len(missing)} parameters, the first is {missing[0]}")
    return model, AutoTokenizer.from_pretrained(empty, **options)


def _clean(config: PreTrainedConfig, settings: dict[str, Any]) -> None:
    """Make a config say what the dequantized model is, and write numbers as the publisher did."""
    import numpy as np

    for name in ("quantization_config", "_is_quantized", "_model_name_or_path", "unk_token_id"):
        vars(config).pop(name, None)
    for name, value in vars(config).items():
        # The file holds 32 bits: 1e-5 came back as 9.999999747378752e-06.
        if isinstance(value, float) and value == np.float32(value):
            vars(config)[name] = float(str(np.float32(value)))
    for name, value in settings.items():
        setattr(config, name, value)


def _clean_tokenizer_config(path: Path, config: PreTrainedConfig) -> None:
    """Drop what the reading left behind and say how long a text may be."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only", "vocab_file", "gguf_file"):
        content.pop(name, None)
    if length := getattr(config.get_text_config(), "max_position_embeddings", None):
        content["model_max_length"] = length
    write_json_atomic(path, content)


def _repair_splitting(tokenizer: PreTrainedTokenizerBase, path: Path) -> list[str]:
    """Split texts as the file says where transformers does not know how."""
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf import read_gguf_metadata

    backend = tokenizer.backend_tokenizer
    kind = read_gguf_metadata(str(path))[0].get("tokenizer.ggml.pre")
    if not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel) or kind in (None, *_SPLITS_AS_GPT2):
        return []
    if kind in _DIGITS_APART:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
        return []
    return [
        f"its way of splitting texts ({kind!r}) is not known here, so its tokenizer splits as GPT-2's does "
        "and may give other tokens than the publisher's"
    ]
