"""What the user wrote after ``--llem-against``: a git revision, an interpreter, or both."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

# Before a path alone, because revisions have an @ too: main@{1}, @~2, v1@beta.
_SEPARATOR = re.compile(r"@(?=/|\.{1,2}/|~(?![\d~^]*$))")


@dataclass(frozen=True)
class What:
    """The other side of a comparison.

    Attributes:
        text: what the user wrote.
        rev: a git revision; ``None`` for the code of this side.
        python: an interpreter, absolute; ``None`` for that of this side.
    """

    text: str
    rev: str | None
    python: Path | None


def parse_what(text: str, folder: Path) -> What:
    """Read ``REV``, ``@PYTHON`` or ``REV@PYTHON``.

    Args:
        folder: what a relative path starts from.

    Raises:
        pytest.UsageError: it names nothing, or an interpreter that is not there or cannot be executed.
    """
    separator = _SEPARATOR.search(text)
    rev, path = (text, None) if separator is None else (text[: separator.start()], text[separator.end() :])
    if not text.strip():
        raise pytest.UsageError("--llem-against: name a git revision, @PYTHON, or REV@PYTHON")
    return What(text, rev or None, None if path is None else _interpreter(path, folder))


def _interpreter(text: str, folder: Path) -> Path:
    """The interpreter at a path, or of the virtual environment there. A link is not followed: it is how an interpreter
    knows its virtual environment."""
    try:
        path = Path(os.path.normpath(folder / Path(text).expanduser()))
        if path.is_dir():
            path = path / "bin" / "python"
        exists = path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, or the home folder of nobody
        exists, path = False, Path(text)
    if not exists:
        raise pytest.UsageError(f"--llem-against: there is no interpreter {path}")
    if not os.access(path, os.X_OK):
        raise pytest.UsageError(f"--llem-against: {path} is not executable")
    return path
