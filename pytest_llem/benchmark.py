"""pytest-benchmark's commands with units: the hook for a root ``conftest.py``, and ``llem-compare``."""

from pytest_llem.commands.compare import compare
from pytest_llem.records.rows import pytest_benchmark_group_stats

__all__ = ["compare", "pytest_benchmark_group_stats"]
