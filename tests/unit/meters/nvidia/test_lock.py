"""Locks of boards, between real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters import open_meter
from pytest_llem.meters.nvidia import lock
from pytest_llem.meters.nvidia.lock import BoardLocks, lock_visible_boards
from tests.simulators import SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLD = """
import sys, time
from pytest_llem.meters.nvidia.lock import BoardLocks
locks = BoardLocks(sys.argv[1].split(","))
print("held", flush=True)
time.sleep(60)
"""
TRY = """
from pytest_llem.meters.nvidia.lock import BoardLocks, family_root
from pytest_llem.errors import MeterUnavailableError
try:
    BoardLocks(["GPU-a"], timeout_s=0)
except MeterUnavailableError as error:
    print(error)
else:
    print("free", family_root())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTEST_LLEM_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    # As in a process that was not started by one that measures.
    monkeypatch.setenv("PYTEST_LLEM_LOCK_TOKENS", "")
    monkeypatch.setattr(lock, "_token", None)
    return tmp_path / "locks"


@contextmanager
def holder(uuids: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the locks of these boards."""
    command = [sys.executable, "-c", HOLD, uuids]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def tried(environment: dict[str, str] | None = None) -> str:
    """What a process says that asks for the lock of GPU-a."""
    done = subprocess.run(
        [sys.executable, "-c", TRY],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_board_in_use_is_waited_for_and_the_holder_is_named() -> None:
    said: list[str] = []
    with holder("GPU-a") as process:
        with pytest.raises(MeterUnavailableError, match=rf"GPU-a is still in use by PID {process.pid} after 0.3 s"):
            BoardLocks(["GPU-a"], say=said.append, timeout_s=0.3)
        BoardLocks(["GPU-b"], say=said.append, timeout_s=0).release()
    assert said == [f"waiting for GPU GPU-a: in use by PID {process.pid}"]


def test_waiting_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_REPEAT_S", 0.1)
    said: list[str] = []
    with holder("GPU-a"), pytest.raises(MeterUnavailableError):
        BoardLocks(["GPU-a"], say=said.append, timeout_s=0.35)
    assert len(said) > 2


def test_the_lock_of_a_dead_process_is_free() -> None:
    with holder("GPU-a") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        said: list[str] = []
        BoardLocks(["GPU-a"], say=said.append, timeout_s=0).release()
        assert said == []


def test_who_waits_goes_on_when_the_holder_ends() -> None:
    with holder("GPU-a") as process:
        said: list[str] = []

        def say(message: str) -> None:
            said.append(message)
            process.kill()

        BoardLocks(["GPU-a"], say=say, timeout_s=30).release()
    assert len(said) == 1


def test_a_lock_is_taken_again_in_its_process_and_free_after_the_last_release() -> None:
    first, second = BoardLocks(["GPU-a"]), BoardLocks(["GPU-a", "GPU-b"])
    first.release()
    first.release()
    stranger = {"PYTEST_LLEM_LOCK_TOKENS": ""}
    assert f"in use by PID {os.getpid()}" in tried(stranger)
    second.release()
    assert tried(stranger).startswith("free")


def test_children_work_under_the_lock_of_their_parent_and_strangers_do_not() -> None:
    locks = BoardLocks(["GPU-a"])
    assert tried() == f"free {os.getpid()}"
    assert "in use by" in tried({"PYTEST_LLEM_LOCK_TOKENS": f"{os.getpid()}.guessed"})
    locks.release()


SIBLING = """
import sys
from pytest_llem.meters.nvidia import processes
from pytest_llem.meters.nvidia.lock import BoardLocks, family_root
hidden, device = sys.argv[1:]
if hidden == "host":
    processes._HOST_PIDS = str((processes.PROC / "self/ns/pid").readlink())
else:
    processes._HOST_PIDS = "of another namespace"
processes._CUDA_DEVICE = device
cuda = open(device)
locks = BoardLocks(["GPU-a"], timeout_s=0)
print("ready", flush=True)
listed = [int(pid) for pid in input().split()]
print(processes.foreign_pids(listed, family_root()), flush=True)
input()
"""


@pytest.mark.parametrize("where", ["host", "container"])
def test_children_of_the_holder_share_its_boards_and_are_not_foreign_to_each_other(where: str, tmp_path: Path) -> None:
    """Two processes that measure by turns, while the one that started both holds the lock."""
    device = tmp_path / "nvidia-uvm"
    device.touch()
    locks = BoardLocks(["GPU-a"])
    with ExitStack() as stack:
        siblings = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", SIBLING, where, str(device)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(2)
        ]
        said = [_say(sibling, "") for sibling in siblings]
        listed = [sibling.pid for sibling in siblings] if where == "host" else [4_000_001, 4_000_002]
        said += [_say(sibling, f"{listed[0]} {listed[1]}\n") for sibling in siblings]
        for sibling in siblings:
            sibling.communicate("\n")
    locks.release()
    assert said == ["ready", "ready", "[]", "[]"]


def _say(process: subprocess.Popen[str], line: str) -> str:
    """Say a line to a process, and return the next one of its own."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_boards_are_locked_in_one_order_whatever_was_asked() -> None:
    # Who waits for the first board must not hold the second, which the holder of the first may want next.
    said: list[str] = []
    with holder("GPU-0"), pytest.raises(MeterUnavailableError, match="GPU-0"):
        BoardLocks(
            ["GPU-a", "GPU-0"],
            say=lambda _: said.append(tried({"PYTEST_LLEM_LOCK_TOKENS": ""})),
            timeout_s=0.2,
        )
    assert [words.partition(" ")[0] for words in said] == ["free"]


def test_every_user_may_add_and_open_locks(folder: Path) -> None:
    BoardLocks(["GPU-a"]).release()
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "GPU-a.lock": 0o666,
        "GPU-a.owner": 0o666,
    }


