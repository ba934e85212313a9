"""A gate without a verdict, and an output that is not written, are never green."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]
Run = Callable[..., pytest.RunResult]
Saved = Callable[[], list[dict[str, Any]]]

GATED = "compare: {energy: 5%}\n"


def verdicts(result: pytest.RunResult) -> list[str]:
    words = ("OK ", "REGRESSED ", "IMPROVED ", "INCONCLUSIVE ", "NO-BASELINE ")
    return [line for line in result.outlines if line.startswith(words)]


@pytest.mark.parametrize(
    ("experiment", "options", "why"),
    [
        (GATED, [], "not run: pass --llem-gpu"),
        (GATED + "device: cuda\n", ["--llem-cpu"], "device: cuda, and this session runs on the CPU"),
        ("", ["--llem-fail=energy:5%"], "not run: pass --llem-gpu"),
        (GATED, ["--llem-cpu", "--benchmark-disable"], "it measured nothing"),
        (GATED, ["--llem-cpu", "--llem-meter=none"], "no energy meter is in use"),
    ],
)
def test_each_gate_has_a_verdict_line_which_fails_when_strict(
    pytester: pytest.Pytester, write: Write, experiment: str, options: list[str], why: str
) -> None:
    write(extra=experiment)
    result = pytester.runpytest_inprocess("-q", "--llem-strict", *options)
    (line,) = verdicts(result)
    assert line.startswith("INCONCLUSIVE  tiny  energy  ")
    assert why in line
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_without_strict_what_is_skipped_is_inconclusive_and_green(
    pytester: pytest.Pytester, run: Run, write: Write
) -> None:
    write(extra=GATED + "device: cuda\n")
    result = run("--llem-report=report.html")
    assert result.ret == pytest.ExitCode.OK
    assert len(verdicts(result)) == 1
    # A report of an earlier session would be taken for this one's.
    assert "session runs on the CPU" in (pytester.path / "report.html").read_text()
    # Validation gates nothing, unless it is told to.
    validated = pytester.runpytest_inprocess()
    assert (validated.ret, verdicts(validated)) == (pytest.ExitCode.OK, [])
    asked = pytester.runpytest_inprocess("--llem-fail=latency:5%", "--llem-csv=table.csv")
    assert [line.split()[:3] for line in verdicts(asked)] == [
        ["INCONCLUSIVE", "tiny", "energy"],
        ["INCONCLUSIVE", "tiny", "latency"],
    ]
    asked.stdout.fnmatch_lines(["llem: wrote table.csv"])


def test_a_failed_experiment_has_its_line_beside_the_others(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write("a.llem.yaml", GATED)
    write("b.llem.yaml", GATED)
    pytester.makeconftest("def pytest_runtest_call(item): assert item.name != 'b'")
    lines = verdicts(run("--llem-meter=estimate"))
    assert [line.split()[:2] for line in lines] == [["NO-BASELINE", "a"], ["INCONCLUSIVE", "b"]]
    assert lines[1].endswith("(it failed)")


@pytest.mark.parametrize("device", [[], ["--llem-cpu"]])
@pytest.mark.parametrize("test", ["pass", "request.getfixturevalue('llem_benchmark').pedantic(sum, ([1],), rounds=1)"])
def test_a_gate_that_nothing_has_fails_the_session(pytester: pytest.Pytester, device: list[str], test: str) -> None:
    pytester.makepyfile(f"def test_plain(request): {test}")
    result = pytester.runpytest_inprocess("--llem-fail=latency:5%", "--llem-min-window=0", *device)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["llem: --llem-fail: nothing has this gate: there is no verdict"])
    assert pytester.runpytest_inprocess("--llem-min-window=0", *device).ret == pytest.ExitCode.OK


@pytest.fixture
def _xdist(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-xdist in the inner session, which does without it elsewhere."""
    pytest.importorskip("xdist")
    monkeypatch.setenv("PYTEST_ADDOPTS", os.environ["PYTEST_ADDOPTS"].replace("-p no:xdist", ""))


@pytest.mark.parametrize(
    "options",
    [
        ["--llem-cpu", "-n1"],
        ["--llem-cpu", "-n1", "--llem-isolate"],
        ["--llem-cpu", "-n1", "--llem-fail=latency:5%", "--llem-strict"],
        ["--llem-plan", "-n1"],
        ["--llem-strict", "-n1"],
        ["--llem-fail=energy:5%", "-n1"],
        ["--llem-report=a.html", "-n1"],
        ["--llem-merge=x.jsonl", "-n1"],
    ],
)
@pytest.mark.usefixtures("_xdist")
def test_under_xdist_nothing_is_measured_judged_or_planned(
    pytester: pytest.Pytester, write: Write, options: list[str]
) -> None:
    write(extra=GATED)
    result = pytester.runpytest_inprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "-n 0" in result.stderr.str()


