from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_llem.records import machine

if TYPE_CHECKING:
    from pathlib import Path


def install(folder: Path, distribution: str, package: str, requires: str = "") -> None:
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    info = folder / f"{distribution.replace(chr(45), chr(95))}-1.5.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n{requires}"
    (info / "METADATA").write_text(metadata)
    (info / "top_level.txt").write_text(package)


def test_packages_of_kernels_are_those_that_transformers_looks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    before = machine.library_versions.__wrapped__()
    for distribution, package in (
        *(("flash_linear_attention", "fla"), ("mamba-ssm", "mamba_ssm"), ("torchao", "torchao"), ("xlstm", "xlstm")),
        *(("optimum-quanto", "optimum"), ("triton", "triton"), ("torchvision", "torchvision"), ("nltk", "nltk")),
    ):
        install(tmp_path, distribution, package)
    monkeypatch.syspath_prepend(tmp_path)
    further = dict.fromkeys(
        ("flash-linear-attention", "mamba-ssm", "optimum-quanto", "torchao", "triton", "xlstm"), "1.5"
    )
    assert machine.library_versions.__wrapped__() == before | further
    # A build for CUDA brings triton, in the one version that it works with.
    install(tmp_path, "torch", "torch", requires="Requires-Dist: triton==1.5; platform_system == 'Linux'\n")
    importlib.invalidate_caches()
    versions = machine.library_versions.__wrapped__()
    assert versions["torch"] == "1.5"
    assert "triton" not in versions


def test_nothing_heavy_is_imported_for_it() -> None:
    code = "import sys; from pytest_llem.records import machine; machine.library_versions(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers"} & set(done.stdout.split())
