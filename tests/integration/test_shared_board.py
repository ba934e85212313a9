"""Two sessions on one simulated board."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.processes

CONFTEST = """
import json, os, time

import pytest
from tests.simulators import SimulatedBoard, install, skip_waits

skip_waits()
simulated = install([SimulatedBoard(uuid="GPU-aaaa", power=200.0, period_s=0.02)])

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    while not os.path.exists(os.environ.get("BEGIN_AFTER", ".")):
        time.sleep(0.02)
    begin_s = time.time()
    yield
    with open(f"{os.getpid()}.times", "w") as file:
        json.dump([begin_s, time.time()], file)
    return True
"""
OPTIONS = ("--llem-cpu", "--llem-meter=nvml", "--llem-min-window=0.1")


@pytest.fixture
def locks(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for locks of this test alone, and a board that two sessions share."""
    monkeypatch.setenv("PYTEST_LLEM_LOCK_DIR", str(pytester.path / "locks"))
    monkeypatch.setenv("PYTEST_LLEM_LOCK_TOKENS", "")
    pytester.makeconftest(CONFTEST)
    return pytester.path / "locks"


def start(pytester: pytest.Pytester, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *OPTIONS, *arguments],
        cwd=pytester.path,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows(path: Path) -> dict[str, Any]:
    return {row["extra_info"]["metric"]: row for row in json.loads(path.read_text())["benchmarks"]}


def test_the_second_session_waits_and_says_for_whom(
    pytester: pytest.Pytester, locks: Path, write: Callable[..., Path]
) -> None:
    write()
    with start(pytester, "--benchmark-json=first.json", BEGIN_AFTER="waiting") as first:
        while not (locks / "GPU-aaaa.owner").exists():
            assert first.poll() is None
            time.sleep(0.05)
        with start(pytester, "--benchmark-json=second.json", "-qq") as second:
            assert second.stdout is not None
            output = iter(second.stdout.readline, "")
            assert f"waiting for GPU GPU-aaaa: in use by PID {first.pid}\n" in output
            (pytester.path / "waiting").touch()
            second.communicate(timeout=120)
        first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0)
    # Neither measured while the other did.
    times = [json.loads((pytester.path / f"{one.pid}.times").read_text()) for one in (first, second)]
    assert times[0][1] <= times[1][0]
    for name in ("first.json", "second.json"):
        result = rows(pytester.path / name)["energy"]["extra_info"]["result"]
        assert result["mean_power_w"] == pytest.approx(200.0, rel=0.1)


def test_waiting_has_a_limit_that_ends_the_session_before_it_measures(
    pytester: pytest.Pytester, locks: Path, write: Callable[..., Path]
) -> None:
    write()
    held = "l = BoardLocks(['GPU-aaaa']); print('held', flush=True); input()"
    code = f"from pytest_llem.meters.nvidia.lock import BoardLocks\n{held}"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        result = pytester.runpytest_subprocess(*OPTIONS, "--llem-lock-timeout=0.5")
        planned = pytester.runpytest_subprocess(*OPTIONS, "--llem-plan")
        holder.communicate("\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *GPU GPU-aaaa is still in use by PID {holder.pid} after 0.5 s*"])
    assert planned.ret == 0
    assert not re.search("waiting for GPU", planned.stdout.str())


def test_a_lock_timeout_that_is_no_time_is_a_usage_error(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    result = run("--llem-lock-timeout=-1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --llem-lock-timeout: '-1' is out of range*"])
