"""The script that measures a board, on a simulated one as far as that goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = """
from tests.simulators import SimulatedBoard, install

installed = install([SimulatedBoard(name="NVIDIA H200 (simulated)", period_s=0.02)])
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("folder", ["", "out"])
def test_results_go_to_a_folder_of_the_boards_name(folder: str, tmp_path: Path) -> None:
    script = tmp_path / "benchmarks" / "gpu" / "run_all.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "gpu" / "run_all.sh", script)
    for name in ("pytest_llem", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": f"{site}:{tmp_path}"}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    command = ["bash", str(script), folder, "doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / (folder or "benchmarks/results/NVIDIA-H200-simulated")
    assert "torch" in (out / "versions.txt").read_text()
    assert "NVIDIA H200 (simulated)" in done.stdout + "".join(path.read_text() for path in out.iterdir())
