"""The start of every notebook: device, dtype, threads, seed, silence.

    from posttrain_helpers import setup
    runtime = setup("tiny")

`setup` decides once what every trainer needs on this machine (`trainer_defaults`) and prints a card of seven
lines, or eight where the reader changes recipes by `POSTTRAIN_OVERRIDES`.
"""

from __future__ import annotations

import logging
import os
import platform
import random
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.fetched import fetched_directory
from posttrain_helpers.environment.imports import importing_libraries
from posttrain_helpers.environment.limits import available_cores, memory_limit
from posttrain_helpers.environment.missing_names import explain_errors
from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.environment.processes import process_count
from posttrain_helpers.environment.profiles import PROFILE_VARIABLE, Profile, get_profile
from posttrain_helpers.environment.speed import matmul_gflops, multiplies_bfloat16_fast
from posttrain_helpers.environment.splits import DEFAULT_SPLIT, USES, reported_split
from posttrain_helpers.errors import CourseError
from posttrain_helpers.wording import counted

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
# Beyond this a model of a few million parameters spends more time handing work out than doing it.
MOST_THREADS = 8
LARGEST_SEED = 2**32 - 1  # NumPy takes no larger one

_current: Runtime | None = None
_offline_by_setup = False


@dataclass(frozen=True)
class Runtime:
    """What `setup` decided.

    Attributes:
        profile: the profile in use.
        seed: of Python, NumPy and torch, and the default seed of recipes.
        device: "cpu" or "cuda".
        threads: CPU threads of torch.
        bfloat16: whether trainers, and samplers on a CPU, autocast matrix products to bfloat16.
        dtype: of the weights.
        versions: library name to version, Python included.
        started: `time.time()` at the call.
        split: the held-out split that is measured on.
        matmul_gflops: the measured rate of float32 matrix products; None before `setup` has measured it.
    """

    profile: Profile
    seed: int
    device: str
    threads: int
    bfloat16: bool = False
    dtype: str = "float32"
    versions: dict[str, str] = field(default_factory=dict)
    started: float = 0.0
    split: str = DEFAULT_SPLIT
    matmul_gflops: float | None = None

    @property
    def precision(self) -> str:
        """Of the weights, and of matrix products where these are made in another one."""
        return f"{self.dtype}, bfloat16 in training and sampling" if self.bfloat16 else self.dtype

    def __str__(self) -> str:
        profile, model = self.profile, display_path(self.profile.base_model)
        fetched = fetched_directory(self.profile.base_model)
        source = f"in {display_path(fetched)}" if fetched else f"download: {profile.download}"
        device = f"{_device_name(self.device)} · {self.precision} · {counted(self.threads, 'CPU thread')}"
        if self.matmul_gflops is not None:
            device += f" · {self.matmul_gflops:,.0f} GFLOP/s (float32 matrix products)"
        if self.device == "cpu" and profile.device == "cuda":
            device += " · no GPU found: training on a CPU may take hours"
        limit, origin = memory_limit()
        lines = {
            "profile": f"{profile.name}: {profile.description}",
            "model": f"{model} · {profile.licence} · {source}",
            "device": device,
            "memory": f"{limit / 1e9:.1f} GB ({origin})",
            "seed": str(self.seed),
            "split": f"{self.split}: {USES[self.split]}",
            "versions": " · ".join(f"{name} {number}" for name, number in self.versions.items()),
        }
        if profile.changes:
            lines["changes"] = " · ".join(profile.changes)
        return "\n".join(f"{name:<9} {value}" for name, value in lines.items())


def setup(profile: str | Profile | None = None, seed: int = 0, threads: int | None = None) -> Runtime:
    """Prepare this process for a lesson and print the environment card.

    Progress bars, notices of the libraries and their known-harmless warnings are switched off. In a notebook
    a NameError says from now on which cell has to be run first.

    Args:
        profile: a profile's name; None reads `POSTTRAIN_PROFILE` and falls back to "tiny". The choice holds
            for the whole process and the processes that it starts.
        seed: of Python, NumPy and torch, and the default seed of recipes.
        threads: CPU threads of torch; None takes `OMP_NUM_THREADS`, else the cores that this process may use.

    Returns:
        What was decided.

    Raises:
        CourseError: for an unknown profile, a negative seed, or fewer than one thread.
    """
    global _current
    profile = get_profile(profile)
    check_seed(seed)
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise CourseError(f"threads must be a whole number of at least 1, but it is {threads!r}.")
    os.environ[PROFILE_VARIABLE] = profile.name
    _set_library_environment(profile)
    _silence_libraries()
    runtime = _detect(profile, seed, threads)
    with importing_libraries():
        import torch
        from transformers import set_seed

        prepare_trainers()
    torch.set_num_threads(runtime.threads)
    runtime = replace(runtime, matmul_gflops=matmul_gflops(runtime.device))
    set_seed(seed)
    _current = runtime
    explain_errors()
    print(runtime)
    return runtime


