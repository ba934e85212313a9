from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from pytest_llem.engines.transformers.available_memory import Available, available, available_on_host

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MIB = 2**20
HOST = {"proc/meminfo": "MemTotal: 9999999 kB\nMemAvailable: 8192 kB\n"}
V2 = {"proc/self/cgroup": "0::/job/step\n"}
V1 = {"proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/docker/abc\n1:name=systemd:/x\n0::/\n"}
UNLIMITED = "9223372036854771712"


def left(root: Path, files: Mapping[str, str], **environment: str) -> Available | None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return available_on_host(root, environment)


def group(path: str, limit: int | str, used: int, files: int = 0, *, version: int = 2) -> dict[str, str]:
    tree = "sys/fs/cgroup" if version == 2 else "sys/fs/cgroup/memory"
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    prefix = "" if version == 2 else "total_"
    stat = f"anon 7\n{prefix}inactive_file {files // 2}\n{prefix}active_file {files - files // 2}\nslab 3\n"
    folder = f"{tree}/{path}".rstrip("/")
    return {
        f"{folder}/{names[0]}": f"{limit}\n",
        f"{folder}/{names[1]}": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


def test_the_machine_says_something() -> None:
    found = available(torch.device("cpu"))
    assert found is not None
    assert found.free_bytes > MIB


def test_a_host_without_limits_has_what_is_free(tmp_path: Path) -> None:
    assert left(tmp_path, {}) is None
    assert left(tmp_path, HOST) == Available(8 * MIB)


@pytest.mark.parametrize(
    ("files", "free_mib", "limit"),
    [
        ({**V2, **group("job/step", 5 * MIB, MIB)}, 4, "job/step/memory.max"),
        # What a checkpoint that was read left in the cache of files makes room.
        ({**V2, **group("job/step", 5 * MIB, 4 * MIB, files=3 * MIB)}, 4, "job/step/memory.max"),
        ({**V2, **group("job/step", "max", MIB), **group("job", 3 * MIB, MIB)}, 2, "job/memory.max"),
        ({**V2, **group("job/step", 9 * MIB, 0), **group("", 4 * MIB, MIB)}, 3, "cgroup/memory.max"),
        ({**V2, **group("job/step", MIB, 2 * MIB)}, 0, "job/step/memory.max"),
        ({**V2, **group("job/step", "max", MIB)}, 8, None),
        ({**V2, **group("job/step", 99 * MIB, MIB)}, 8, None),
        # A container sees its own group as the root, whatever its name outside.
        ({"proc/self/cgroup": "0::/\n", **group("", 6 * MIB, MIB)}, 5, "cgroup/memory.max"),
        ({"proc/self/cgroup": "0::/../../other\n", **group("", 6 * MIB, MIB)}, 5, "cgroup/memory.max"),
        ({**V1, **group("docker/abc", 5 * MIB, 3 * MIB, files=MIB, version=1)}, 3, "abc/memory.limit_in_bytes"),
        ({**V1, **group("", 7 * MIB, MIB, version=1)}, 6, "cgroup/memory/memory.limit_in_bytes"),
        ({**V1, **group("docker/abc", UNLIMITED, MIB, version=1)}, 8, None),
        ({"proc/self/cgroup": "1:cpu:/a\n", **group("a", MIB, 0)}, 8, None),
    ],
)
def test_a_control_group_and_those_above_it_are_limits(
    tmp_path: Path, files: dict[str, str], free_mib: int, limit: str | None
) -> None:
    found = left(tmp_path, HOST | files)
    assert found is not None
    assert found.free_bytes == free_mib * MIB
    assert found.limit.endswith(limit) if limit else found.limit == ""


@pytest.mark.parametrize(
    ("environment", "free_mib", "limit"),
    [
        ({"SLURM_MEM_PER_NODE": "4"}, 3, "limited by SLURM_MEM_PER_NODE"),
        ({"SLURM_MEM_PER_CPU": "2", "SLURM_CPUS_ON_NODE": "3"}, 5, "limited by SLURM_MEM_PER_CPU"),
        ({"SLURM_MEM_PER_CPU": "2"}, 8, ""),
        ({"SLURM_MEM_PER_NODE": "0"}, 8, ""),  # all of the node's
        ({"SLURM_MEM_PER_NODE": "4G"}, 8, ""),
    ],
)
def test_slurm_limits_the_job(tmp_path: Path, environment: dict[str, str], free_mib: int, limit: str) -> None:
    files = HOST | {"proc/self/status": "Name:\tpython\nVmRSS:\t    1024 kB\n"}
    assert left(tmp_path, files, **environment) == Available(free_mib * MIB, limit)


def test_the_least_limit_counts(tmp_path: Path) -> None:
    files = HOST | V2 | group("job/step", 5 * MIB, MIB)
    found = left(tmp_path, files, SLURM_MEM_PER_NODE="2")
    assert found == Available(2 * MIB, "limited by SLURM_MEM_PER_NODE")
