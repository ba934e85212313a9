"""Gates, end to end: what the terminal, the exit status and the saved rows say of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.processes

EXPERIMENT = """\
model: builtin:tiny-llama
dataset: {synthetic: {n: 1, input_len: 8}}
max_output_tokens: TOKENS
measure: {rounds: 3, warmup_rounds: 0, min_window_s: 0.03}
"""


@pytest.fixture
def measure(
    pytester: pytest.Pytester, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.RunResult]:
    """Run the experiment with calls of ``call_s`` of the processor's time, by which its energy is estimated.

    Apart from this process where fresh processes follow: torch may be in use here, whose threads are told of a result.
    """

    def run_experiment(*arguments: str, call_s: float = 0.01, tokens: int = 2, apart: bool = False) -> pytest.RunResult:
        write(base=EXPERIMENT.replace("TOKENS", str(tokens)))
        monkeypatch.setenv("FAKE_CALL_S", str(call_s))
        run = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        return run("--llem-cpu", "--llem-meter=estimate", *arguments)

    return run_experiment


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

    worse = measure(gate, call_s=0.013)
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

    better = measure(gate, call_s=0.007)
    assert verdicts(better)[0].startswith("IMPROVED ")
    assert better.ret == pytest.ExitCode.OK

    other = measure(gate, tokens=3)
    assert verdicts(other)[0].startswith("INCONCLUSIVE ")
    assert "another workload" in verdicts(other)[0]
    assert other.ret == pytest.ExitCode.OK
    assert measure(gate, "--llem-strict", tokens=3).ret == pytest.ExitCode.TESTS_FAILED

    accepted = measure(gate, "--llem-accept", "--benchmark-save=accepted", call_s=0.013)
    assert verdicts(accepted)[0].startswith("OK ")
    assert "accepted" in verdicts(accepted)[0]
    after = measure("--llem-fail=energy:20%;rule=point", call_s=0.013)
    assert verdicts(after)[0].startswith("OK ")
    assert "vs 1 saved" in verdicts(after)[0]


def test_no_saved_run_is_said_and_fails_only_when_strict(measure: Callable[..., pytest.RunResult]) -> None:
    result = measure("--llem-fail=energy:5%", "--llem-fail=latency:5%")
    assert [line.split()[0] for line in verdicts(result)] == ["NO-BASELINE", "NO-BASELINE"]
    assert result.ret == pytest.ExitCode.OK
    assert measure("--llem-fail=energy:5%", "--llem-strict").ret == pytest.ExitCode.TESTS_FAILED


def test_an_open_verdict_is_measured_again_in_fresh_processes_and_saved_so(
    pytester: pytest.Pytester, measure: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    pytester.makeconftest(
        "import os\ndef pytest_runtest_call():\n"
        "    open('processes.txt', 'a').write(f'{os.getpid()} {os.getppid()} {hash(\"a\")}\\n')\n"
    )
    measure("--benchmark-save=base", apart=True).assert_outcomes(passed=1)
    vary_history(pytester.path / ".benchmarks", 6, by=0.2)
    # Tighter than the spread of the saved runs allows: no number of runs can settle it.
    # Quiet, where the line of the tests' progress is not ended when they are over.
    result = measure("--llem-fail=energy:1%..4%", "--benchmark-json=out.json", "-q", apart=True)
    (line,) = verdicts(result)
    assert line.startswith("INCONCLUSIVE ")
    assert "3 runs vs 6 saved" in line
    assert sum(text.startswith("llem: inconclusive: measuring 1 again") for text in result.outlines) == 2
    rows: list[dict[str, Any]] = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert all(len(row["extra_info"]["more_runs"]) == 2 for row in rows)
    # A sample is a process that was started for it: no two are forks of one.
    said = [line.split() for line in (pytester.path / "processes.txt").read_text().splitlines()[-3:]]
    pids, parents, hashes = (set(column) for column in zip(*said, strict=True))
    assert (len(pids), len(hashes)) == (3, 3)
    assert len(parents) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--llem-fail=energy"],
        ["--llem-fail=joules:5%"],
        ["--llem-fail=energy:same"],
        ["--llem-fail=output:5%"],
        ["--llem-fail=energy:5"],
        ["--llem-fail=energy:5%..2%"],
        ["--llem-baseline=last:0"],
        ["--llem-alpha=0.7"],
    ],
)
def test_what_is_malformed_is_a_usage_error(pytester: pytest.Pytester, arguments: list[str]) -> None:
    result = pytester.runpytest_inprocess("--llem-cpu", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_a_baseline_that_is_not_there_is_a_usage_error(
    pytester: pytest.Pytester, measure: Callable[..., pytest.RunResult]
) -> None:
    (pytester.path / "numbers.json").write_text('{"benchmarks": [3]}')
    for which in ("nowhere.json", "0042", "numbers.json"):
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


def test_joules_of_a_board_are_judged(on_boards: Callable[..., pytest.RunResult], write: Callable[..., Path]) -> None:
    write()
    common = ("--llem-cpu", "--llem-min-window=0.1")
    on_boards("[SimulatedBoard(power=50.0, period_s=0.02)]", *common, "--benchmark-save=base").assert_outcomes(passed=1)
    worse = on_boards("[SimulatedBoard(power=500.0, period_s=0.02)]", *common, "--llem-fail=energy:50%;rule=point")
    assert [line.split()[:3] for line in verdicts(worse)] == [["REGRESSED", "tiny", "energy"]]
    assert worse.ret == pytest.ExitCode.TESTS_FAILED


def test_a_new_board_decides_nothing_and_says_how_to(
    on_boards: Callable[..., pytest.RunResult], write: Callable[..., Path]
) -> None:
    write()
    common = ("--llem-cpu", "--llem-min-window=0.1", "--llem-fail=energy:50%;rule=point")

    def board(uuid: str, memory_bytes: int = 80 << 30) -> str:
        return f"[SimulatedBoard(uuid={uuid!r}, power=50.0, period_s=0.02, total_memory_bytes={memory_bytes})]"

    on_boards(board("GPU-a"), *common, "--benchmark-save=base").assert_outcomes(passed=1)
    new = on_boards(board("GPU-b"), *common)
    new.stdout.fnmatch_lines(["llem: 1 of 1 gates have saved runs from other boards of this model alone*"])
    assert "this board has no saved run, and 1 of the same model" in verdicts(new)[0]
    other = on_boards(board("GPU-b", 40 << 30), *common)
    assert "another environment: boards.0.uuid GPU-a then, GPU-b now" in verdicts(other)[0]
    for result in (new, other):
        assert verdicts(result)[0].startswith("INCONCLUSIVE ")
        assert "--llem-against" in verdicts(result)[0]
