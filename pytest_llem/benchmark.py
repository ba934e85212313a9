"""Where copies of this project's root ``conftest.py`` look for the hook."""

from pytest_llem.records.rows import pytest_benchmark_group_stats

__all__ = ["pytest_benchmark_group_stats"]
