"""Faults of calls, loads and processes: each costs its experiment alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


pytestmark = pytest.mark.processes

CONFTEST = """
import os

import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    with open("pids.txt", "a") as file:
        file.write(f"{item.name} {os.getpid()}\\n")
"""


def entry(name: str, fault: str, more: str = "") -> str:
    """An experiment that meets a fault and shares its load with those that meet none."""
    return f"{{name: {name}, passthrough: {{generate: {{fault: {fault}}}}}{more}}}"


def run_by(pytester: pytest.Pytester) -> dict[str, str]:
    """The process in which each experiment ran."""
    return dict(line.split() for line in (pytester.path / "pids.txt").read_text().splitlines())


def test_each_failure_costs_its_experiment_alone(
    write: Callable[..., Path], run: Callable[..., pytest.RunResult], saved_names: Callable[[], list[str]]
) -> None:
    listed = [entry("raises", "raises-in-call-2"), entry("miscounts", "miscounts")]
    listed += [f"{{name: {name}, model: fake/{name}}}" for name in ("does-not-load", "runs-nowhere")]
    write(extra=f"experiments: [{{name: first}}, {', '.join(listed)}, {{name: last}}]\n")
    result = run("--benchmark-json=out.json", "-rs")
    result.assert_outcomes(passed=2, failed=2, errors=1, skipped=1)
    assert saved_names() == ["first", "last"]
    result.stdout.fnmatch_lines_random(
        [
            "tiny.llem.yaml:8: raises: call 2 failed",
            "tiny.llem.yaml:8: miscounts: wrong token count: *",
            "tiny.llem.yaml:8: model 'fake/does-not-load': could not be loaded",
            "SKIPPED*model 'fake/runs-nowhere': needs what this machine lacks",
        ]
    )


def test_after_the_device_was_lost_the_rest_runs_in_a_fresh_process(
    pytester: pytest.Pytester, write: Callable[..., Path], saved_names: Callable[[], list[str]]
) -> None:
    pytester.makeconftest(CONFTEST)
    lost = entry("loses", "loses-the-device")
    write(extra=f"experiments: [{{name: first}}, {lost}, {{name: third}}, {{name: fourth}}]\n")
    result = pytester.runpytest_subprocess("--llem-cpu", "--benchmark-json=out.json")
    result.assert_outcomes(passed=3, failed=1)
    assert saved_names() == ["first", "third", "fourth"]
    result.stdout.fnmatch_lines(
        ["*DeviceLostError*", "llem: the GPU failed in this process*cannot use it any more*ran in fresh processes"]
    )
    ran = run_by(pytester)
    assert ran["first"] == ran["loses"]
    assert ran["third"] == ran["fourth"] != ran["first"]


def test_in_children_a_lost_device_and_a_killed_process_are_followed_by_another_child(
    pytester: pytest.Pytester, write: Callable[..., Path], saved_names: Callable[[], list[str]]
) -> None:
    pytester.makeconftest(CONFTEST)
    listed = [entry("loses", "loses-the-device"), "{name: third}", entry("killed", "kills-its-process")]
    listed += [entry("hangs", "hangs", ", timeout_s: 3")]
    write(extra=f"experiments: [{{name: first}}, {', '.join(listed)}, {{name: last}}]\n")
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-isolate", "--benchmark-json=out.json")
    result.assert_outcomes(passed=3, failed=3)
    assert saved_names() == ["first", "third", "last"]
    ran = run_by(pytester)
    assert ran["first"] == ran["loses"]
    assert ran["third"] == ran["killed"]
    assert len(set(ran.values())) == 4
    result.stdout.fnmatch_lines(
        [
            "the process of this experiment was ended by SIGKILL, perhaps by the kernel because memory ran out",
            "timeout_s: still running after 3 s, so its process was killed",
        ]
    )