def current_runtime(profile: str | Profile | None = None) -> Runtime:
    """Return what `setup` decided, or what it would decide if it was not called for this profile."""
    profile = get_profile(profile)
    if _current is not None and _current.profile == profile:
        return _current
    return _detect(profile, seed=0, threads=None)


def trainer_defaults(profile: str | Profile | None = None) -> dict[str, Any]:
    """Return the arguments that every TRL config needs on this machine; recipes add theirs on top.

    TRL's own defaults suit a large GPU: bfloat16, activation checkpointing and a checkpoint with the
    optimizer's state at the end of every run.
    """
    runtime = current_runtime(profile)
    defaults: dict[str, Any] = {
        "activation_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": runtime.seed,
    }
    if process_count() > 1:
        defaults["ddp_find_unused_parameters"] = False
    if runtime.device == "cpu":
        return {**defaults, "use_cpu": True, "bf16": runtime.bfloat16, "dataloader_pin_memory": False}
    return {**defaults, "bf16": runtime.bfloat16, "fp16": not runtime.bfloat16}


@contextmanager
def sampling_precision(model: torch.nn.Module) -> Iterator[None]:
    """Let a model sample in the precision of a training, where the CPU has fast products in bfloat16.

    Greedy replies are made without it, as 2 of 64 verdicts changed. Autocast keeps the cast weights only of
    parameters that want gradients; the others would be cast again for every token.
    """
    import torch

    runtime = current_runtime()
    if runtime.device != "cpu" or not runtime.bfloat16 or torch.is_autocast_enabled("cpu"):
        yield
        return
    frozen = [
        weight for weight in model.parameters() if weight.is_floating_point() and not weight.requires_grad
    ]
    try:
        with torch.autocast("cpu", torch.bfloat16):
            for weight in frozen:
                weight.requires_grad_(True)
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def prepare_trainers() -> None:
    """Let every trainer of this process be quick on a CPU and count its steps."""
    from posttrain_helpers.environment.training_watch import watch_trainings
    from posttrain_helpers.environment.trl_on_cpu import attend_in_products, skip_untrained_positions

    skip_untrained_positions()
    attend_in_products()
    watch_trainings()


def check_seed(seed: object) -> None:
    """Check that Python, NumPy and torch take a seed.

    Raises:
        CourseError: it is no whole number from 0 to `LARGEST_SEED`.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise CourseError(f"the seed must be a whole number from 0 to {LARGEST_SEED}, but it is {seed!r}.")


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Leave the random state of Python, NumPy and torch as it was, whatever the block draws or seeds."""
    import numpy as np
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def display_path(path: str | Path) -> str:
    """Return a path relative to the repository if it lies inside; a Hub id stays as it is."""
    resolved = Path(path)
    if resolved.is_absolute() and resolved.is_relative_to(repository_root()):
        return resolved.relative_to(repository_root()).as_posix()
    return str(path)


def _detect(profile: Profile, seed: int, threads: int | None) -> Runtime:
    device = _device(profile)
    return Runtime(
        profile=profile,
        seed=seed,
        device=device,
        bfloat16=profile.autocast and multiplies_bfloat16_fast(device),
        threads=threads or _default_threads(),
        versions=dict(_versions()),
        started=time.time(),
        split=reported_split(),
    )


@cache  # each look parses a file of many lines, and a recipe asks for the runtime several times
def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def _device(profile: Profile) -> str:
    if profile.device == "cpu":
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _device_name(device: str) -> str:
    if device == "cpu":
        return "CPU"
    import torch

    return f"{torch.cuda.get_device_name()} ({torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB)"


def _default_threads() -> int:
    configured = os.environ.get("OMP_NUM_THREADS", "")
    if configured.isdecimal() and int(configured) > 0:
        return int(configured)
    return min(available_cores(), MOST_THREADS)


def _set_library_environment(profile: Profile) -> None:
    global _offline_by_setup
    os.environ.update(
        HF_HUB_DISABLE_TELEMETRY="1", TRL_EXPERIMENTAL_SILENCE="1", TOKENIZERS_PARALLELISM="false"
    )
    if profile.offline and "HF_HUB_OFFLINE" not in os.environ:
        os.environ["HF_HUB_OFFLINE"] = "1"
        _offline_by_setup = True
    elif not profile.offline and _offline_by_setup:
        del os.environ["HF_HUB_OFFLINE"]
        _offline_by_setup = False
    offline = _is_true("HF_HUB_OFFLINE")
    # Both read the variables when they were imported.
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None:
        constants.HF_HUB_OFFLINE = offline
    if (config := sys.modules.get("datasets.config")) is not None:
        own = "HF_DATASETS_OFFLINE"
        config.HF_HUB_OFFLINE = config.HF_DATASETS_OFFLINE = _is_true(own) if own in os.environ else offline


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")


def _silence_libraries() -> None:
    # TRL itself triggers notices about arguments that transformers renamed.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    # Without ipywidgets a notebook shows bars of text; tqdm complains where one of these imports it first.
    warnings.filterwarnings("ignore", message="IProgress not found")
    # bitsandbytes asks for a package that would make it quicker; peft imports it wherever it is installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler says when it starts and when it stops
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
