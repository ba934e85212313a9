"""What is left of an engine's folder when its process is killed, with real processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from pytest_llem.engines.folder import EngineFolder

if TYPE_CHECKING:
    from pathlib import Path

HOLDS = """
import sys
from pytest_llem.engines.folder import EngineFolder

folder = EngineFolder()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_what_a_killed_process_left_is_removed_by_the_next_engine_alone(tmp_path: Path) -> None:
    own = EngineFolder()
    other = tmp_path / "pytest-llem-engine-not-begun"
    other.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        held = process.stdout.readline().strip()
        EngineFolder().remove()
        in_use = {str(path) for path in tmp_path.iterdir()}
        process.kill()
    EngineFolder().remove()
    assert in_use == {str(own.path), str(other), held}
    assert set(tmp_path.iterdir()) == {own.path, other}
    own.remove()
    own.remove()
    assert list(tmp_path.iterdir()) == [other]


def test_a_link_leads_nowhere(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "log").touch()
    (tmp_path / "pytest-llem-engine-x").symlink_to(target)
    EngineFolder().remove()
    assert (target / "log").exists()
