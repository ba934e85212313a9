"""Results that other tools get at the end of a session, once, and what is not theirs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]
Run = Callable[..., pytest.RunResult]

# An exporter of another package: a line a result, and what its target asks for.
EXPORTER = """\
import warnings
from pathlib import Path

from pytest_llem import Exported, Exporter
from pytest_llem.errors import UnavailableError


class Lines:
    def __init__(self, target):
        self.target = target

    def check(self):
        warnings.warn("deprecated", DeprecationWarning)
        if self.target == "missing":
            raise UnavailableError("nobody is there")
        if self.target == "broken":
            raise KeyError("no\\nkey")

    def export(self, results):
        if self.target == "fails":
            raise RuntimeError("http://me:secret@host says\\nno")
        if self.target == "interrupted":
            raise KeyboardInterrupt
        with Path(self.target).open("a") as file:
            for result in results:
                words = (result.identity, result.nodeid, result.source.get("commit"), dict(result.verdicts))
                print(*words, sep="|", file=file)
"""


@pytest.fixture(autouse=True)
def _lines(installed: Callable[[str, str, str], Path]) -> None:
    installed("lines_exporter", EXPORTER, "[pytest_llem.exporters]\nlines = lines_exporter:Lines\n")


def exported(path: str = "out.txt") -> list[list[str]]:
    """What the exporter got, in the order in which it did."""
    return [line.split("|") for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("how", ["option", "ini"])
def test_an_exporter_of_another_package_gets_the_results(
    pytester: pytest.Pytester, run: Run, write: Write, how: str
) -> None:
    write(extra="compare: {latency: 5%}\n")
    pytester.makeini("[pytest]\nllem_export = lines:out.txt\n" if how == "ini" else "[pytest]\n")
    result = run(*([] if how == "ini" else ["--llem-export=lines:out.txt"]))
    result.assert_outcomes(passed=1)
    ((identity, nodeid, commit, verdicts),) = exported()
    assert (len(identity), nodeid, verdicts) == (16, "tiny.llem.yaml::tiny", "{'latency': 'NO-BASELINE'}")
    assert commit == "None"
    result.stdout.fnmatch_lines(["NO-BASELINE *", "llem: exported 1 result to lines:out.txt"])


def test_the_commit_is_that_of_the_measurement(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    """A journal may be merged when the code has gone on."""
    write()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    for command in (["init", "-q"], ["add", "tiny.llem.yaml"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    run("--llem-export=lines:out.txt", "--llem-journal=a.jsonl").assert_outcomes(passed=1)
    subprocess.run([*git, "commit", "-qm", "two", "--allow-empty"], check=True)
    pytester.runpytest_inprocess("--llem-merge=a.jsonl", "--llem-export=lines:out.txt", "--benchmark-json=out.json")
    assert [line[2] for line in exported()] == [commit, commit]
    # As saved, where the session's own is the later one.
    saved = json.loads((pytester.path / "out.json").read_text())
    assert {row["extra_info"]["commit_info"]["id"] for row in saved["benchmarks"]} == {commit}
    assert saved["commit_info"]["id"] != commit


def test_whoever_reports_a_result_gives_it_the_same_identity(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    for name in ("a", "b", "c"):
        write(f"{name}.llem.yaml")
    run("a.llem.yaml", "b.llem.yaml", "--llem-journal=a.jsonl", "--llem-export=lines:first.txt")
    run("--llem-journal=a.jsonl", "--llem-resume", "--llem-export=lines:resumed.txt").assert_outcomes(passed=3)
    for _ in range(2):
        pytester.runpytest_inprocess("--llem-merge=a.jsonl", "--llem-export=lines:merged.txt")
    first, resumed, merged = (
        {tuple(line[:2]) for line in exported(f"{name}.txt")} for name in ("first", "resumed", "merged")
    )
    assert len(first) == 2
    assert first < resumed == merged
    assert len(exported("merged.txt")) == 6


def test_a_measurement_anew_is_another_result(run: Run, write: Write) -> None:
    write()
    for _ in range(2):
        run("--llem-export=lines:out.txt")
    first, second = (line[0] for line in exported())
    assert first != second


def test_a_part_exports_nothing_and_the_union_all(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    for name in ("a", "b"):
        write(f"{name}.llem.yaml")
    pytester.makeini("[pytest]\nllem_export = lines:out.txt\n")
    for number in (1, 2):
        result = run(f"--llem-shard={number}/2", f"--llem-journal={number}.jsonl")
        result.stdout.fnmatch_lines(["llem: a part exports nothing: *--llem-merge"])
    assert not Path("out.txt").exists()
    pytester.runpytest_inprocess("--llem-merge", "1.jsonl", "2.jsonl")
    assert {line[1] for line in exported()} == {"a.llem.yaml::a", "b.llem.yaml::b"}


def test_who_measures_nothing_exports_nothing(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write()
    pytester.makeini("[pytest]\nllem_export = lines:out.txt\n")
    pytester.runpytest_inprocess().assert_outcomes(skipped=1)
    pytester.runpytest_inprocess("--llem-export=lines:out.txt").assert_outcomes(skipped=1)
    for option in ("--llem-plan", "--collect-only", "--benchmark-disable"):
        assert run(option).ret == pytest.ExitCode.OK
    assert run("-k", "nothing").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not Path("out.txt").exists()


def test_a_callable_is_exported_without_a_model(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_sum(llem_benchmark): llem_benchmark.pedantic(sum, ([1],), rounds=1, min_window_s=0)")
    pytester.runpytest_inprocess("--llem-export=lines:out.txt", "--llem-export=prometheus:out.prom")
    assert [line[1] for line in exported()] == ["test_a_callable_is_exported_without_a_model.py::test_sum"]


@pytest.mark.processes
def test_experiments_in_children_are_exported_once(run: Run, write: Write) -> None:
    write()
    run("--llem-isolate", "--llem-export=lines:out.txt").assert_outcomes(passed=1)
    assert len(exported()) == 1


@pytest.mark.parametrize(
    ("export", "problem"),
    [
        ("nowhere:x", "--llem-export nowhere: unknown exporter 'nowhere'; use one of prometheus, *, lines"),
        ("line:x", "*; did you mean lines?"),
        ("lines", "--llem-export: 'lines' lacks a target; write NAME:TARGET, *"),
        (":x", "--llem-export: ':x' lacks a target*"),
        ("lines:missing", "--llem-export lines: nobody is there"),
        ("lines:broken", "--llem-export lines: KeyError: 'no\\nkey'"),
        ("prometheus:folder.prom", "--llem-export prometheus: *Is a directory*"),
        ("otlp:http://127.0.0.1:1", "--llem-export otlp: 127.0.0.1:1 cannot be reached: Connection refused"),
        ("parquet:tiny.llem.yaml/a", "--llem-export parquet: *"),
    ],
)
def test_what_cannot_work_is_a_usage_error_before_anything_runs(
    run: Run, write: Write, export: str, problem: str
) -> None:
    write()
    Path("folder.prom").mkdir()
    result = run(f"--llem-export={export}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {problem.replace('[', '[[]')}"])
    result.stdout.no_fnmatch_line("*passed*")


def test_a_library_that_is_missing_is_a_usage_error(run: Run, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write()
    find: Any = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("pytest_llem.exporters.base.find_spec", lambda name: None if name == "wandb" else find(name))
    result = run("--llem-export=wandb:runs")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --llem-export wandb: wandb is not installed: pip install 'pytest-llem[[]wandb]'"]
    )


def test_a_receiver_that_fails_costs_nothing_else(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write(extra="compare: {latency: 5%}\n")
    outputs = ("--benchmark-autosave", "--llem-csv=out.csv", "-W", "error")
    result = run("--llem-export=lines:fails", "--llem-export=lines:out.txt", *outputs)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1)
    lines = [
        "Name (time in *",
        "NO-BASELINE *",
        "llem: lines:fails did not take the results: RuntimeError: http://*host*",
    ]
    result.stdout.fnmatch_lines(lines)
    assert "secret" not in result.stdout.str()
    assert len(exported()) == 1
    assert Path("out.csv").exists()
    assert len(list((pytester.path / ".benchmarks").rglob("0001*.json"))) == 1


def test_who_is_tired_of_a_receiver_loses_the_export_alone(pytester: pytest.Pytester, run: Run, write: Write) -> None:
    write(extra="compare: {latency: 5%}\n")
    result = run("--llem-export=lines:interrupted", "--benchmark-autosave")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["NO-BASELINE *", "llem: interrupted while exporting to lines:interrupted"])
    assert len(list((pytester.path / ".benchmarks").rglob("0001*.json"))) == 1


def test_no_library_of_a_receiver_is_there_while_it_is_measured(pytester: pytest.Pytester, write: Write) -> None:
    """Its threads would be measured, too."""
    write()
    pytester.makeconftest(
        "import sys\n"
        "names = ('prometheus_client', 'opentelemetry', 'pyarrow')\n"
        "def pytest_runtest_teardown(): print('there', [name for name in names if name in sys.modules])\n"
        "def pytest_unconfigure(): print('at the end', [name for name in names if name in sys.modules])\n"
    )
    exports = ("--llem-export=prometheus:out.prom", "--llem-export=parquet:out.parquet")
    pytest.importorskip("prometheus_client")
    pytest.importorskip("pyarrow")
    result = pytester.runpytest_subprocess("--llem-cpu", "-s", *exports)
    result.stdout.fnmatch_lines(["*there []*", "at the end [[]'prometheus_client', 'pyarrow']"])
