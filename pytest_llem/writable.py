"""Whether a file can be written, found out before anything is measured."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def require_writable(path: Path) -> None:
    """Find out whether a file can be written, and leave it as it is.

    Raises:
        OSError: it cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
    else:
        # Under another name: an empty journal would take the place of one that another session begins meanwhile.
        trial = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        trial.unlink()


def require_replaceable(path: Path) -> None:
    """:func:`require_writable`, and whether another file can be put beside it, to take its place in one step.

    Raises:
        OSError: one of them cannot, or the file is a device or the like, whose place no file may take.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    require_writable(path)
    require_writable(path.with_name(f"{path.name}.new"))
