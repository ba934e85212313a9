"""The ranks of a model, seen from the process that measures: how they are started, asked and ended."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.descendants import descendants, how_it_ended
from pytest_llem.engines.folder import EngineFolder
from pytest_llem.errors import LlemError, LoadError, MeasurementError

if TYPE_CHECKING:
    from collections.abc import Sequence

ADDRESS, TOKEN = "LLEM_RANKS_ADDRESS", "LLEM_RANKS_TOKEN"
"""Environment variables: where the measuring process listens, and what it wants to hear first."""

UNNAMED = "@"
"""Stands there for the zero with which Linux' names beside the file system begin."""

_LAUNCHER = "pytest_llem.engines.transformers.parallel.launcher"
_LOOK_S = 0.2
# How long the launcher may take to say which rank failed, and ranks to answer once another one has failed: those that
# meet it in a collective operation never do.
_REPORT_S = 5.0
_OTHERS_S = 10.0
_ENDED_S = 5.0
_SHOWN_CHARS = 20_000


class RankGroup:
    """N processes of torch's elastic launcher, in a session of their own, and a line to each.

    They end when this process does, or closes the lines.
    """

    def __init__(self, ranks: int, device: str) -> None:
        """Start them.

        Args:
            device: ``cuda`` or ``cpu``, where they find no GPU.

        Raises:
            LoadError: one of them ended.
        """
        self._folder = EngineFolder()
        folder = self._folder.path
        self._report = folder / "failed.json"
        self._log = self._folder.log
        self._lines: dict[int, Connection] = {}
        self._pids: dict[int, int] = {}
        token = secrets.token_hex(16)
        with socket.socket(socket.AF_UNIX) as listening:
            # A folder's name may be too long for a socket.
            unnamed = sys.platform == "linux"
            address = f"{UNNAMED}llem-{secrets.token_hex(8)}" if unnamed else str(folder / "ranks")
            listening.bind("\0" + address[1:] if unnamed else address)
            listening.listen()
            listening.settimeout(_LOOK_S)
            environment = _environment(ranks, device) | {ADDRESS: address, TOKEN: token}
            with self._log.open("wb") as log:
                self._launcher = subprocess.Popen(  # noqa: S603  (our own module)
                    [sys.executable, "-P", "-m", _LAUNCHER, str(ranks), str(self._report)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # The terminal's Ctrl-C is for this process.
                    start_new_session=True,
                )
            try:
                while len(self._lines) < ranks:
                    self._accept(listening, token)
            except BaseException:
                self.close(show=True)
                raise

    def ask(self, method: str, *arguments: Any, until_s: float | None = None) -> list[Any]:
        """Let all ranks run a method of :class:`pytest_llem.engines.transformers.rank.Rank`.

        Args:
            until_s: how long they may take, on the monotonic clock; ``None``: until they answer or end.

        Returns:
            what each returned, in their order, once all have.

        Raises:
            LlemError: what one of them raised.
            RankLostError: one ended, or some did not answer in time: the group is closed.
        """
        waiting = {line: rank for rank, line in self._lines.items()}
        answers: dict[int, Any] = {}
        failure: LlemError | None = None
        try:
            for line in self._lines.values():
                line.send((method, arguments))
            while waiting:
                ready = wait(list(waiting), None if until_s is None else max(until_s - time.monotonic(), 0.0))
                if not ready:
                    break
                for line in [line for line in waiting if line in ready]:
                    answer = answers[waiting.pop(line)] = line.recv()
                    if isinstance(answer, LlemError) and failure is None:
                        failure = answer
                        others_until_s = time.monotonic() + _OTHERS_S
                        until_s = others_until_s if until_s is None else min(until_s, others_until_s)
        except (EOFError, OSError) as exc:
            lost = failure or MeasurementError(self._how_it_ended())
            self.close(show=True)
            raise RankLostError(lost) from exc
        except BaseException:
            # What they are doing would be the answer to the next question.
            self.close()
            raise
        if waiting:
            names = " and ".join(str(rank) for rank in sorted(waiting.values()))
            self.close(show=True)
            raise RankLostError(failure or _late(names))
        if failure is not None:
            raise failure
        return [answers[rank] for rank in sorted(answers)]

    @property
    def pids(self) -> Sequence[int]:
        """PIDs of the ranks, in their order."""
        return [self._pids[rank] for rank in sorted(self._pids)]

    def close(self, *, show: bool = False) -> None:
        """End all of them. Closing twice is harmless.

        Args:
            show: write out what they have written, which pytest shows with a failure.
        """
        for line in self._lines.values():
            line.close()
        with suppress(subprocess.TimeoutExpired):
            self._launcher.wait(_ENDED_S)
        if self._launcher.returncode is None:
            # Nobody else waits for those that have ended, so their numbers are not another's before they are killed.
            for pid in (*descendants(self._launcher.pid), self._launcher.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._launcher.wait()
        self._pids.clear()
        if show and self._log.exists():
            sys.stderr.write(self._log.read_text(encoding="utf-8", errors="replace")[-_SHOWN_CHARS:])
        self._folder.remove()

    def _accept(self, listening: socket.socket, token: str) -> None:
        try:
            accepted, _ = listening.accept()
        except TimeoutError:
            if self._launcher.poll() is not None:
                raise LoadError(self._how_it_ended()) from None
            return
        accepted.setblocking(True)
        line = Connection(accepted.detach())
        try:
            # Before anything is unpickled.
            if line.recv_bytes(len(token)) == token.encode():
                rank, pid = line.recv()
                self._lines[rank], self._pids[rank] = line, pid
                return
        except (EOFError, OSError):
            # Not a rank, or one that has ended, as the launcher's own end will tell.
            pass
        line.close()

    def _how_it_ended(self) -> str:
        """Which rank failed first, as the launcher says."""
        with suppress(subprocess.TimeoutExpired):
            self._launcher.wait(_REPORT_S)
        if not self._report.exists():
            return "the processes that share the model could not be started, or ended without saying why"
        failed = json.loads(self._report.read_text(encoding="utf-8"))
        return f"rank {failed['rank']} (PID {failed['pid']}) {how_it_ended(failed['code'])}"


class RankLostError(Exception):
    """A group that is closed.

    Attributes:
        error: why, for the user.
    """

    def __init__(self, error: LlemError) -> None:
        super().__init__(str(error))
        self.error = error


def _late(ranks: str) -> MeasurementError:
    return MeasurementError(f"passed, and rank {ranks} had not answered", field="timeout_s")


def _environment(ranks: int, device: str) -> dict[str, str]:
    threads = max(torch.get_num_threads() // ranks, 1)
    # pytest puts test folders in front, where a file json.py harms nobody who has imported the standard library's.
    standard = Path(os.__file__).parent
    path = sorted(filter(None, sys.path), key=lambda folder: Path(folder) not in (standard, standard / "lib-dynload"))
    environment = {
        # The launcher's own default is a single thread.
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",
    }
    if device == "cpu":
        # transformers takes a GPU wherever it sees one.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment
