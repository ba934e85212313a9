"""What all tests share."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

# Simulated boards are this run's own: no other run of the tests waits for them.
os.environ["PYTEST_LLEM_LOCK_DIR"] = tempfile.mkdtemp(prefix="pytest-llem-locks-")

# The tiny model's tensors are too small for threads to pay, and threads that wait for one another on a busy machine
# make a test of milliseconds one of seconds. Read by torch when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """A warning is an error in the tests; in ``benchmarks/`` a library's new warning must not cost a result."""
    config.addinivalue_line("filterwarnings", "error")