@pytest.mark.processes
@pytest.mark.usefixtures("_xdist")
def test_validation_may_be_distributed_and_n_0_measures(pytester: pytest.Pytester, write: Write) -> None:
    write()
    pytester.makeini("[pytest]\naddopts = -n1\nllem_strict = true\nllem_report = a.html\n")
    pytester.runpytest_subprocess("--llem-gpu", "--collect-only").stdout.fnmatch_lines(["*1 test collected*"])
    pytester.runpytest_subprocess().assert_outcomes(skipped=1)
    # The children of an isolating session take no processes of their own.
    result = pytester.runpytest_subprocess("--llem-cpu", "-n0", "--llem-isolate", "--llem-meter=none")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("option", ["--llem-report", "--llem-csv", "--llem-journal", "--benchmark-json"])
def test_what_cannot_be_written_is_a_usage_error_before_anything_runs(
    pytester: pytest.Pytester, write: Write, option: str
) -> None:
    write()
    Path("folder").mkdir()
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-meter=none", f"{option}=folder")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{option}: " in result.stderr.str()
    result.stdout.no_fnmatch_line("*passed*")


def test_a_store_that_cannot_be_written_is_a_usage_error_before_anything_runs(
    pytester: pytest.Pytester, write: Write
) -> None:
    write()
    Path("file").touch()
    storage = ("--benchmark-autosave", "--benchmark-storage=file://file/store")
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-meter=none", *storage)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--benchmark-storage: " in result.stderr.str()


CLOSED_AT_THE_END = """
import os
import pathlib

def pytest_runtest_teardown():
    for name in ("a.csv", "a.html", "a.json"):
        pathlib.Path(name).unlink(missing_ok=True)
        os.symlink("/dev/full", name)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")  # noqa: PTH110
@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("--llem-csv=a.csv", "llem: a.csv was not written"),
        ("--llem-report=a.html", "llem: a.html was not written"),
        ("--benchmark-json=a.json", "llem: pytest-benchmark could not save the results: OSError"),
    ],
)
def test_a_disk_that_is_full_at_the_end_costs_what_is_written_there_and_no_line_of_the_screen(
    pytester: pytest.Pytester, run: Run, write: Write, output: str, said: str
) -> None:
    write(extra="compare: {latency: 5%}\n")
    pytester.makeconftest(CLOSED_AT_THE_END)
    result = run("--llem-meter=none", output, "--benchmark-autosave")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1)
    lines = ["Name (time in *", "tiny  *", "NO-BASELINE  tiny  latency *", f"{said}: *No space left on device*"]
    result.stdout.fnmatch_lines(lines)
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.no_fnmatch_line("*Traceback*")
    # The store is another output.
    assert len(list((pytester.path / ".benchmarks").rglob("*.json"))) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")  # noqa: PTH110
def test_a_journal_that_is_named_and_not_written_fails_the_session(run: Run, write: Write) -> None:
    write()
    result = run("--llem-meter=none", "--llem-journal=/dev/full")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["llem: no journal: *No space left on device*"])


def test_a_usage_error_leaves_the_reports_of_the_session_before(
    pytester: pytest.Pytester, run: Run, write: Write
) -> None:
    write()
    reports = ("--llem-meter=none", "--llem-report=a.html", "--llem-csv=a.csv")
    assert run(*reports).ret == pytest.ExitCode.OK
    before = [(pytester.path / name).read_bytes() for name in ("a.html", "a.csv")]
    result = run(*reports, "--llem-baseline=nowhere.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [(pytester.path / name).read_bytes() for name in ("a.html", "a.csv")] == before


def test_where_callables_are_measured_alone_outputs_are_checked_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_sum(llem_benchmark): llem_benchmark.pedantic(sum, ([1],), rounds=1, min_window_s=0)")
    (pytester.path / "folder").mkdir()
    result = pytester.runpytest_subprocess("--benchmark-json=folder")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize("options", [["--llem-fail=energy:5%"], ["--llem-cpu"], ["--llem-merge=x.jsonl"]])
def test_without_pytest_benchmark_judging_is_a_usage_error(pytester: pytest.Pytester, options: list[str]) -> None:
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest_inprocess("-p", "no:benchmark", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "remove -p no:benchmark" in result.stderr.str()


def test_a_moved_file_is_judged_against_its_saved_runs_until_its_change_is_accepted(
    pytester: pytest.Pytester, run: Run, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--llem-meter=none", "--llem-fail=latency:200%;rule=point", "--benchmark-autosave")
    monkeypatch.setenv("FAKE_CALL_S", "0.005")
    write("old/a.llem.yaml")
    for _ in range(3):
        run(*options)
    (pytester.path / "new").mkdir()
    (pytester.path / "old" / "a.llem.yaml").rename(pytester.path / "new" / "a.llem.yaml")
    monkeypatch.setenv("FAKE_CALL_S", "0.05")
    for _ in range(3):
        # Its own rows are the newest, and have regressed: they are no baseline.
        result = run(*options)
        (line,) = verdicts(result)
        assert line.startswith("REGRESSED ")
        assert "vs 3 saved" in line
        assert "saved as old/a.llem.yaml::a" in line
        assert result.ret == pytest.ExitCode.TESTS_FAILED
