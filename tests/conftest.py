"""What all tests share."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

# Simulated boards are this run's own: no other run of the tests waits for them.
os.environ["PYTEST_LLEM_LOCK_DIR"] = tempfile.mkdtemp(prefix="pytest-llem-locks-")

# The tiny model's tensors are too small for threads to pay, and threads that wait for one another on a busy machine
# make a test of milliseconds one of seconds. Read by torch when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nor is there a processor that counts its joules but those that tests simulate.
os.environ["PYTEST_LLEM_POWERCAP"] = os.environ["PYTEST_LLEM_LOCK_DIR"]

# Processes that tests start find the packages of this checkout.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])

# What the inner sessions print and choose is asserted, so it must not hang on where the tests run: on a CI server
# pytest stops cutting its summary's lines, colours add codes, a visible-devices setting takes simulated boards away.
for name in (
    # A session that a test starts is no worker of pytest-xdist.
    *("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"),
    *("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"),
    *("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "PYTEST_ADDOPTS"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HF_HUB_OFFLINE", "PYTEST_LLEM_WATTS_PER_CORE"),
):
    os.environ.pop(name, None)

# Processes that tests start would compile this package anew, and pytest rewrite its assertions, a second or two each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_configure(config: pytest.Config) -> None:
    """A warning is an error in the tests; in ``benchmarks/`` a library's new warning must not cost a result."""
    config.addinivalue_line("filterwarnings", "error")
