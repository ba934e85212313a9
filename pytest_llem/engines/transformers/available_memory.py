"""How much memory this process could still get: on a GPU, and on a host that others share with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Of Slurm: the whole job's on this node, in MiB; 0 stands for all of the node's.
_OF_NODE, _OF_CPU, _CPUS = "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"


class Available(NamedTuple):
    """Memory that could still be had.

    Attributes:
        free_bytes: how much.
        limit: what allows no more, where that is not the memory itself.
    """

    free_bytes: int
    limit: str = ""


def available(device: torch.device) -> Available | None:
    """What this process could still get on ``device``; ``None`` where the system does not say."""
    if device.type != "cuda":
        return available_on_host()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    # torch keeps freed memory in reserve.
    unused_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return Available(free_bytes + unused_bytes)


def available_on_host(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Available | None:
    """The least of what the host has free and of what the control groups of this process and Slurm leave to it.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    return min((*_free(root), *_of_groups(root), *_of_slurm(root, environment)), default=None)


def _free(root: Path) -> Iterator[Available]:
    kib = _numbers(root / "proc/meminfo").get("MemAvailable:")
    if kib is not None:
        yield Available(kib * 1024)


def _of_groups(root: Path) -> Iterator[Available]:
    """What the process's control groups leave, of version 2 (in one tree) and 1 (in one of the memory controller's).

    Each group bounds those beneath it. In a container the tree begins somewhere above or at the process's own group.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if not controllers:
            tree, limit, used, prefix = "sys/fs/cgroup", "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            tree, limit, used, prefix = (
                "sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_",
            )
        else:
            continue
        group = Path(name.strip("/"))
        for path in (group, *group.parents):
            folder = root / tree / path
            limit_text, used_text = _text(folder / limit).strip(), _text(folder / used).strip()
            if limit_text.isdigit() and used_text.isdigit():
                # The cache of files, of which the checkpoint may be a large part, makes room.
                cached = _numbers(folder / "memory.stat")
                files_bytes = sum(cached.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
                free_bytes = int(limit_text) - int(used_text) + files_bytes
                yield Available(max(0, free_bytes), f"limited by {folder / limit}")


def _of_slurm(root: Path, environment: Mapping[str, str]) -> Iterator[Available]:
    def number(name: str) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdigit() else 0

    held_bytes = _numbers(root / "proc/self/status").get("VmRSS:", 0) * 1024
    for limit_mib, limit in ((number(_OF_NODE), _OF_NODE), (number(_OF_CPU) * number(_CPUS), _OF_CPU)):
        if limit_mib:
            yield Available(max(0, limit_mib * 2**20 - held_bytes), f"limited by {limit}")


def _numbers(path: Path) -> dict[str, int]:
    """The lines of a file of ``name number``, whatever follows."""
    lines = [line.split() for line in _text(path).splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
