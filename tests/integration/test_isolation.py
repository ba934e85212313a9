"""``--llem-isolate``: each model's experiments in a child process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.processes

# Each experiment does what its name says.
CONFTEST = """
import ctypes, os, sys, time

import pytest

def pytest_addoption(parser):
    parser.addoption("--own-option", default="unset")

@pytest.fixture(autouse=True)
def trouble(request):
    def act():
        name = request.node.name
        if name == "crashes":
            ctypes.string_at(0)
        if name == "exits":
            os._exit(3)
        if name == "hangs":
            time.sleep(1000)
    with open("pids.txt", "a") as file:
        file.write(f"{request.node.name} {os.getpid()}\\n")
    return act

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    item.funcargs.get("trouble", lambda: None)()

def pytest_sessionfinish(session):
    if session.config.getoption("llem_child") is None:
        assert "torch" not in sys.modules
        print("the parent is", os.getpid())
"""


def pids(pytester: pytest.Pytester) -> dict[str, int]:
    lines = (pytester.path / "pids.txt").read_text().splitlines()
    return {name: int(pid) for name, pid in (line.split() for line in lines)}


def process_state(pid: int) -> str | None:
    """The kernel's letter; ``None`` for a process that has ended, collected by whoever adopted it or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
    return None if state == "Z" else state


def test_a_crash_an_exit_and_a_hang_cost_one_experiment_each(
    pytester: pytest.Pytester,
    write: Callable[..., Path],
    saved: Callable[[], list[dict[str, Any]]],
    saved_names: Callable[[], list[str]],
) -> None:
    pytester.makeconftest(CONFTEST)
    listed = ", ".join(
        f"{{name: {name}{extra}}}"
        for name, extra in [("first", ""), ("crashes", ""), ("exits", ""), ("hangs", ", timeout_s: 4"), ("last", "")]
    )
    write(extra=f"compare: {{latency: 5%}}\nexperiments: [{listed}]\n")
    result = pytester.runpytest_subprocess(
        "--llem-cpu", "--llem-isolate", "--benchmark-json=out.json", "--junitxml=junit.xml", "--llem-report=r.html"
    )
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*_ crashes _*",
            "the process of this experiment was ended by SIGSEGV",
            "*Output of the process*",
            "*Fatal Python error: Segmentation fault*",
            "*_ exits _*",
            "the process of this experiment ended with exit status 3",
            "*_ hangs _*",
            "timeout_s: still running after 4 s, so its process was killed",
            "*conftest.py*line * in act",
            # Published as if the parent had run them: tables, the summary, verdicts.
            "*benchmark 'latency': 2 tests*",
            # What the children spent is this session's.
            "llem: * s of * s (*%) were measured*",
            "NO-BASELINE   first    latency  *",
            "NO-BASELINE   last     latency  *",
            *(f"INCONCLUSIVE  {name}*(it failed)" for name in ("crashes", "exits", "hangs")),
        ]
    )
    assert saved_names() == ["first", "last"]
    row = saved()[0]
    assert row["extra_info"]["result"]["load_s"] > 0
    assert row["stats"]["rounds"] == 2
    assert len(row["stats"]["data"]) == 2
    journal = next((pytester.path / ".benchmarks").glob("llem-journal.jsonl")).read_text().splitlines()
    assert [json.loads(line)["name"] for line in journal] == ["first", "last"]
    assert 'name="llem.latency_s"' in (pytester.path / "junit.xml").read_text()
    assert (pytester.path / "r.html").exists()
    run_by = pids(pytester)
    assert run_by["first"] == run_by["crashes"]
    assert len(set(run_by.values())) == 4
    assert {process_state(pid) for pid in run_by.values()} == {None}


def test_ctrl_c_ends_the_child_and_keeps_what_is_finished(
    pytester: pytest.Pytester, write: Callable[..., Path], saved_names: Callable[[], list[str]]
) -> None:
    pytester.makeconftest(CONFTEST)
    write(extra="experiments: [{name: first}, {name: hangs}, {name: last}]\n")
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "--llem-cpu", "--llem-isolate", "--benchmark-json=out.json"],
        cwd=pytester.path,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        while not ((pytester.path / "pids.txt").exists() and "hangs" in pids(pytester)):
            assert parent.poll() is None
            time.sleep(0.05)
        child = pids(pytester)["hangs"]
        parent.send_signal(signal.SIGINT)
        output, _ = parent.communicate(timeout=60)
    assert parent.returncode == pytest.ExitCode.INTERRUPTED, output
    assert saved_names() == ["first"]
    assert not Path(f"/proc/{child}").exists()


def test_a_child_dies_with_its_parent(pytester: pytest.Pytester, write: Callable[..., Path]) -> None:
    pytester.makeconftest(CONFTEST)
    write(extra="name: hangs\n")
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "--llem-cpu", "--llem-isolate"], cwd=pytester.path, stdout=subprocess.DEVNULL
    ) as parent:
        while not ((pytester.path / "pids.txt").exists() and "hangs" in pids(pytester)):
            assert parent.poll() is None
            time.sleep(0.05)
        child = pids(pytester)["hangs"]
        parent.kill()
    until_s = time.monotonic() + 10
    while (state := process_state(child)) is not None:
        assert time.monotonic() < until_s, state
        time.sleep(0.05)


def test_without_a_device_no_child_is_started(
    pytester: pytest.Pytester, write: Callable[..., Path], run: Callable[..., pytest.RunResult]
) -> None:
    write()
    write("invalid.llem.yaml", "precision: fp7\n", base="model: builtin:tiny-llama\n")
    pytester.makeconftest(
        "import pytest_llem.session.isolation.process as module\ndef refuse(*a, **k): raise AssertionError\n"
        "module.ChildProcess.__init__ = refuse\n"
    )
    result = pytester.runpytest_subprocess("--llem-isolate")
    result.assert_outcomes(skipped=1, errors=1)


def test_an_item_that_a_plugin_runs_again_is_one_item(pytester: pytest.Pytester, write: Callable[..., Path]) -> None:
    """As plugins that rerun what failed do."""
    write("a.llem.yaml", "sweep: {random_seed: [1, 2]}\n")
    pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            for attempt in range(2):
                item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
                runtestprotocol(item, nextitem=nextitem, log=attempt == 1)
                item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
                item._initrequest()
            return True
        """
    )
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-isolate", "--llem-meter=none")
    result.assert_outcomes(passed=2)
