"""How much of the machine this process may use: cores and memory, control groups included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil


def memory_limit(root: Path = Path("/")) -> tuple[int, str]:
    """Return how much memory this process may use, in bytes, and where the figure comes from.

    Args:
        root: the directory that holds `proc` and `sys`; tests give another.

    Returns:
        The smallest limit of the control groups of this process (version 1 or 2) and "cgroup", or the memory
        of the machine and "host" where no group asks for less.
    """
    host = psutil.virtual_memory().total
    limit = min(_cgroup_limits(root), default=host)
    return (limit, "cgroup") if limit < host else (host, "host")


def _cgroup_limits(root: Path) -> Iterator[int]:
    membership = root / "proc/self/cgroup"
    if not membership.exists():
        return
    mount = root / "sys/fs/cgroup"
    for line in membership.read_text(encoding="utf-8").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            top, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        # A parent's limit binds too. Inside a container the path may be the host's: then only the top exists.
        for directory in (group, *group.parents):
            file = directory / name
            if file.exists() and (text := file.read_text(encoding="utf-8").strip()) != "max":
                yield int(text)
            if directory == top:
                break


def available_cores() -> int:
    """Return the CPU cores that this process may use: its affinity and the container's quota, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cpu_quota()
    return max(1, affinity if quota is None else min(affinity, int(quota)))


def _cgroup_cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the container's CPU quota in cores (cgroup v2, then v1), None without one."""
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text(encoding="utf-8").strip()
    except OSError:  # no cgroup file system: macOS, Windows, some sandboxes
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
