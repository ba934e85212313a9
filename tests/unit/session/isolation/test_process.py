"""Real child processes; what they say is written by hand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pytest_llem.session.isolation.process import ChildProcess, Launch

# In place of pytest: a module that is found first says what a child says.
CHILD = """
import json, os, signal, socket, subprocess, sys, time

parent = socket.socket(fileno=int(sys.argv[1].partition("=")[2]))
lines = parent.makefile("r")
task = json.loads(lines.readline())

def say(**message):
    parent.sendall(json.dumps(message).encode() + b"\\n")

{body}
"""


def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> ChildProcess:
    (tmp_path / "pytest.py").write_text(CHILD.format(body=body))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return ChildProcess(Launch(["--own"], tmp_path), ["a", "b"], shown=False)


def test_messages_arrive_whole_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = start(
        tmp_path, monkeypatch, 'say(nodeids=task["nodeids"], long="x" * 300_000)\nsay(stdin=sys.stdin.read())'
    )
    first = child.receive(None)
    assert first is not None
    assert (first["nodeids"], len(first["long"])) == (["a", "b"], 300_000)
    assert child.receive(None) == {"stdin": ""}
    assert child.receive(None) is None
    assert child.how_it_ended() == "ended with exit status 0"
    child.close()


def test_what_was_said_before_the_end_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = start(tmp_path, monkeypatch, "say(last=1)\nos.kill(os.getpid(), signal.SIGKILL)")
    assert child.how_it_ended() == "was ended by SIGKILL, perhaps by the kernel because memory ran out"
    assert child.receive(None) == {"last": 1}
    assert child.receive(None) is None
    child.close()


def test_its_end_is_noticed_though_a_fork_keeps_the_line_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = start(tmp_path, monkeypatch, "if os.fork() == 0:\n    time.sleep(60)\nos._exit(3)")
    assert child.receive(time.monotonic() + 30) is None
    assert child.how_it_ended() == "ended with exit status 3"
    child.close()


def test_silence_ends_at_the_deadline_and_everything_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = 'say(pid=subprocess.Popen(["sleep", "60"]).pid)\ntime.sleep(60)'
    child = start(tmp_path, monkeypatch, body)
    message = child.receive(None)
    assert message is not None
    with pytest.raises(TimeoutError):
        child.receive(time.monotonic() + 0.1)
    child.close()
    stat = Path(f"/proc/{message['pid']}/stat")
    until_s = time.monotonic() + 10
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_output_is_what_was_written_since_the_item_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = start(
        tmp_path,
        monkeypatch,
        "os.write(1, b'before')\nstart = os.fstat(1).st_size\nos.write(2, b'its own')\nsay(start=start)",
    )
    message = child.receive(None)
    assert message is not None
    assert child.output() == "beforeits own"
    child.begin_item(message["start"])
    assert child.output() == "its own"
    child.close()


def test_a_finished_item_lets_the_child_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = start(tmp_path, monkeypatch, "say(line=lines.readline())")
    child.finish_item()
    assert child.receive(None) == {"line": "{}\n"}
    assert (child.queue, child.served) == (["b"], 1)
    child.close()


def test_nothing_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    child = start(tmp_path, monkeypatch, "")
    assert child.receive(None) is None
    child.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
