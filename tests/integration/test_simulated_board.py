"""Experiments whose joules come from a simulated board, in real time: everything above NVML is the real thing."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

BOARD = "SimulatedBoard(uuid='GPU-aaaa', name='Simulated', power=200.0, period_s=0.02)"


@pytest.fixture
def on_boards(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run pytest in a process where NVML shows these boards."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))

    def run_pytest(boards: str, *arguments: str) -> pytest.RunResult:
        pytester.makeconftest(
            textwrap.dedent(
                f"""
                from tests.simulators import LoadedPower, SimulatedBoard, SimulatedProcess, install

                simulated = install({boards})
                """
            )
        )
        return pytester.runpytest_subprocess("--llem-meter=nvml", "--benchmark-json=out.json", *arguments)

    return run_pytest


def rows(pytester: pytest.Pytester) -> dict[str, Any]:
    saved = json.loads((pytester.path / "out.json").read_text())
    return {row["extra_info"]["metric"]: row for row in saved["benchmarks"]}


def test_joules_are_those_of_the_board(
    pytester: pytest.Pytester, on_boards: Callable[..., pytest.RunResult], write: Callable[..., Path]
) -> None:
    write()
    on_boards(f"[{BOARD}]", "--llem-cpu", "--llem-min-window=0.3").assert_outcomes(passed=1)
    saved = rows(pytester)
    assert saved["energy"]["group"] == "energy"
    result = saved["energy"]["extra_info"]["result"]
    assert result["meter"] == "nvml"
    assert result["estimated"] is False
    assert result["mean_power_w"] == pytest.approx(200.0, rel=0.1)
    assert abs(result["energy_j"] - 200.0 * result["latency_s"]) <= result["energy_uncertainty_j"] * 1.5
    assert result["boards"] == {"GPU-aaaa": pytest.approx(result["energy_j"])}
    assert result["per_round"][0]["power_limit_w"] == {"GPU-aaaa": 700.0}
    assert result["per_round"][0]["sm_clock_hz"] == {"GPU-aaaa": 1.98e9}
    curve = result["per_round"][0]["power_curves"]["GPU-aaaa"]
    assert curve["partial"] is False
    assert curve["times_s"][0] < 0 < result["per_round"][0]["seconds"] < curve["times_s"][-1] + 0.1
    assert set(curve["powers_w"]) == {200.0}
    info = json.loads((pytester.path / "out.json").read_text())["machine_info"]["llem"]
    assert info["gpus"][0]["uuid"] == "GPU-aaaa"
    assert info["gpus"][0]["driver"]


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
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa")
    on_boards(boards, "--llem-cpu", "--llem-min-window=0.2").assert_outcomes(passed=1)
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