def test_a_link_in_the_place_of_a_lock_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (tmp_path / "precious").write_text("content")
    (folder / "GPU-a.owner").symlink_to(tmp_path / "precious")
    with pytest.raises(MeterUnavailableError, match="PYTEST_LLEM_LOCK_DIR"):
        BoardLocks(["GPU-a"])
    assert (tmp_path / "precious").read_text() == "content"
    (folder / "GPU-a.owner").unlink()
    assert tried({"PYTEST_LLEM_LOCK_TOKENS": ""}).startswith("free")


def test_an_nvml_meter_holds_its_boards_until_it_is_closed() -> None:
    clock = SimulatedClock()
    stranger = {"PYTEST_LLEM_LOCK_TOKENS": ""}
    with install([SimulatedBoard(uuid="GPU-a")], clock):
        meter = open_meter("nvml", clock=clock)
        assert "in use by" in tried(stranger)
        meter.close()
        meter.close()
        assert tried(stranger).startswith("free")
        with holder("GPU-a"):
            with pytest.raises(MeterUnavailableError, match="still in use"):
                open_meter("nvml", clock=clock, lock_timeout_s=0)
            open_meter("nvml", clock=clock, lock_timeout_s=None).close()


def test_a_meter_that_cannot_be_opened_leaves_no_lock() -> None:
    boards = [SimulatedBoard(uuid="GPU-a", mig_mode=1, mig_uuids=["MIG-1"])]
    with install(boards), pytest.raises(MeterUnavailableError):
        open_meter("nvml")
    assert tried({"PYTEST_LLEM_LOCK_TOKENS": ""}).startswith("free")


def test_visible_boards_and_slices_are_locked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with install([SimulatedBoard(uuid="GPU-a"), SimulatedBoard(uuid="GPU-b")]):
        locks = lock_visible_boards()
    assert locks is not None
    assert locks.uuids == ("GPU-b",)
    locks.release()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    slices = lock_visible_boards()
    assert slices is not None
    assert slices.uuids == ("MIG-1",)
    slices.release()
