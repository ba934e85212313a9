"""CPU time of processes that this one has started, with real ones: they say themselves how much they have used."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_llem.descendants import descendants
from pytest_llem.meters.base import SystemClock
from pytest_llem.meters.cpu_time import cpu_s_of_descendants

if TYPE_CHECKING:
    from collections.abc import Iterator

# Works for as long as each line of its input says, and writes down what it has used by then. With an argument it lets
# a child of its own do the work.
WORKER = """
import subprocess, sys, time
if len(sys.argv) > 1:
    sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode)
for line in sys.stdin:
    until_s = time.process_time() + float(line)
    while time.process_time() < until_s:
        pass
    print(time.process_time(), flush=True)
"""


@pytest.fixture(params=["child", "grandchild"])
def worker(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    arguments = [WORKER] if request.param == "grandchild" else []
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def work(process: subprocess.Popen[str], seconds: float) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def test_what_a_process_works_counts_while_it_runs_and_once_it_has_ended(worker: subprocess.Popen[str]) -> None:
    started_s = cpu_s_of_descendants()
    used_s = work(worker, 0.0)
    before_s = cpu_s_of_descendants()
    own_s = SystemClock().cpu_s()
    more_s = work(worker, 0.1) - used_s
    after_s = cpu_s_of_descendants()
    # It waits for its input meanwhile, so all that it does is what it says, and a little to say it.
    assert after_s - before_s == pytest.approx(more_s, abs=0.02)
    assert SystemClock().cpu_s() - own_s >= more_s - 0.02
    worker.communicate()
    # Its end takes some, too; the kernel counts that of the grandchild in hundredths of a second.
    assert cpu_s_of_descendants() - started_s >= after_s - started_s - 0.03


@pytest.mark.parametrize("listed", [True, False])
def test_descendants_are_those_that_still_run(
    worker: subprocess.Popen[str], listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not listed:  # as by a kernel that does not list them
        monkeypatch.setattr("pytest_llem.descendants._lacks_lists", lambda _: True)
    work(worker, 0.0)
    found = descendants(os.getpid())
    assert worker.pid in found
    assert sorted(found) == sorted(set(found))
    worker.communicate()
    assert worker.pid not in descendants(os.getpid())


def test_a_process_without_children_reads_its_own_clock_as_finely_as_before() -> None:
    code = (
        "import time; from pytest_llem.meters.base import SystemClock; clock = SystemClock();"
        "before = time.process_time(); read = clock.cpu_s(); print(before <= read <= time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
