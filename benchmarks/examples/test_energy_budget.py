"""Tests of one's own beside experiment files: ``pytest benchmarks/examples --llem-cpu``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.meters import Meter
    from pytest_llem.runs import BenchmarkRun


@pytest.mark.llem("../quickstart.llem.yaml")
def test_energy_budget(llem_run: Callable[[], ExperimentResult], llem_experiment: ExperimentConfig) -> None:
    """A budget for each experiment of the file: measured, recorded, asserted."""
    result = llem_run()
    assert llem_experiment.pytorch is not None
    assert llem_experiment.pytorch.batch_size is not None
    assert result.output_tokens == llem_experiment.max_output_tokens * llem_experiment.pytorch.batch_size
    assert result.energy_per_output_token_j is None or result.energy_per_output_token_j < 1.0


def test_sorting(llem_benchmark: BenchmarkRun) -> None:
    """Time and energy of any callable; ``llem_benchmark(sorted, ...)`` alone takes ten rounds of a second."""
    numbers = range(100_000, 0, -1)
    assert llem_benchmark.pedantic(sorted, (numbers,), rounds=5, min_window_s=0.3)[0] == 1


def test_meter(llem_meter: Meter) -> None:
    """The meter alone."""
    with llem_meter.window() as window:
        sum(range(1_000_000))
    assert window.seconds > 0
