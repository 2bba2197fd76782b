"""How much of the machine this process may use: limits of containers, versions 1 and 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain_helpers.environment import limits


def test_quota_of_a_container_limits_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = limits.available_cores()
    monkeypatch.setattr(limits, "_cgroup_cpu_quota", lambda: 0.5)
    assert limits.available_cores() == 1
    monkeypatch.setattr(limits, "_cgroup_cpu_quota", lambda: 1000.0)
    assert limits.available_cores() >= unlimited


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1.5)])
def test_quota_of_cgroup_version_2(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text, encoding="utf-8")
    assert limits._cgroup_cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", None), ("400000", 4.0)])
def test_quota_of_cgroup_version_1(tmp_path: Path, quota: str, cores: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n", encoding="utf-8")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n", encoding="utf-8")
    assert limits._cgroup_cpu_quota(tmp_path) == cores


def test_no_cgroup_means_no_quota(tmp_path: Path) -> None:
    assert limits._cgroup_cpu_quota(tmp_path) is None


def machine(root: Path, membership: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/job\n", {"sys/fs/cgroup/job/memory.max": "1048576\n"}),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "1048576\n"}),
        (
            "0::/a/b\n",
            {"sys/fs/cgroup/a/b/memory.max": "1048576\n", "sys/fs/cgroup/a/memory.max": "2097152\n"},
        ),
        ("5:cpu:/x\n4:memory:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1048576\n"}),
        ("4:memory:/docker/abc\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n"}),
        ("4:memory:/x\n0::/\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1048576\n"}),
    ],
    ids=["v2", "v2 parent", "v2 smallest", "v1", "v1 in a container", "hybrid"],
)
def test_the_limit_of_a_control_group_is_found(tmp_path, membership, files):
    assert limits.memory_limit(machine(tmp_path, membership, files)) == (1048576, "cgroup")


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/job\n", {"sys/fs/cgroup/job/memory.max": "max\n"}),
        ("4:memory:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n"}),
        ("1:cpu:/x\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n"}),
    ],
    ids=["v2 without", "v1 without", "no memory controller"],
)
def test_without_a_limit_the_machine_is_the_limit(tmp_path, membership, files):
    limit, source = limits.memory_limit(machine(tmp_path, membership, files))
    assert source == "host"
    assert limit > 2**28


def test_a_machine_without_control_groups_is_its_own_limit(tmp_path):
    assert limits.memory_limit(tmp_path)[1] == "host"
