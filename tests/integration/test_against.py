"""``--llem-against``: two states of the code, measured in pairs of processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import TINY

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.processes

# The package of the project, whose revisions differ, decides what a call costs. Boards and meters live in the time that
# the processor worked, so that a busy machine changes nothing.
CONFTEST = """
import os
import work
from tests.simulators import SimulatedBoard, install, skip_waits

os.environ["FAKE_CALL_S"] = repr(work.CALL_S)
skip_waits(of_processor=True)
install([SimulatedBoard(uuid="GPU-aaaa", name="Simulated", power=200.0, period_s=0.02)])
"""
EXPERIMENT = TINY.replace("measure: {rounds: 2, warmup_rounds: 0, min_window_s: 0.001}", "measure: {rounds: 4, warmup_rounds: 0, min_window_s: 0.1}")
ON_BOARD = ("--llem-cpu", "--llem-meter=nvml", "-p", "no:cacheprovider")
VERDICT = re.compile(r"^(OK|REGRESSED|IMPROVED|INCONCLUSIVE|NO-BASELINE) +(\S+) +(\S+) ", re.MULTILINE)


@pytest.fixture
def git(pytester: pytest.Pytester) -> Callable[..., str]:
    """Run git in the project's repository."""
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")

    def run_git(*arguments: str) -> str:
        done = subprocess.run(["git", *identity, *arguments], cwd=pytester.path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    return run_git


@pytest.fixture
def commit(pytester: pytest.Pytester, git: Callable[..., str]) -> Callable[..., str]:
    """Write files of the project and commit them; returns the commit."""

    def write(message: str, **files: str) -> str:
        for name, text in files.items():
            path = pytester.path / name.replace("__", "/").replace("_py", ".py").replace("_yaml", ".llem.yaml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git("add", "--all")
        git("commit", "--quiet", "--message", message, "--allow-empty")
        return git("rev-parse", "HEAD")

    return write


@pytest.fixture
def project(pytester: pytest.Pytester, git: Callable[..., str], commit: Callable[..., str]) -> str:
    """A repository with a package and an experiment; returns its first commit."""
    git("init", "--quiet", "--initial-branch=main")
    (pytester.path / ".gitignore").write_text("cache/\n.benchmarks/\n__pycache__/\n*.json\n*.jsonl*\n*.html\npids\n")
    return commit("First", work_py="CALL_S = 0.002\n", conftest_py=CONFTEST, tiny_yaml=EXPERIMENT)


def worktrees(git: Callable[..., str]) -> int:
    return git("worktree", "list", "--porcelain").count("worktree ")


def verdicts(result: pytest.RunResult) -> dict[tuple[str, str], str]:
    return {(name, metric): status for status, name, metric in VERDICT.findall(result.stdout.str())}


def test_a_commit_that_adds_work_is_regressed(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str], git: Callable[..., str]
) -> None:
    commit("More work", work_py="CALL_S = 0.0022\n")
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD~1", "--benchmark-json=out.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1)
    assert verdicts(result) == {("tiny", "energy"): "REGRESSED", ("tiny", "latency"): "REGRESSED"}
    result.stdout.fnmatch_lines(["llem: HEAD~1: commit * (First)*", "REGRESSED*tiny*energy*3 pairs vs HEAD~1*"])
    rows = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    # Nothing of the other side is a row.
    assert [row["extra_info"]["metric"] for row in rows] == ["latency", "energy"]
    assert all(0.0021 < value for row in rows if row["extra_info"]["metric"] == "latency" for value in row["stats"]["data"])
    assert worktrees(git) == 1


def test_a_commit_whose_message_alone_differs_is_ok_and_said_to_be_equal(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str]
) -> None:
    commit("Another message")
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD~1", "--llem-fail=energy:5%")
    assert result.ret == pytest.ExitCode.OK
    assert verdicts(result) == {("tiny", "energy"): "OK"}
    result.stdout.fnmatch_lines(["llem: --llem-against HEAD~1: both sides are equal: *"])
