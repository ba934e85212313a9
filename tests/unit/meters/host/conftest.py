from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulators.powercap import PowercapTree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def server(tmp_path: Path) -> PowercapTree:
    """A package with its memory."""
    tree = PowercapTree(tmp_path)
    tree.add("intel-rapl:0", "package-0")
    tree.add("intel-rapl:0:0", "dram")
    return tree
