"""The folder of an engine that has processes of its own: their log, what they are started with, and random weights
until they are read.

It is locked (``flock``) while its process lives: that of a process which was killed is free, and the next engine
removes it, which may be as large as a model.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "pytest-llem-engine-"
_LOG = "log"


class EngineFolder:
    """A new folder among the temporary ones.

    Attributes:
        path: of the folder.
        log: path of what its engine writes.
    """

    def __init__(self) -> None:
        _remove_stale(Path(tempfile.gettempdir()))
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
        self.path = Path(self._folder.name)
        self._lock = _lock(self.path)
        self.log = self.path / _LOG
        # Only now may anybody take it for one that a process left: it is locked.
        self.log.touch()

    def remove(self) -> None:
        """Remove it with all that is in it. Removing twice is harmless."""
        self._folder.cleanup()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove_stale(folder: Path) -> None:
    for log in folder.glob(f"{_PREFIX}*/{_LOG}"):
        lock = _lock(log.parent)
        if lock is not None:
            shutil.rmtree(log.parent, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """An open file that holds the lock of ``folder``; ``None`` where another process holds it, or there are none."""
    with suppress(OSError):
        # Nobody is led elsewhere by a link.
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise
        return file
    return None
