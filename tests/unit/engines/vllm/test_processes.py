"""How vLLM's processes are started and ended, with real processes, and what is read of their log."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llem.engines.vllm.failures import not_generated, not_loaded
from pytest_llem.engines.vllm.processes import ProcessLog, identity, interruptible, kill, started, started_by

if TYPE_CHECKING:
    from types import FrameType

LOG = """\
(EngineCore pid=7) WARNING 11-26 23:33:58 [cpu.py:224] Triton is not installed.
(Worker pid=8) WARNING 11-26 23:33:59 [cpu_worker.py:120] libiomp is not found
(Worker pid=8) WARNING 11-26 23:34:59 [cpu_worker.py:120] libiomp is not found
Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00,  8.97it/s]
(Worker pid=8) ERROR 11-26 23:35:00 [multiproc_executor.py:900] Traceback (most recent call last):
(Worker pid=8) ERROR 11-26 23:35:00 [multiproc_executor.py:900]   File "vllm/v1/worker/x.py", line 1, in load
(Worker pid=8) ERROR 11-26 23:35:00 [multiproc_executor.py:900] torch.OutOfMemoryError: CUDA out of memory.
(EngineCore pid=7) ERROR 11-26 23:35:01 [core.py:1] RuntimeError: Engine core initialization failed. See above.
"""

# Spawns a process that says its number, and neither it nor this one ends by itself.
PARENT = """
import multiprocessing, os, sys, time
from pathlib import Path
from pytest_llem.engines.vllm.processes import ProcessLog, started_by

def run():
    Path(sys.argv[1], "pid").write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with started_by(folder, ProcessLog(folder / "log")):
        multiprocessing.get_context("spawn").Process(target=run).start()
    time.sleep(600)
"""


# Holds shared memory, and says its name and the number of the process that tracks it.
HOLDS_MEMORY = """
import sys, time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from pytest_llem.engines.vllm.processes import track_shared_memory

track_shared_memory(Path(sys.argv[1]))
memory = SharedMemory(create=True, size=1)
print(memory.name, resource_tracker._resource_tracker._pid, flush=True)
time.sleep(600)
"""


def say() -> None:
    sys.stdout.write("out\n")
    sys.stderr.write("err\n")


@pytest.fixture
def log(tmp_path: Path) -> ProcessLog:
    written = ProcessLog(tmp_path / "log")
    written.path.write_text(LOG)
    return written


def test_each_warning_is_told_once_with_its_module(log: ProcessLog) -> None:
    assert log.warnings == ["vllm.cpu: Triton is not installed.", "vllm.cpu_worker: libiomp is not found"]


def test_the_cause_is_the_first_exception_that_says_something_itself(log: ProcessLog, tmp_path: Path) -> None:
    assert log.cause == "torch.OutOfMemoryError: CUDA out of memory."
    assert ProcessLog(tmp_path / "empty").cause is None


def test_what_another_process_said_explains_a_failure(log: ProcessLog, tmp_path: Path) -> None:
    vague = RuntimeError("Engine core initialization failed.")
    assert "out of memory while loading" in str(not_loaded(vague, log.cause, {}))
    assert "out of memory in vLLM's engine" in str(not_generated(vague, log.cause, dead=True))
    # Of a call that failed here, an old line of the log says nothing.
    assert "out of memory" not in str(not_generated(ValueError("odd"), log.cause, dead=False))
    empty = ProcessLog(tmp_path / "empty").cause
    assert str(not_loaded(ValueError("odd"), empty, {})) == "could not be loaded: ValueError: odd"
    silent = "vLLM's engine process ended, perhaps killed, without saying why"
    assert str(not_loaded(vague, empty, {})) == f"could not be loaded: {silent}"
    assert str(not_generated(vague, empty, dead=True)).startswith(silent)


def test_a_worker_that_was_killed_is_the_cause_of_what_its_engine_raises(log: ProcessLog) -> None:
    killed = "Worker proc VllmWorker-0 died unexpectedly (exit code: -9)"
    log.path.write_text(
        f"(EngineCore pid=7) ERROR 11-27 01:36:22 [multiproc_executor.py:315] {killed}, shutting down executor.\n"
        "(EngineCore pid=7) ERROR 11-27 01:36:22 [core.py:1512] RuntimeError: cancelled\n"
    )
    assert log.cause == killed
    # One that ends with its engine.
    log.path.write_text(log.text().replace("-9", "0"))
    assert log.cause == "RuntimeError: cancelled"


def test_what_is_spawned_writes_to_the_log_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = ProcessLog(tmp_path / "it's a log")
    with started_by(tmp_path, log):
        process = multiprocessing.get_context("spawn").Process(target=say)
        process.start()
    process.join()
    assert process.exitcode == 0
    assert sorted(log.text().split()) == ["err", "out"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_comes_through_what_catches_it(number: signal.Signals) -> None:
    def handle(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt("SIGNAL")

    before = signal.signal(number, handle)
    try:
        with pytest.raises(KeyboardInterrupt, match="SIGNAL"), interruptible(), suppress(KeyboardInterrupt, Exception):
            # As vLLM does, where it waits for its engine.
            signal.raise_signal(number)
        assert signal.getsignal(number) is handle
    finally:
        signal.signal(number, before)


@pytest.mark.processes
def test_what_is_spawned_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script, number = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script, tmp_path]) as parent:
        while not number.exists() or not number.read_text():
            assert parent.poll() is None
            time.sleep(0.01)
        child = int(number.read_text())
        handle = os.pidfd_open(child)
        assert child in started()
        parent.kill()
    # Readable once the process has ended.
    assert select.select([handle], [], [], 30)[0]
    os.close(handle)


@pytest.mark.processes
def test_shared_memory_is_removed_even_if_the_whole_group_is_killed(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", HOLDS_MEMORY, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True) as holder:
        assert holder.stdout is not None
        name, tracker = holder.stdout.readline().split()
        memory, handle = Path("/dev/shm", name), os.pidfd_open(int(tracker))  # noqa: S108  (where it lies)
        assert memory.exists()
        until_s = time.monotonic() + 10
        while os.getpgid(int(tracker)) == holder.pid and time.monotonic() < until_s:
            time.sleep(0.01)
        os.killpg(holder.pid, signal.SIGKILL)
    # Readable once the process has ended.
    assert select.select([handle], [], [], 30)[0]
    os.close(handle)
    assert not memory.exists()


def test_a_process_that_has_got_the_number_of_another_one_is_left_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        kill({process.pid: "1"})
        kill({process.pid: identity(process.pid)})
        assert process.wait() == -signal.SIGKILL
    kill({process.pid: identity(process.pid) or "1"})
