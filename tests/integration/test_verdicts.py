"""Gates, end to end on a simulated board in real time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CONFTEST = """
from tests.simulators import SimulatedBoard, install

simulated = install([SimulatedBoard(uuid="GPU-aaaa", power={power}, period_s=0.02)])
"""
EXPERIMENT = """\
model: builtin:tiny-llama
precision: fp32
dataset: {synthetic: {n: 1, input_len: 8}}
max_input_tokens: 8
max_output_tokens: TOKENS
decoder: {preset: deterministic, min_new_tokens: TOKENS}
measure: {rounds: 3, warmup_rounds: 0, min_window_s: 0.25}
"""
# A pass as long on every machine: the energy is then the board's power alone.
STEADY = """
import time

import pytest

@pytest.fixture(autouse=True)
def steady(monkeypatch):
    from pytest_llem.engines.transformers.workload import TransformersWorkload

    run = TransformersWorkload.run

    def padded(self, index):
        until = time.perf_counter() + 0.1
        output = run(self, index)
        while time.perf_counter() < until:
            pass
        return output

    monkeypatch.setattr(TransformersWorkload, "run", padded)
"""


@pytest.fixture
def measure(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run the experiment in a process where the board draws ``power`` watts."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))

    def run(*arguments: str, power: float = 200.0, tokens: int = 2) -> pytest.RunResult:
        (pytester.path / "tiny.llem.yaml").write_text(EXPERIMENT.replace("TOKENS", str(tokens)))
        (pytester.path / "conftest.py").write_text(CONFTEST.format(power=power) + STEADY)
        return pytester.runpytest_subprocess("--llem-cpu", "--llem-meter=nvml", *arguments)

    return run


def verdicts(result: pytest.RunResult) -> list[str]:
    words = ("OK ", "REGRESSED ", "IMPROVED ", "INCONCLUSIVE ", "NO-BASELINE ")
    return [line for line in result.outlines if line.startswith(words)]


def vary_history(storage: Path, runs: int, by: float = 0.005) -> None:
    """Make of one saved run as many as asked for, alternately ``by`` above and below it."""
    (path,) = storage.rglob("*.json")
    for number in range(1, runs + 1):
        data = json.loads(path.read_text())
        factor = 1 + by * (-1) ** number
        for row in data["benchmarks"]:
            for one in row["extra_info"]["result"]["per_round"]:
                one["joules"] *= factor
                one["seconds"] *= factor
        (path.parent / f"{number:04}_base.json").write_text(json.dumps(data))


@pytest.fixture
def six_saved(pytester: pytest.Pytester, measure: Callable[..., pytest.RunResult]) -> None:
    measure("--benchmark-save=base").assert_outcomes(passed=1)
    vary_history(pytester.path / ".benchmarks", 6)


@pytest.mark.usefixtures("six_saved")
def test_a_history_of_six_runs_gates(pytester: pytest.Pytester, measure: Callable[..., pytest.RunResult]) -> None:
    gate = "--llem-fail=energy:10%"
    unchanged = measure(gate, "-qq")
    assert len(verdicts(unchanged)) == 1
    assert verdicts(unchanged)[0].startswith("OK ")
    assert "vs 6 saved" in verdicts(unchanged)[0]
    assert unchanged.ret == pytest.ExitCode.OK

    worse = measure(gate, power=260.0)
    (line,) = verdicts(worse)
    assert line.startswith("REGRESSED ")
    assert "energy" in line
    assert "limit 5%..10%" in line
    assert worse.ret == pytest.ExitCode.TESTS_FAILED
    worse.stdout.fnmatch_lines(["llem: 1 of 1 gates have a baseline*"])
    elsewhere = measure(gate, "--llem-meter=none")
    elsewhere.stdout.fnmatch_lines(["llem: 1 of 1 gates have saved runs from another environment alone*"])
    elsewhere.stdout.no_fnmatch_line("*have a baseline*")
    assert verdicts(elsewhere)[0].startswith("INCONCLUSIVE ")

    better = measure(gate, power=140.0)
    assert verdicts(better)[0].startswith("IMPROVED ")
    assert better.ret == pytest.ExitCode.OK

    other = measure(gate, tokens=3)
    assert verdicts(other)[0].startswith("INCONCLUSIVE ")
    assert "another workload" in verdicts(other)[0]
    assert other.ret == pytest.ExitCode.OK
    assert measure(gate, "--llem-strict", tokens=3).ret == pytest.ExitCode.TESTS_FAILED

    accepted = measure(gate, "--llem-accept", "--benchmark-save=accepted", power=260.0)
    assert verdicts(accepted)[0].startswith("OK ")
    assert "accepted" in verdicts(accepted)[0]
    after = measure("--llem-fail=energy:20%;rule=point", power=260.0)
    assert verdicts(after)[0].startswith("OK ")
    assert "vs 1 saved" in verdicts(after)[0]


def test_no_saved_run_is_said_and_fails_only_when_strict(measure: Callable[..., pytest.RunResult]) -> None:
    result = measure("--llem-fail=energy:5%", "--llem-fail=latency:5%")
    assert [line.split()[0] for line in verdicts(result)] == ["NO-BASELINE", "NO-BASELINE"]
    assert result.ret == pytest.ExitCode.OK
    assert measure("--llem-fail=energy:5%", "--llem-strict").ret == pytest.ExitCode.TESTS_FAILED


def test_an_open_verdict_is_measured_again_in_fresh_processes_and_saved_so(
    pytester: pytest.Pytester, measure: Callable[..., pytest.RunResult]
) -> None:
    measure("--benchmark-save=base").assert_outcomes(passed=1)
    vary_history(pytester.path / ".benchmarks", 6, by=0.2)
    # Tighter than the spread of the saved runs allows: no number of runs can settle it.
    # Quiet, where the line of the tests' progress is not ended when they are over.
    result = measure("--llem-fail=energy:1%..4%", "--benchmark-json=out.json", "-q")
    (line,) = verdicts(result)
    assert line.startswith("INCONCLUSIVE ")
    assert "3 runs vs 6 saved" in line
    assert sum(text.startswith("llem: inconclusive: measuring 1 again") for text in result.outlines) == 2
    rows: list[dict[str, Any]] = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert all(len(row["extra_info"]["more_runs"]) == 2 for row in rows)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--llem-fail=energy"],
        ["--llem-fail=joules:5%"],
        ["--llem-fail=energy:5"],
        ["--llem-fail=energy:5%..2%"],
        ["--llem-baseline=last:0"],
        ["--llem-alpha=0.7"],
    ],
)
def test_what_is_malformed_is_a_usage_error(pytester: pytest.Pytester, arguments: list[str]) -> None:
    result = pytester.runpytest_inprocess("--llem-cpu", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_a_baseline_that_is_not_there_is_a_usage_error(measure: Callable[..., pytest.RunResult]) -> None:
    for which in ("nowhere.json", "0042"):
        result = measure("--llem-fail=energy:5%", f"--llem-baseline={which}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*--llem-baseline: *{which}*"])


def test_a_report_holds_the_history_without_this_session(
    pytester: pytest.Pytester, measure: Callable[..., pytest.RunResult]
) -> None:
    for _ in range(2):
        measure("--benchmark-autosave").assert_outcomes(passed=1)
    result = measure("--benchmark-autosave", "--llem-report=out/report.html", "--llem-csv=out/results.csv")
    result.stdout.fnmatch_lines(["llem: wrote out/results.csv", "llem: wrote out/report.html"])
    page = (pytester.path / "out" / "report.html").read_text()
    assert "3 runs, oldest first." in page  # two saved ones and this
    assert (pytester.path / "out" / "results.csv").read_text().count("tiny.llem.yaml::tiny") == 1
