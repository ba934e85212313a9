"""What the tests of meters share: a machine of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.meters.nvidia import processes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All boards visible, no calibration known, and a process table without anyone, outside containers."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "proc"
    (root / "self/ns").mkdir(parents=True)
    (root / "self/ns/pid").symlink_to("pid:[4026531836]")
    monkeypatch.setattr(processes, "PROC", root)
    return root
