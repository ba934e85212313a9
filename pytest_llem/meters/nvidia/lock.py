"""One session per board: it holds the lock of each GPU that it measures, and the next session waits.

The joules of a board are those of everything that runs on it, so two sessions on one board would disturb each other.
The locks are files that the operating system locks (``flock``): that of a process which died, however it died, is free
at once. They lie in a folder of the machine that all its users may write, ``/tmp/pytest-llem-locks``; containers that
share a board share that folder by mounting it, or another one that ``PYTEST_LLEM_LOCK_DIR`` names in each of them.

A process that the holder starts (a fresh process for a further run, the child of an isolated experiment, a user's own)
works under the holder's lock: it finds the holder's token in its environment and beside the lock that is held.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters.nvidia.processes import descends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FOLDER_VARIABLE = "PYTEST_LLEM_LOCK_DIR"
LOCK_TIMEOUT_S = 3600.0
"""How long a board in use is waited for by default, in seconds."""

_TOKENS_VARIABLE = "PYTEST_LLEM_LOCK_TOKENS"
_REPEAT_S = 60.0  # between two messages
_POLL_S = 0.2
_EVERYONE = 0o666


def say_on_stderr(message: str) -> None:
    """Write a message to the standard error: the default of ``say``."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


class BoardLocks:
    """The locks of some boards, held until :meth:`release`. Within a process they can be taken again."""

    def __init__(
        self,
        uuids: Iterable[str],
        *,
        say: Callable[[str], None] = say_on_stderr,
        timeout_s: float = LOCK_TIMEOUT_S,
    ) -> None:
        """Wait until the boards are free, and take them.

        Args:
            uuids: of the boards, as NVML spells them.
            say: called with a message that names the process waited for, at once and then every minute.
            timeout_s: how long to wait for each board, in seconds.

        Raises:
            MeterUnavailableError: a board stayed in use, or the folder of the locks cannot be used.
        """
        self.uuids = tuple(sorted(set(uuids)))
        with ExitStack() as stack:
            # In one order everywhere, so that two sessions never wait for each other.
            for uuid in self.uuids:
                try:
                    _hold(stack, uuid, say, timeout_s)
                except OSError as error:
                    raise MeterUnavailableError(
                        f"GPU {uuid}: its lock in {folder()} cannot be used: {error}; name a folder that all sessions "
                        f"on this machine can write in {FOLDER_VARIABLE}"
                    ) from error
            self._held = stack.pop_all()

    def release(self) -> None:
        """Unlock the boards. Releasing twice is harmless."""
        self._held.close()


def lock_visible_boards(
    *, say: Callable[[str], None] = say_on_stderr, timeout_s: float = LOCK_TIMEOUT_S
) -> BoardLocks | None:
    """Lock what ``CUDA_VISIBLE_DEVICES`` leaves to this process: boards, or MIG slices, which have locks of their own.

    Returns:
        ``None`` where NVML does not work, so that the boards' UUIDs are not known.

    Raises:
        MeterUnavailableError: see :class:`BoardLocks`.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if named.strip().startswith("MIG-"):
        return BoardLocks((entry.strip() for entry in named.split(",")), say=say, timeout_s=timeout_s)
    from pytest_llem.meters.nvidia.library import visible_boards

    try:
        uuids = [board.uuid for board in visible_boards()]
    except MeterUnavailableError:
        return None
    return BoardLocks(uuids, say=say, timeout_s=timeout_s)


def family_root() -> int:
    """PID of the process whose locks this one works under: its own, or that of an ancestor that measures too.

    What that process and its descendants do on a board is not foreign to this one.
    """
    tokens = _inherited_tokens()
    own = os.getpid()
    pid = int(tokens[0].partition(".")[0]) if tokens else own
    return pid if descends(own, pid) else own


def folder() -> Path:
    """Where the locks of this machine are."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    # Not gettempdir() alone: TMPDIR differs between users and jobs of one machine.
    shared = Path("/tmp")  # noqa: S108  (the files are opened without following links, and hold nothing secret)
    return (shared if shared.is_dir() else Path(tempfile.gettempdir())) / "pytest-llem-locks"


def _hold(stack: ExitStack, uuid: str, say: Callable[[str], None], timeout_s: float) -> None:
    path = folder() / f"{uuid}.lock"
    _make_folder(path.parent)
    # One object a path in this process: taken twice, it is held until it was released twice.
    lock = FileLock(path, mode=_EVERYONE, thread_local=False, is_singleton=True)
    deadline_s = time.monotonic() + timeout_s
    wait_s = 0.0  # the first look does not wait, so that a session that has to wait says so at once
    while True:
        try:
            lock.acquire(timeout=wait_s, poll_interval=_POLL_S)
        except Timeout:
            owner, token = _read_owner(path)
        else:
            break
        if token in _inherited_tokens():
            return
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise MeterUnavailableError(
                f"GPU {uuid} is still in use by {owner} after {timeout_s:g} s; end that process, or wait longer with "
                "--llem-lock-timeout SECONDS, outside pytest with lock_timeout_s"
            )
        say(f"waiting for GPU {uuid}: in use by {owner}")
        wait_s = min(_REPEAT_S, left_s)
    stack.callback(lock.release)
    if lock.lock_counter == 1:
        _write_owner(path)


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    # Every user adds files, and nobody removes another's: the mode of /tmp. Only its owner may set it.
    with suppress(PermissionError):
        path.chmod(0o1777)


def _read_owner(lock: Path) -> tuple[str, str]:
    """What to call the process that holds a lock, and its token; from a file of its own: opening a lock empties it."""
    try:
        pid, token = lock.with_suffix(".owner").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return "another process", ""
    return f"PID {pid}", token


def _write_owner(lock: Path) -> None:
    path = lock.with_suffix(".owner")
    # Linux refuses O_CREAT on another user's file in a folder like /tmp, and with O_NOFOLLOW follows no link.
    create = 0 if path.exists() else os.O_CREAT
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | create, _EVERYONE), "w") as file:
        file.write(f"{os.getpid()} {_own_token()}")
        with suppress(PermissionError):  # another user's file, which is open to everyone already
            os.fchmod(file.fileno(), _EVERYONE)


def _inherited_tokens() -> list[str]:
    return os.environ.get(_TOKENS_VARIABLE, "").split()


def _own_token() -> str:
    """This process's token, which the processes that it starts find in their environment."""
    global _token  # one a process: its children inherit one environment
    pid = os.getpid()
    if _token is None or _token[0] != pid:  # a forked process is another one
        _token = (pid, f"{pid}.{secrets.token_hex(8)}")
        os.environ[_TOKENS_VARIABLE] = " ".join([*_inherited_tokens(), _token[1]])
    return _token[1]


_token: tuple[int, str] | None = None
