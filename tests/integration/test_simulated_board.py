"""Experiments whose joules come from a simulated board, with real work: everything above NVML is the real thing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import TINY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.processes

UNMEASURED = "".join(line for line in TINY.splitlines(keepends=True) if not line.startswith("measure:"))
BOARD = "SimulatedBoard(uuid='GPU-aaaa', name='Simulated', power=200.0, period_s=0.02)"


def rows(pytester: pytest.Pytester) -> dict[str, Any]:
    saved = json.loads((pytester.path / "out.json").read_text())
    return {row["extra_info"]["metric"]: row for row in saved["benchmarks"]}


def test_a_counter_that_stands_still_is_null_with_a_reason_and_no_row(
    pytester: pytest.Pytester, on_boards: Callable[..., pytest.RunResult], write: Callable[..., Path]
) -> None:
    write()
    result = on_boards("[SimulatedBoard(power=0.0)]", "--llem-cpu")
    result.assert_outcomes(passed=1)
    saved = rows(pytester)
    assert list(saved) == ["latency"]
    measured = saved["latency"]["extra_info"]["result"]
    assert measured["energy_j"] is None
    assert measured["mean_power_w"] is None
    assert any("resolution" in warning for warning in measured["warnings"])
    result.stdout.fnmatch_lines(["tiny: *energy_j: not measured*resolution*"])


def test_a_board_that_is_busy_before_the_start_makes_the_result_invalid(
    pytester: pytest.Pytester, on_boards: Callable[..., pytest.RunResult], write: Callable[..., Path]
) -> None:
    write()
    busy = "[SimulatedBoard(power=200.0, period_s=0.02, utilization_percent=lambda _: 60)]"
    on_boards(busy, "--llem-cpu", "--llem-min-window=0.1").assert_outcomes(passed=1)
    measured = rows(pytester)["latency"]["extra_info"]["result"]
    assert not measured["valid"]
    assert measured["idle_power_w"] is None
    assert any("60%" in warning for warning in measured["warnings"])


def test_windows_that_precision_would_join_are_settled_with_a_warning_where_they_cannot(
    pytester: pytest.Pytester, on_boards: Callable[..., pytest.RunResult], write: Callable[..., Path]
) -> None:
    write(extra="measure: {rounds: auto, precision: 0.5%, budget_s: 0.5, min_window_s: 0.2}\n", base=UNMEASURED)
    result = on_boards("[SimulatedBoard(errors={'nvmlDeviceGetSamples': 3})]", "--llem-cpu")
    result.assert_outcomes(passed=1)
    measured = rows(pytester)["latency"]["extra_info"]["result"]
    assert measured["boundaries"] == "settled"
    assert any("windows are settled" in text and "no power samples" in text for text in measured["warnings"])


def test_several_boards_are_a_usage_error_on_the_cpu(
    pytester: pytest.Pytester,
    on_boards: Callable[..., pytest.RunResult],
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write()
    boards = f"[{BOARD}, SimulatedBoard(uuid='GPU-bbbb')]"
    result = on_boards(boards, "--llem-cpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *GPU-aaaa*GPU-bbbb*"])
    # Two processes would read both, but none is among what is selected.
    write(extra="sweep: {parallel.tensor: [1, 2]}\n")
    assert on_boards(boards, "--llem-cpu", "-k", "tensor:1").ret == pytest.ExitCode.USAGE_ERROR
    write()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa")
    on_boards(boards, "--llem-cpu", "--llem-min-window=0.1").assert_outcomes(passed=1)
    assert rows(pytester)["energy"]["extra_info"]["result"]["boards"].keys() == {"GPU-aaaa"}


def test_mig_is_refused_with_the_reason(on_boards: Callable[..., pytest.RunResult], write: Callable[..., Path]) -> None:
    write()
    result = on_boards("[SimulatedBoard(mig_mode=1, mig_uuids=['MIG-1'])]", "--llem-cpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *MIG*"])


def test_a_lost_board_fails_the_experiment_with_one_line_and_saves_nothing(
    pytester: pytest.Pytester, on_boards: Callable[..., pytest.RunResult], write: Callable[..., Path]
) -> None:
    write()
    result = on_boards(
        "[SimulatedBoard(uuid='GPU-aaaa', lost_at_s=__import__('time').perf_counter() + 6)]",
        "--llem-cpu",
        "--llem-min-window=8",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["tiny.llem.yaml:1: tiny: *GPU-aaaa*stopped answering*"])
    assert not (pytester.path / "out.json").exists() or rows(pytester) == {}


def test_the_report_shows_the_power_that_the_board_sampled_and_where_the_joules_went(
    pytester: pytest.Pytester,
    on_boards: Callable[..., pytest.RunResult],
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_CALL_S", "0.1")
    write(extra="measure: {rounds: 3, warmup_rounds: 1, min_window_s: 0.3, phases: true}\n", base=UNMEASURED)
    on_boards(f"[{BOARD}]", "--llem-cpu", "--llem-report=report.html").assert_outcomes(passed=1)
    measured = rows(pytester)["latency"]["extra_info"]["result"]
    assert all(len(window["calls_s"]) == measured["calls_per_round"] for window in measured["per_round"])
    text = (pytester.path / "report.html").read_text()
    figure = text[text.index("<strong>Power in the windows") :].partition("</figure>")[0]
    assert figure.count('<g class="curve board-0">') == 3 + 1  # and in the legend
    assert "idle power" in figure
    assert "Where the joules went" in text
