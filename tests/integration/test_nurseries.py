"""Isolated children come from a process that has imported everything; what they say of themselves shows it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_isolation import process_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.processes

# Each process that runs an item says who it is, with what Python and numpy draw when they start.
CONFTEST = """
import json, os, random, signal, sys

import pytest

from pytest_llem.engines import BUILT_IN

@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    # After the plugin of the simulated engine, which the module of this one knows how to import.
    BUILT_IN["pytorch"] = "own_engine:FakeEngine"

def note(name, **facts):
    with open("processes.jsonl", "a") as file:
        file.write(json.dumps({"name": name, "pid": os.getpid(), "parent": os.getppid(), **facts}) + "\\n")

def kill_the_nursery():
    with open("killed", "x"):
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    import numpy
    note(
        item.name, hash=hash("a"), drawn=[random.random(), numpy.random.random()],
        threads=os.environ.get("OMP_NUM_THREADS"), arguments=sys.argv[2:], folder=os.getcwd(),
    )
    if "kills" in item.name and not os.path.exists("killed"):
        kill_the_nursery()
"""
ENGINE = "import os, numpy.random\nfrom tests.simulators.engine import FakeEngine\n"
NOTES_ITS_IMPORT = ENGINE + "open('imports.txt', 'a').write(f'{os.getpid()}\\n')\n"
LINE = "llem: fresh processes cannot be forked from one that has imported all (*): each imports for itself"


@pytest.fixture
def isolated(
    pytester: pytest.Pytester, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.RunResult]:
    """Run two loads of an engine in children, the first by the name of ``first``."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)

    def run(engine: str = NOTES_ITS_IMPORT, conftest: str = "", first: str = "first") -> pytest.RunResult:
        pytester.makeconftest(CONFTEST + conftest)
        pytester.makepyfile(own_engine=engine)
        write("a.llem.yaml", f"name: {first}\nrandom_seed: 1\n")
        write("b.llem.yaml", "name: second\nrandom_seed: 2\n")
        return pytester.runpytest_subprocess("--llem-cpu", "--llem-isolate", "--llem-meter=none")

    return run


@pytest.fixture
def processes(pytester: pytest.Pytester) -> Callable[[], list[dict[str, Any]]]:
    """What the processes that ran items said, in order."""

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (pytester.path / "processes.jsonl").read_text().splitlines()]

    return read


def test_children_import_no_engine_and_are_otherwise_fresh(
    pytester: pytest.Pytester,
    isolated: Callable[..., pytest.RunResult],
    processes: Callable[[], list[dict[str, Any]]],
) -> None:
    result = isolated()
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*cannot be forked*")
    first, second = processes()
    assert first["parent"] == second["parent"]
    assert (pytester.path / "imports.txt").read_text().split() == [str(first["parent"])]
    assert first["pid"] != second["pid"]
    assert not set(first["drawn"]) & set(second["drawn"])
    assert first["hash"] == second["hash"]  # which is why a verdict's further runs come from elsewhere
    assert first["folder"] == str(pytester.path)
    assert first["arguments"][-3:] == ["--llem-cpu", "--llem-isolate", "--llem-meter=none"]
    assert {process_state(pid) for pid in (first["pid"], second["pid"], first["parent"])} == {None}


@pytest.mark.parametrize(
    ("first", "conftest", "times"),
    [
        ("kills", "", 2),
        ("first", "def pytest_unconfigure():\n    if 'child' in str(sys.argv) or 'nursery' in str(sys.argv):\n"
         "        os.path.exists('killed') or kill_the_nursery()\n", 1),
    ],
    ids=["while-a-child-runs", "between-children"],
)  # fmt: skip
def test_a_nursery_that_is_killed_costs_a_line(
    isolated: Callable[..., pytest.RunResult],
    processes: Callable[[], list[dict[str, Any]]],
    first: str,
    conftest: str,
    times: int,
) -> None:
    result = isolated(first=first, conftest=conftest)
    result.assert_outcomes(passed=2)
    lines = [line for line in result.outlines if "cannot be forked" in line]
    assert len(lines) == 1
    assert "it was ended by SIGKILL" in lines[0]
    assert [said["name"] for said in processes()] == [first] * times + ["second"]
    assert len({said["parent"] for said in processes()}) == 2


@pytest.mark.parametrize(
    ("body", "why", "outcomes"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n",
         "after its imports 2 threads run (*), which do not survive a fork", {"passed": 2}),
        # Its standard input: no machine of the tests has a board.
        ("from pytest_llem.session.isolation import forks\nforks._ACCELERATORS = ('/dev/null',)\n",
         "its imports opened /dev/null, which does not survive a fork", {"passed": 2}),
        ("raise OSError('no library')\n", "own_engine cannot be imported: OSError: no library", {"skipped": 2}),
        ("os._exit(5)\n", "it ended with exit status 5", {"errors": 2}),
    ],
    ids=["threads", "device", "raises", "exits"],
)  # fmt: skip
def test_what_cannot_be_forked_is_started_anew(
    isolated: Callable[..., pytest.RunResult],
    body: str,
    why: str,
    outcomes: dict[str, int],
) -> None:
    result = isolated(ENGINE + body)
    result.assert_outcomes(**outcomes)
    assert sum("cannot be forked" in line for line in result.outlines) == 1
    result.stdout.fnmatch_lines([LINE.replace("*", why)])


def test_another_environment_is_imported_in(
    isolated: Callable[..., pytest.RunResult], processes: Callable[[], list[dict[str, Any]]]
) -> None:
    """Libraries read it when they are imported."""
    result = isolated(
        conftest="def pytest_runtest_logfinish():\n"
        "    if 'child' not in str(sys.argv) and 'nursery' not in str(sys.argv):\n"
        "        os.environ['OMP_NUM_THREADS'] = '7'\n"
    )
    result.assert_outcomes(passed=2)
    first, second = processes()
    assert (first["threads"], second["threads"]) == ("1", "7")
    assert first["parent"] != second["parent"]
