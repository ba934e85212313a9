"""Copy this file to a project's root: the ``pytest-benchmark`` command then prints joules as joules."""

from pytest_llem.benchmark import pytest_benchmark_group_stats

__all__ = ["pytest_benchmark_group_stats"]
