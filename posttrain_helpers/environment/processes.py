"""Several processes that train one model: who is this one, and is the group there that a launcher promised?

`torchrun` and `accelerate launch` start the same command once for each GPU and say in the environment which
process each is. Everything here reads that; the group itself is accelerate's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from math import gcd
from typing import Any

from posttrain_helpers.errors import CourseError

# The names of torchrun, Intel's MPI, Open MPI and MVAPICH2, as accelerate reads them.
_COUNT = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_INDEX = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_HERE = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
# The others wait while the main process samples or downloads; who dies is noticed by the launcher, at once.
_LONGEST_WAIT = timedelta(hours=2)


def process_count() -> int:
    """Return how many processes train together, 1 without a launcher."""
    return _number(_COUNT, 1)


def process_index() -> int:
    """Return the number of this process, from 0: the main one, which prints and writes."""
    return _number(_INDEX, 0)


def is_main_process() -> bool:
    """Say whether this process prints and writes for all."""
    return process_index() == 0


def check_launcher() -> None:
    """Check that a launcher that was asked for several processes has started them.

    Raises:
        CourseError: it has started one, which would train alone, or one without a number.
    """
    count, here = process_count(), _number(_HERE, 1)
    if count > 1 and not any(os.environ.get(name) for name in _INDEX):
        raise CourseError(
            f"the environment promises {count} processes ({_set_name(_COUNT)}), but does not say "
            "which one this is (RANK); start them with torchrun --nproc_per_node N -m posttrain_helpers "
            "train ..., or unset it."
        )
    if here > count:
        raise CourseError(
            f"the environment promises {here} processes here ({_set_name(_HERE)}), but a group of {count}; "
            "start them with torchrun --nproc_per_node N -m posttrain_helpers train ..., or unset it."
        )
    # Its launcher of one process names a port only where it was asked for more.
    alone = not any(os.environ.get(name) for name in _COUNT)
    if alone and "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ:
        raise CourseError(
            "accelerate launch was asked for several processes and has started one, as it does without a GPU "
            "(--cpu, use_cpu); add --multi_gpu, which also means several processes on CPUs, or use torchrun "
            "--nproc_per_node N."
        )


def sharded_by() -> str | None:
    """Return what shares the weights out over the processes, None where each holds all of them."""
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true", "yes"):
            return name
    return None


@contextmanager
def joined_group(use_cpu: bool) -> Iterator[None]:
    """Join the group of processes in a `with` block; without a launcher, or inside such a block, do nothing.

    Args:
        use_cpu: whether the models are on CPUs, even where there is a GPU.

    Raises:
        CourseError: as `check_launcher`, or weights are to be shared out on CPUs.
    """
    check_launcher()
    if use_cpu and (engine := sharded_by()):
        raise CourseError(
            f"the launcher asks for {engine}, but on CPUs accelerate leaves it out without a word and every "
            "process would hold the whole model; use GPUs, or posttrain_helpers/recipes/accelerate/ddp.yaml."
        )
    import torch

    if process_count() == 1 or torch.distributed.is_initialized():
        yield
        return
    from accelerate.state import AcceleratorState, PartialState

    PartialState(cpu=use_cpu, timeout=_LONGEST_WAIT)
    yield
    PartialState().destroy_process_group()  # not after an error: the others may hang in a collective
    AcceleratorState._reset_state(reset_partial_state=True)  # else it takes itself for part of a group


@contextmanager
def shared_state_kept() -> Iterator[None]:
    """Keep in a `with` block what all accelerators share: each config of a trainer that is made clears it.

    A config that is only looked at would break the trainers that exist.
    """
    from accelerate.state import AcceleratorState, PartialState

    kept = [(state._shared_state, dict(state._shared_state)) for state in (AcceleratorState, PartialState)]
    try:
        yield
    finally:
        for shared, values in kept:
            if values:
                shared.clear()
                shared.update(values)


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the main process go through a `with` block before the others: it writes what they read."""
    if process_count() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState().main_process_first():
        yield


def wait_for_all() -> None:
    """Wait until every process is here."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def shared_batch(rows: int, accumulated: int, sampled: int | None) -> dict[str, Any]:
    """Return the arguments with which all processes together make the batch that one would make alone.

    Micro-batches are shared out first, as each then stays what it is: the same rows, as fast on a GPU. What
    is left is cut in rows.

    Args:
        rows: `per_device_train_batch_size` for one process.
        accumulated: its `gradient_accumulation_steps`.
        sampled: its `steps_per_generation`, None where that follows from the others.

    Raises:
        CourseError: the batch cannot be shared out evenly.
    """
    count = process_count()
    if count == 1:
        return {}
    shared = gcd(count, accumulated, sampled or accumulated)
    if rows % (count // shared):
        raise CourseError(
            f"{count} processes cannot share a batch of {rows} x {accumulated} rows "
            "(per_device_train_batch_size x gradient_accumulation_steps, as one process would take them) "
            "evenly; change one of these, or the number of processes."
        )
    arguments = {
        "per_device_train_batch_size": rows // (count // shared),
        "gradient_accumulation_steps": accumulated // shared,
    }
    return arguments if sampled is None else {**arguments, "steps_per_generation": sampled // shared}


def _number(names: tuple[str, ...], default: int) -> int:
    text = os.environ.get(_set_name(names) or "", "")
    return int(text) if text.isdecimal() else default


def _set_name(names: tuple[str, ...]) -> str | None:
    return next((name for name in names if os.environ.get(name)), None)
